"""ServerResponse as the Flask response that it is."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, Response, g, has_app_context, has_request_context, session
from werkzeug.test import create_environ

from ssestream import (
    HeadersSent,
    ServerResponse,
    SseStream,
    clear_interval,
    pipeline,
    set_interval,
    set_timeout,
)
from tests.kit.responses import Closes, ended
from tests.kit.visit import Visit, on_threads_and_greenlets, until


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.secret_key = "for the tests"
    return app


BODY = b":ok\n\ndata: hello\n\n"


@pytest.fixture
def closes() -> Closes:
    return Closes()


# -- what Flask does to every response


def test_cookies_session_and_after_request_work(app: Flask) -> None:
    @app.get("/")
    def view() -> Response:
        session["user"] = "ada"
        res = ended()
        res.set_cookie("plain", "1")
        return res

    @app.after_request
    def add(response: Response) -> Response:
        response.headers["X-After"] = "added"
        return response

    with Visit(app) as visit:
        visit.read_to_end()
    assert [cookie.partition("=")[0] for cookie in visit.headers("Set-Cookie")] == [
        "plain",
        "session",
    ]
    assert visit.headers("X-After") == ["added"]
    assert visit.body == BODY


def test_make_response_gives_the_response_itself(app: Flask) -> None:
    @app.get("/")
    def view() -> Response:
        res = ended()
        assert flask.make_response(res) is res
        return flask.make_response(res, 201, {"X-More": "yes"})

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.head.startswith("HTTP/1.0 201 ")
    assert visit.headers("X-More") == ["yes"]
    assert visit.body == BODY


def test_an_error_handler_may_return_one(app: Flask) -> None:
    @app.get("/")
    def view() -> Response:
        raise LookupError

    @app.errorhandler(LookupError)
    def handler(error: LookupError) -> Response:
        return ended()

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.body == BODY


def test_a_view_of_a_blueprint_may_return_one(app: Flask) -> None:
    blueprint = Blueprint("news", __name__, url_prefix="/news")
    blueprint.get("/")(lambda: ended())
    app.register_blueprint(blueprint)
    with Visit(app, "/news/") as visit:
        visit.read_to_end()
    assert visit.body == BODY


def test_call_on_close_functions_run_once(app: Flask) -> None:
    ran = []
    made = []

    @app.get("/")
    def view() -> Response:
        res = ended()
        made.append(res)
        res.call_on_close(lambda: ran.append("one"))
        res.call_on_close(lambda: ran.append("two"))
        return res

    with Visit(app) as visit:
        visit.read_to_end()
    made[0].close()
    assert ran == ["one", "two"]


# -- classes


class Shouting(Response):
    """An app's own kind of response."""

    default_mimetype = "text/plain"

    def shout(self) -> str:
        return f"{self.status_code}!"


def test_an_app_with_a_response_class_of_its_own_gets_both(app: Flask) -> None:
    app.response_class = Shouting
    seen: list[Any] = []

    @app.get("/")
    def view() -> Response:
        return ended()

    @app.after_request
    def look(response: Any) -> Response:
        seen.append((isinstance(response, ServerResponse), response.shout()))
        return response

    with Visit(app) as visit:
        visit.read_to_end()
    assert seen == [(True, "200!")]
    assert visit.body == BODY
    assert visit.headers("Content-Type") == ["text/event-stream; charset=utf-8"]


def test_a_subclass_of_ones_own_stays_what_it_is(app: Flask) -> None:
    class Counting(ServerResponse):
        written = 0

        def write(self, chunk: bytes | str) -> bool:
            self.written += 1
            return super().write(chunk)

    made: list[Counting] = []

    @app.get("/")
    def view() -> Response:
        made.append(Counting())
        return ended(made[0])

    for response_class in (Response, Shouting):
        made.clear()
        app.response_class = response_class
        with Visit(app) as visit:
            visit.read_to_end()
        assert visit.body == BODY
        assert isinstance(made[0], Counting)
        assert isinstance(made[0], response_class)
        assert made[0].written == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_close_of_the_apps_own_is_called_as_for_any_response(
    app: Flask, closes: Closes, fails: bool
) -> None:
    calls = []

    class Closing(ServerResponse):
        def close(self) -> None:
            calls.append("close")
            if fails:
                raise OSError("a close that fails")
            super().close()

    @app.get("/")
    def view() -> ServerResponse:
        res = closes.of(Closing())
        res.write("begun")
        return res

    body: Any = app(create_environ("/"), lambda status, headers: None)
    assert next(body) == b"begun"
    if fails:
        with pytest.raises(OSError, match="a close that fails"):
            body.close()
    else:
        body.close()
    assert calls == ["close"]
    closes.once()


def test_an_apps_class_may_be_a_server_response(app: Flask) -> None:
    class Ours(ServerResponse, Shouting):
        pass

    app.response_class = Ours

    @app.get("/")
    def view() -> Response:
        return ended(Ours())

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.body == BODY


def test_force_type_keeps_the_response_and_what_was_written(app: Flask) -> None:
    res = ServerResponse(201, {"X-Mine": "yes"})
    res.write("before")
    forced: Any = Shouting.force_type(res)
    assert forced is res
    assert forced.shout() == "201!"
    forced.write(" and after")
    forced.end()
    assert b"".join(forced.response) == b"before and after"
    assert forced.headers["X-Mine"] == "yes"


# -- when it may not be sent, or not changed


def test_a_response_that_was_sent_cannot_be_sent_again(app: Flask) -> None:
    kept: list[Response] = []

    @app.get("/")
    def view() -> Response:
        if not kept:
            kept.append(ended())
        return kept[0]

    app.testing = True  # let it through
    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.body == BODY
    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.head.startswith("HTTP/1.0 500")
    assert "HeadersSent" in visit.errors.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda res: res.header("X-Late", "1"),
        lambda res: res.header({"X-Late": "1"}),
        lambda res: res.write_head(200),
        lambda res: SseStream().pipe(res),
    ],
    ids=["header", "headers", "write_head", "pipe"],
)
def test_the_head_cannot_change_once_it_has_left(
    app: Flask, change: Callable[[ServerResponse], object]
) -> None:
    made: list[ServerResponse] = []

    @app.get("/")
    def view() -> Response:
        made.append(SseStream(flask.request).pipe(ServerResponse()))
        return made[0]

    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        assert made[0].headers_sent
        # The error names what was to change.
        with pytest.raises(
            HeadersSent, match=r"(X-Late|status\(\)).* after the headers were sent$"
        ):
            change(made[0])


# -- the head


def test_the_head_is_set_in_a_chain(app: Flask) -> None:
    res = ServerResponse(202, [("X-Pair", "1")])
    chained = (
        res.header("X-One", "1")
        .header({"X-Two": "2", "X-Number": 3})
        .write_head(201, {"X-Head": "yes"})
    )
    assert chained is res
    assert res.status_code == 201
    assert {name: res.headers[name] for name in ("X-Pair", "X-One", "X-Two", "X-Number")} == {
        "X-Pair": "1",
        "X-One": "1",
        "X-Two": "2",
        "X-Number": "3",
    }
    assert res.headers["X-Head"] == "yes"


def test_a_header_may_come_several_times(app: Flask) -> None:
    @app.get("/")
    def view() -> Response:
        res = ended()
        res.header("Link", ["<a>", "<b>"])
        res.header("X-Again", "first").header("X-Again", "second")
        return res

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.headers("Link") == ["<a>", "<b>"]
    assert visit.headers("X-Again") == ["second"]


def test_a_status_may_have_a_reason() -> None:
    res = ServerResponse("299 Fine So Far")
    assert (res.status_code, res.status) == (299, "299 Fine So Far")


def test_a_304_has_no_content_type() -> None:
    """Not even a stream's: it describes a body, and there is none."""
    res = ServerResponse(304, {"Content-Type": "text/event-stream", "ETag": '"1"'})
    headers = res.get_wsgi_headers({"REQUEST_METHOD": "GET"})
    assert "Content-Type" not in headers
    assert headers["ETag"] == '"1"'


# -- contexts


@on_threads_and_greenlets
def test_no_context_is_active_where_an_apps_code_runs(app: Flask) -> None:
    seen: dict[str, tuple[bool, bool]] = {}

    def look(where: str) -> None:
        seen[where] = (has_request_context(), has_app_context())

    def source() -> Any:
        look("source begins")
        try:
            yield {"data": "drawn"}
            look("source goes on")
        finally:
            look("source ends")

    @app.get("/")
    def view() -> Response:
        res = ServerResponse()
        sse_stream = SseStream(flask.request)
        for event in ("pipe", "unpipe", "finish", "close"):
            res.on(event, lambda *args, event=event: look(f"res {event}"))
        for event in ("end", "finish", "close"):
            sse_stream.on(event, lambda event=event: look(f"stream {event}"))
        set_timeout(look, 1, "timeout")
        timer = set_interval(look, 1, "interval")
        res.on("close", lambda: clear_interval(timer))
        sse_stream.write({"data": "written"}, callback=lambda error: look("callback"))
        until(lambda: {"timeout", "interval"} <= set(seen), "timers while the view runs")
        return pipeline(source(), sse_stream, res)

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.body == b":ok\n\ndata: written\n\ndata: drawn\n\n"
    until(lambda: len(seen) == 13, f"all of them: {sorted(seen)}")
    assert set(seen.values()) == {(False, False)}


@on_threads_and_greenlets
def test_an_open_stream_holds_no_context(app: Flask) -> None:
    """What the request held, a database connection say, is given back before the first byte."""
    torn_down: list[str] = []
    kept: list[Any] = []

    class Connection:
        pass

    @app.get("/")
    def view() -> Response:
        g.database = Connection()
        kept.append(weakref.ref(g.database))
        kept.append(SseStream(flask.request))
        return kept[1].pipe(ServerResponse())

    @app.teardown_request
    def request_over(error: BaseException | None) -> None:
        torn_down.append("request")

    @app.teardown_appcontext
    def app_over(error: BaseException | None) -> None:
        torn_down.append("app")

    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        assert torn_down == ["request", "app"]
        assert kept[0]() is None
        kept[1].write({"data": "still open"})
        visit.read_until(b"still open\n\n")
    assert torn_down == ["request", "app"]


# -- without a server


def test_the_test_client_reads_a_finite_stream(app: Flask, closes: Closes) -> None:
    app.get("/")(lambda: closes.of(ended()))
    response = app.test_client().get("/")
    assert response.mimetype == "text/event-stream"
    assert response.data == BODY
    closes.once()


def test_the_test_client_reads_an_open_stream_bit_by_bit(app: Flask, closes: Closes) -> None:
    kept: list[SseStream] = []

    @app.get("/")
    def view() -> Response:
        kept.append(SseStream(flask.request))
        return kept[0].pipe(closes.of(ServerResponse()))

    response = app.test_client().get("/", buffered=False)
    chunks = filter(None, response.response)  # the flushed head comes as an empty chunk
    assert next(chunks) == b":ok\n\n"
    kept[0].write({"data": "one"})
    kept[0].write({"data": "two"})
    assert next(chunks) == b"data: one\n\ndata: two\n\n"
    assert closes.count == 0
    response.close()
    closes.once()


@on_threads_and_greenlets
def test_a_stream_may_be_the_body_of_any_response(app: Flask, closes: Closes) -> None:
    kept: list[SseStream] = []

    @app.get("/")
    def view() -> Response:
        sse_stream = SseStream(flask.request)

        @sse_stream.on("close")
        def closed() -> None:
            closes.count += 1

        kept.append(sse_stream)
        sse_stream.write({"data": "first"})
        return Response(sse_stream, mimetype="text/event-stream")

    with Visit(app) as visit:
        visit.read_until(b"data: first\n\n")
        kept[0].end({"data": "last"})
        visit.read_to_end()
        assert visit.body == b":ok\n\ndata: first\n\ndata: last\n\n"
    closes.once()
    with Visit(app) as visit:
        visit.read_until(b"data: first\n\n")
    until(lambda: closes.count == 2, "close of a stream that was left")
    assert kept[1].destroyed


def test_a_response_needs_no_request(closes: Closes) -> None:
    """It is served by whatever calls it as a WSGI app."""
    made: list[ServerResponse] = []

    def wsgi(environ: Any, start_response: Any) -> Any:
        res = closes.of(ServerResponse())
        made.append(res)
        sse_stream = SseStream(environ)
        sse_stream.pipe(res)
        threading.Thread(target=sse_stream.end, args=({"data": "hello"},)).start()
        return res(environ, start_response)

    with Visit(wsgi) as visit:
        visit.read_to_end()
    assert visit.body == BODY
    assert made[0].writable_finished
    closes.once()


def webob_s(app: Any, environ: Any) -> Any:
    """What WebOb and Pyramid take of a WSGI app: status, headers, and an iterable."""
    captured: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[Any], exc_info: Any = None) -> Any:
        captured[:] = [status, headers]
        return written.append

    body = app(environ, start_response)
    # Of an app that uses write() all of it must be had first, and a stream has no end.
    assert not written
    assert captured[0] == "200 OK"
    return body


def test_a_middleware_that_captures_gets_the_stream_as_an_iterable(app: Flask) -> None:
    made: list[ServerResponse] = []

    @app.get("/<how>")
    def view(how: str) -> Response:
        made.append(res := ServerResponse(headers={"Content-Type": "text/event-stream"}))
        if how == "piped":
            SseStream(flask.request).pipe(res)
        res.flush_headers()
        return res

    for how, first in [("piped", b":ok\n\n"), ("flushed", b"")]:
        body = webob_s(app, app.test_request_context(f"/{how}").request.environ)
        chunks = iter(body)
        # With an empty one most servers send the head.
        assert next(chunks) == first
        made[-1].write("data: x\n\n")
        assert next(chunks) == b"data: x\n\n"
        body.close()
        assert made[-1].closed


def test_another_body_may_be_set(app: Flask, closes: Closes) -> None:
    """It is Flask's response after all."""

    @app.get("/")
    def view() -> Response:
        res = closes.of(ServerResponse())
        res.set_data("plain")
        return res

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.body == b"plain"
    closes.once()
