"""What a view has begun is gone with its request, whatever the view answers."""

import importlib.metadata
import time

import gevent
import pytest
from flask import Flask, Response, request

from ssestream import ServerResponse, SseStream
from tests.kit.visit import Visit, on_threads_and_greenlets, until
from tests.servers.apps.refused import BEGINS, SENT, WAYS, make_app, nothing_is_left

FLASK = tuple(int(number) for number in importlib.metadata.version("flask").split(".")[:3])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("close", [True, False], ids=["closed", "unclosed"])
def test_nothing_is_left_of_what_a_test_client_was_refused(way: str, close: bool) -> None:
    app = make_app()
    for begin in BEGINS:
        response = app.test_client().get(f"/{way}", query_string={"begin": begin})
        if close:
            response.close()
        elif way in ("iterator", "ended"):  # only their end says that they have none
            response.get_data()
            response.close()
    nothing_is_left(lambda: app.test_client().get("/left").json, len(BEGINS))


@pytest.mark.parametrize("begin", BEGINS)
def test_nothing_is_left_where_an_exception_leaves_the_app(begin: str) -> None:
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ValueError, match="of the view"):
        app.test_client().get("/raise", query_string={"begin": begin})
    nothing_is_left(lambda: app.test_client().get("/left").json, 1)


@on_threads_and_greenlets
@pytest.mark.parametrize("way", SENT)
def test_what_is_sent_is_sent_to_its_end(way: str) -> None:
    with Visit(make_app(), f"/sent/{way}") as visit:
        visit.read_to_end()
        assert visit.body == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"


@on_threads_and_greenlets
def test_a_source_begins_when_the_request_was_torn_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", gevent.sleep)  # a teardown waits, as for a database
    app = make_app()
    for _ in range(5):
        with Visit(app, "/torn-down") as visit:
            visit.read_to_end()
            assert visit.body == b":ok\n\ndata: 1\n\n"
        if FLASK < (3, 1, 2):  # in which a generator's context is that of its view alone
            continue
        with Visit(app, "/with-context?name=ann") as visit:
            visit.read_to_end()
            assert visit.body == b":ok\n\n" + b"data: ann\n\n" * 3


def test_what_a_view_keeps_is_not_for_another_request() -> None:
    app = make_app()
    app.test_client().get("/kept?begin=subscribe")
    said = app.test_client().get("/late").text
    assert said.startswith("StreamDestroyed: ")
    assert "the request of this stream is over" in said


@on_threads_and_greenlets
@pytest.mark.parametrize("again", [False, True], ids=["unpiped", "piped again and again"])
def test_a_stream_that_was_unpiped_while_it_was_sent_ends_with_its_client(again: bool) -> None:
    app = Flask(__name__)
    made: list[SseStream] = []
    closed: list[str] = []

    @app.get("/")
    def view() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(request)
        sse_stream.on("close", lambda: closed.append("stream"))
        made.append(sse_stream.pipe(res) and sse_stream)
        for _ in range(100 if again else 1):
            sse_stream.unpipe(res)
            if again:
                sse_stream.pipe(res)
        assert len(res.response.inlets) <= 2
        return res

    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        assert not closed
        made[0].unpipe()
    until(lambda: closed == ["stream"], "the stream's close")


@on_threads_and_greenlets
def test_a_stream_that_was_unpiped_from_a_discarded_response_is_the_body_of_another() -> None:
    app = Flask(__name__)
    closed: list[str] = []

    @app.get("/")
    def view() -> Response:
        res, sse_stream = ServerResponse(), SseStream(request)
        sse_stream.on("close", lambda: closed.append("stream"))
        sse_stream.pipe(res)
        sse_stream.unpipe(res)
        sse_stream.write({"data": "1"})
        return Response(sse_stream, mimetype="text/event-stream")

    with Visit(app) as visit:
        visit.read_until(b":ok\n\ndata: 1\n\n")
        assert not closed
    until(lambda: closed == ["stream"], "the stream's close")
