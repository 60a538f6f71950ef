"""@handler: a function of (req, res) that goes on beside its request."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import flask
import gevent
import gevent.event
import pytest
from flask import Blueprint, Flask, current_app, g, request, session
from flask.views import MethodView
from gevent import GreenletExit
from werkzeug.exceptions import Conflict

from ssestream import (
    HeadersSent,
    ServerResponse,
    SseStream,
    handler,
    pipeline,
    set_interval,
    set_timeout,
)
from ssestream.handler_run import ENDINGS
from ssestream.wire import Decoder
from tests.kit.handlers import EVENTS, Played, errors_of
from tests.kit.servers import PATIENCE, body_of
from tests.kit.visit import Visit, on_threads_and_greenlets, until

# -- the ordinary course


@on_threads_and_greenlets
def test_what_is_written_goes_out_between_the_waits() -> None:
    gate = threading.Event()

    def function(req: Any, res: ServerResponse) -> None:
        res.write_head(200, EVENTS)
        res.write("data: 1\n\n")
        until(gate.is_set, "the client")
        res.write("data: 2\n\n")
        res.end()

    with Played(function).visit() as visit:
        visit.read_until(b"data: 1\n\n")
        assert visit.headers("Content-Type") == ["text/event-stream; charset=utf-8"]
        assert b"data: 2" not in visit.received
        gate.set()
        assert visit.read_to_end().endswith(b"data: 1\n\ndata: 2\n\n")


@on_threads_and_greenlets
@pytest.mark.parametrize(
    "start",
    [
        lambda req, res: res.write("x"),
        lambda req, res: res.flush_headers(),
        lambda req, res: SseStream(req).pipe(res),
        lambda req, res: set_timeout(res.write, 1, "x"),
        lambda req, res: threading.Timer(0.001, res.flush_headers).start(),
    ],
    ids=["write", "flush_headers", "pipe", "timer", "thread"],
)
def test_each_of_these_starts_the_response(start: Callable[[Any, Any], Any]) -> None:
    gate = threading.Event()

    def function(req: Any, res: ServerResponse) -> None:
        start(req, res)
        until(lambda: res.headers_sent, "the head")
        until(gate.is_set, "the client")
        res.end()

    with Played(function).visit() as visit:
        visit.read_until(b"200 OK")
        gate.set()
        visit.read_to_end()


@on_threads_and_greenlets
def test_end_starts_the_response_too_and_the_function_runs_on() -> None:
    gate = threading.Event()

    def function(req: Any, res: ServerResponse) -> None:
        res.status(201).json({"a": 1})
        until(gate.is_set, "the client")
        played.seen.append("on")

    played = Played(function)
    with played.visit() as visit:
        assert visit.read_to_end().endswith(b'\r\n\r\n{"a":1}')
        assert "on" not in played.seen
    gate.set()
    played.saw("on")


@on_threads_and_greenlets
def test_a_stream_a_pipeline_and_a_timer_go_on_after_the_function(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def piped(req: Any, res: ServerResponse) -> None:
        sse = SseStream(req)
        sse.pipe(res)
        set_timeout(lambda: sse.end({"data": "late"}), 20)

    def drawn(req: Any, res: ServerResponse) -> ServerResponse:
        return pipeline(({"data": n} for n in range(3)), SseStream(req), res)

    def timed(req: Any, res: ServerResponse) -> None:
        set_timeout(lambda: res.end("late"), 20)

    for function, end in ((piped, b"data: late\n\n"), (drawn, b"data: 2\n\n"), (timed, b"late")):
        with Played(function).visit() as visit:
            assert visit.read_to_end().endswith(end)
    assert errors_of(caplog) == []


@on_threads_and_greenlets
def test_a_burst_of_a_stream_waits_for_its_client_and_all_of_it_arrives() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        sse = SseStream(req)
        sse.pipe(res)
        for number in range(3000):
            sse.write({"data": number})
        sse.end()

    with Played(function).visit() as visit:
        messages = Decoder().feed(visit.read_to_end().partition(b"\r\n\r\n")[2])
    assert [message["data"] for message in messages[1:]] == [str(n) for n in range(3000)]


@on_threads_and_greenlets
def test_a_write_waits_at_the_high_water_mark() -> None:
    most = []

    def function(req: Any, res: ServerResponse) -> None:
        for _ in range(400):
            res.write(b"x" * 10_000)
            most.append(res.writable_length)
        res.end()

    with Played(function).visit(send_buffer=4096) as visit:
        until(lambda: most, "writes")
        length = len(visit.read_to_end().partition(b"\r\n\r\n")[2])
    assert length == 4_000_000
    assert max(most) < 100_000


# -- before the start


@on_threads_and_greenlets
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (lambda res: ("made", 201), 201, b"made"),
        (lambda res: {"a": 1}, 200, b'{"a":1}\n'),
        (lambda res: flask.Response("own", 202), 202, b"own"),
        (lambda res: res.status(404).json({"e": 1}), 404, b'{"e":1}'),
        (lambda res: res.status(404).json({"e": 1}) and None, 404, b'{"e":1}'),
        (lambda res: res.end("x"), 200, b"x"),
        (lambda res: res.end("x") or "ignored", 200, b"x"),
        (lambda res: flask.redirect("/there"), 302, None),
        (lambda res: flask.abort(409), 409, None),
    ],
)
def test_what_the_function_returns_is_an_ordinary_answer(
    answer: Callable[[Any], Any], status: int, body: bytes | None
) -> None:
    played = Played(lambda req, res: answer(res))
    with played.visit() as visit:
        visit.read_to_end()
    assert visit.head.split()[1] == str(status)
    assert body in (None, visit.body)
    assert played.seen == ["teardown"]


def test_an_answer_that_is_returned_has_nothing_of_res() -> None:
    def function(req: Any, res: ServerResponse) -> Any:
        res.set("X-A", "b").status(201)
        res.set_cookie("seen", "1")
        return flask.redirect("/there")

    answer = Played(function).app.test_client().get("/")
    assert answer.status_code == 302
    assert not {"X-A", "Set-Cookie"} & set(answer.headers.keys())


@on_threads_and_greenlets
def test_an_exception_is_one_of_the_view() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        raise LookupError("no such job")

    played = Played(function)
    played.app.errorhandler(LookupError)(lambda error: (f"sorry: {error}", 418))
    played.app.teardown_request(lambda error: played.seen.append(type(error)))
    with played.visit() as visit:
        assert visit.read_to_end().endswith(b"sorry: no such job")
    assert " 418 " in visit.head

    crashed = Played(function)
    seen: list[BaseException] = []

    def note(sender: Any, exception: BaseException, **extra: Any) -> None:
        seen.append(exception)

    with flask.got_request_exception.connected_to(note, crashed.app), crashed.visit() as visit:
        visit.read_to_end()
    assert " 500 " in visit.head
    assert [type(each) for each in seen] == [LookupError]
    assert crashed.seen == ["teardown"]


@on_threads_and_greenlets
def test_a_response_that_is_not_sent_is_closed_and_ends_its_function() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        res.on("close", lambda: played.seen.append("close"))
        try:
            res.write("lost")
        finally:
            played.seen.append("ended")

    played = Played(function)

    @played.app.after_request
    def fail(response: Any) -> Any:
        raise Conflict

    with played.visit() as visit:
        visit.read_to_end()
    assert b"lost" not in visit.received
    played.saw("ended")
    played.saw("close")


# -- after the start


@on_threads_and_greenlets
def test_a_late_exception_is_logged_told_and_cuts_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def function(req: Any, res: ServerResponse) -> None:
        if heard:
            res.on("error", lambda error: played.seen.append(error))
        res.write("begun")
        raise LookupError("late")

    for heard in (False, True):
        caplog.clear()
        played = Played(function)
        with played.visit() as visit:
            visit.read_until(b"begun")
            visit.read_to_end()
            until(lambda: errors_of(caplog), "the log")
        (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
        assert "test_a_late_exception" in record.getMessage()
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)
        assert record.path == "/"  # type: ignore[attr-defined]
        if heard:
            until(lambda seen=played.seen: len(seen) == 2, "the error")
            assert isinstance(played.seen[-1], LookupError)


@on_threads_and_greenlets
def test_an_exception_after_end_is_logged_and_the_answer_stays_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def function(req: Any, res: ServerResponse) -> None:
        res.write("whole ")
        res.end("answer")
        raise LookupError("late")

    with Played(function).visit() as visit:
        assert visit.read_to_end().endswith(b"whole answer")
    until(lambda: errors_of(caplog), "the log")


@on_threads_and_greenlets
def test_a_function_that_nothing_holds_is_told_of_by_its_name(
    caplog: pytest.LogCaptureFixture, unsaid: None
) -> None:
    def forgetful(req: Any, res: ServerResponse) -> None:
        res.write("begun")

    def silent(req: Any, res: ServerResponse) -> None:
        pass

    def listens(req: Any, res: ServerResponse) -> None:
        res.write("begun")
        req.on("close", lambda: None)

    def ticks(req: Any, res: ServerResponse) -> None:
        res.write("begun")
        set_interval(lambda: None, 1000)

    def pipes(req: Any, res: ServerResponse) -> None:
        sse = SseStream(req)
        sse.write({"data": "begun"})
        sse.pipe(res)

    for function, words in ((forgetful, "forgetful"), (silent, "silent")):
        played = Played(function)
        for _ in range(2):
            with played.visit():
                until(lambda words=words: any(words in each for each in errors_of(caplog)), words)
    assert len(errors_of(caplog)) == 2
    for function in (listens, ticks, pipes):
        with Played(function).visit() as visit:
            visit.read_until(b"begun")
    assert len(errors_of(caplog)) == 2


# -- the client leaves


@on_threads_and_greenlets
@pytest.mark.parametrize("wait", ["sleep", "drain", "write", "stream"])
def test_a_function_is_ended_when_its_client_leaves(
    wait: str, caplog: pytest.LogCaptureFixture
) -> None:
    def function(req: Any, res: ServerResponse) -> None:
        sse = SseStream(req)
        sse.pipe(res)
        played.seen.append("begun")
        try:
            while True:
                if wait == "sleep":
                    gevent.sleep(PATIENCE)
                elif wait == "drain":
                    res.write(b"x" * 100_000)
                elif wait == "write":
                    time.sleep(0.001)
                    res.write(":\n")
                    gevent.sleep(0)
                else:
                    sse.write({"data": "x" * 100_000})
        except Exception as error:
            played.seen.append(error)
        finally:
            played.seen.append(res.write("bye"))
            played.seen.append("cleaned")

    played = Played(function)
    with played.visit(send_buffer=4096) as visit:
        visit.read_until(b":ok")
        played.saw("begun")
    played.saw("cleaned")
    assert [each for each in played.seen if each != "teardown"] == ["begun", False, "cleaned"]
    assert errors_of(caplog) == []


@on_threads_and_greenlets
def test_a_function_that_catches_its_end_holds_up_nobody_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def function(req: Any, res: ServerResponse) -> None:
        while len(caught) < 10_000 and not gate.is_set():
            try:
                res.write(":\n")
                # Each write raises behind the end, and so this wait never comes again.
                gevent.sleep(0.001)
            except BaseException as error:
                caught.append(type(error))
        played.seen.append("over")

    caught: list[type[BaseException]] = []
    gate = threading.Event()
    played = Played(function)
    with played.visit() as visit:
        visit.read_until(b":\n")
    until(lambda: errors_of(caplog), "the log")
    gate.set()
    played.saw("over")
    # The wait was ended, and then so many writes.
    assert set(caught) == {GreenletExit}
    assert len(caught) <= 1 + ENDINGS
    (line,) = errors_of(caplog)
    assert "function catches GreenletExit, though its client has left, and goes on" in line


def test_the_teardown_of_a_function_that_ends_as_its_client_leaves_may_wait() -> None:
    steps: list[str] = []
    over = gevent.event.Event()

    made: list[ServerResponse] = []

    def function(req: Any, res: ServerResponse) -> None:
        made.append(res)
        res.write("begun")
        try:
            over.wait()
        finally:
            steps.append("ended")

    def tear_down(error: BaseException | None) -> None:
        if steps:
            gevent.sleep(0.005)
            steps.append("torn down")

    played = Played(function)
    played.app.teardown_appcontext(tear_down)

    def serve() -> None:
        with played.visit() as visit:
            visit.read_until(b"begun")
            made[0].destroy()
            # The function wakes after it is found to be running, and before it is ended.
            over.set()

    gevent.spawn(serve).get()
    until(lambda: "torn down" in steps, "the teardown")


def test_on_a_threaded_server_the_next_write_ends_it() -> None:
    left = threading.Event()

    def function(req: Any, res: ServerResponse) -> None:
        res.write("begun")
        played.seen.append("begun")
        left.wait(PATIENCE)
        until_closed = time.monotonic() + PATIENCE
        while not res.destroyed and time.monotonic() < until_closed:
            time.sleep(0.001)
        try:
            res.write("more")
            played.seen.append("went on")
        except GreenletExit:
            played.seen.append("ended")
            raise

    played = Played(function)
    with played.visit() as visit:
        visit.read_until(b"begun")
        played.saw("begun")
        visit.fin()
        left.set()
        played.saw("ended")
    assert "went on" not in played.seen


@on_threads_and_greenlets
def test_a_function_that_writes_to_others_is_not_ended_by_them() -> None:
    others: list[SseStream] = []

    def listen(req: Any, res: ServerResponse) -> None:
        others.append(SseStream(req))
        others[-1].pipe(res)

    def tell(req: Any, res: ServerResponse) -> None:
        for stream in others:
            for _ in range(30):
                stream.write({"data": "x" * 1000})
        res.end("told")

    listening, telling = Played(listen), Played(tell)
    with listening.visit() as gone:
        gone.read_until(b":ok")
    with listening.visit(send_buffer=4096) as slow:
        slow.read_until(b":ok")
        with telling.visit() as visit:
            assert visit.read_to_end().endswith(b"told")


@on_threads_and_greenlets
def test_head_runs_the_function_as_far_as_its_first_write() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        res.set_header("X-Own", "1")
        try:
            res.write("body")
            played.seen.append("went on")
        finally:
            played.seen.append("ended")

    played = Played(function)
    with played.visit("HEAD") as visit:
        assert visit.read_to_end().endswith(b"\r\n\r\n")
        assert visit.headers("X-Own") == ["1"]
    played.saw("ended")
    assert "went on" not in played.seen


@on_threads_and_greenlets
def test_a_request_that_is_kept_stays_the_one_of_its_client() -> None:
    """Flask's own ``request`` is of whoever asks for it."""
    kept: set[Any] = set()

    def function(req: Any, res: ServerResponse) -> None:
        kept.add(req)
        req.on("close", lambda: kept.discard(req))
        played.seen.append(sorted(each.query["name"] for each in kept))
        SseStream(req).pipe(res)

    played = Played(function)
    with played.visit(QUERY_STRING="name=ada") as first:
        first.read_until(b":ok")
        with played.visit(QUERY_STRING="name=bob") as second:
            second.read_until(b":ok")
            assert sorted(each.query["name"] for each in kept) == ["ada", "bob"]
        until(lambda: len(kept) == 1, "the second client to leave")
        assert [each.query["name"] for each in kept] == ["ada"]
    until(lambda: not kept, "the first client to leave")
    assert [each for each in played.seen if each != "teardown"] == [["ada"], ["ada", "bob"]]


# -- the contexts


@on_threads_and_greenlets
def test_the_contexts_are_the_requests_and_its_teardown_runs_at_the_start() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        assert req is not request
        g.own = "function"
        session["seen"] = "yes"
        res.write("begun")
        played.seen.append("started")
        assert request.path == req.path == "/"
        assert current_app.name == Played.__module__
        assert g.user == "ada"
        assert g.own == "function"
        assert "database" not in g
        assert session["seen"] == "yes"
        session["late"] = "lost"
        g.database = "again"
        res.end()

    played = Played(function)
    torn: list[str | None] = []
    played.app.before_request(lambda: g.__setattr__("user", "ada"))
    played.app.before_request(lambda: g.__setattr__("database", "open"))
    played.app.teardown_appcontext(lambda error: torn.append(g.pop("database", None)))
    with played.visit() as visit:
        assert visit.read_to_end().endswith(b"begun")
    assert played.session_of(visit) == {"seen": "yes"}
    until(lambda: len(torn) == 2, "the second teardown")
    assert played.seen == ["teardown", "started"]
    assert torn == ["open", "again"]


@on_threads_and_greenlets
@pytest.mark.parametrize("end", ["end", "raise", "leave", "before the end"])
def test_what_a_function_makes_late_and_nobody_sends_ends_with_the_response(end: str) -> None:
    left = threading.Event()

    def function(req: Any, res: ServerResponse) -> None:
        res.write("begun")
        sse = SseStream(req)
        sse.on("close", lambda: played.seen.append("stream"))
        other = ServerResponse()
        other.on("close", lambda: played.seen.append("response"))
        if end == "before the end":
            set_timeout(res.end, 1)
        elif end == "raise":
            raise ValueError
        elif end == "leave":
            left.set()
            while True:
                res.write("x")
                gevent.sleep(0.001)
        else:
            res.end()

    played = Played(function)
    with played.visit() as visit:
        if end == "leave":
            until(left.is_set, "the function")
            visit.fin()
        else:
            visit.read_to_end()
    played.saw("stream")
    played.saw("response")


# -- req


@on_threads_and_greenlets
def test_req_has_expresss_names_and_flasks() -> None:
    kept: set[Any] = set()

    def function(req: Any, res: ServerResponse) -> None:
        kept.add(req)
        res.json(
            [
                req.query["q"],
                req.params,
                req.body,
                req.ip,
                req.get("x-own"),
                req.get("Referrer"),
                req.header("X-None"),
                req.method,
                req.headers["X-Own"],
                req.endpoint,
            ]
        )

    played = Played(function)
    environ: dict[str, Any] = {"HTTP_X_OWN": "1", "HTTP_REFERER": "r", "REMOTE_ADDR": "1.2.3.4"}
    with Visit(played.app, "/?q=a", **environ) as visit:
        visit.read_to_end()
    assert visit.body.startswith(b'["a",{},null,"1.2.3.4","1","r",null,"GET","1","')
    with Visit(played.app, "/?q=b", **environ) as visit:
        visit.read_to_end()
    assert sorted(req.query["q"] for req in kept) == ["a", "b"]


def test_req_events_are_its_response_s() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        def never() -> None:
            played.seen.append("never")

        req.on("close", never)
        req.off("close", never)
        req.once("close", lambda: played.seen.append("once"))

        @req.on("close")
        def closed() -> None:
            played.seen.append((req.destroyed, req.aborted))

        with pytest.raises(ValueError, match=r"no 'data'.*req\.body"):
            req.on("data", never)
        res.end()

    played = Played(function)
    with played.visit() as visit:
        visit.read_to_end()
    played.saw((True, False))
    assert played.seen == ["teardown", "once", (True, False)]


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ({"json": {"a": 1}}, b'{"a":1}'),
        ({"data": {"a": "1"}}, b'{"a":"1"}'),
        ({"data": b"raw"}, b"null"),
        ({"data": b"", "content_type": "application/json"}, b"null"),
    ],
)
def test_the_body_is_there_before_and_after_the_start(sent: Any, body: bytes) -> None:
    def function(req: Any, res: ServerResponse) -> None:
        if req.args:
            res.flush_headers()
        res.end(flask.current_app.json.dumps(req.body, separators=(",", ":")))

    client = Played(function, ("POST",)).app.test_client()
    assert client.post("/", **sent).data == body
    assert client.post("/?late=1", **sent).data == body


def test_a_body_that_is_no_json_is_a_bad_request() -> None:
    played = Played(lambda req, res: res.json(req.body), ("POST",))
    client = played.app.test_client()
    assert client.post("/", data=b"{", content_type="application/json").status_code == 400


# -- where it may stand


def test_a_view_of_a_blueprint_a_method_view_and_behind_a_decorator() -> None:
    app = Flask(__name__)
    blueprint = Blueprint("own", __name__)

    @blueprint.get("/jobs/<int:id>")
    @handler
    def job(req: Any, res: ServerResponse, id: int) -> None:
        res.end(f"job {id} {req.params}")

    class Jobs(MethodView):
        kind = "of the class"

        @handler
        def get(self, req: Any, res: ServerResponse, id: int) -> None:
            res.end(f"{self.kind} {id}")

    def prepared(function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(req: Any, res: ServerResponse, **params: Any) -> Any:
            res.locals.user = "ada"
            return function(req, res, **params)

        return inside

    @app.get("/prepared")
    @handler
    @prepared
    def view(req: Any, res: ServerResponse) -> None:
        res.end(res.locals.user)

    app.register_blueprint(blueprint)
    app.add_url_rule("/class/<int:id>", view_func=Jobs.as_view("jobs"))
    client = app.test_client()
    assert client.get("/jobs/7").data == b"job 7 {'id': 7}"
    assert client.get("/class/8").data == b"of the class 8"
    assert client.get("/prepared").data == b"ada"
    assert job.__name__ == "job"


def test_the_test_client_reads_a_handler_piece_by_piece() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        try:
            while True:
                res.write("tick ")
                gevent.sleep(0.001)
        finally:
            played.seen.append("ended")

    played = Played(function)
    response = played.app.test_client().get("/")
    chunks = response.iter_encoded()
    assert next(chunks).startswith(b"tick")
    assert next(chunks).startswith(b"tick")
    response.close()
    played.saw("ended")


def test_what_is_no_function_of_a_handler_is_refused_where_it_is_given() -> None:
    async def yields(req: Any, res: Any) -> Any:
        yield

    def generator(req: Any, res: Any) -> Iterator[None]:
        yield

    for function in (yields, generator):
        with pytest.raises(TypeError, match="iterate"):
            handler(function)
    with pytest.raises(TypeError, match="not int"):
        handler(7)  # type: ignore[arg-type]


@on_threads_and_greenlets
def test_a_coroutine_that_nobody_awaits_is_an_error() -> None:
    async def wait() -> None: ...

    class Lazy:
        def __await__(self) -> Iterator[None]:
            yield

    for made, kind in ((wait, b"coroutine"), (Lazy, b"Lazy")):
        played = Played(lambda req, res, made=made: made())
        played.app.errorhandler(TypeError)(lambda error: (str(error), 418))
        with played.visit() as visit:
            assert b"is no async def, but returned a " + kind in visit.read_to_end()


@on_threads_and_greenlets
def test_flask_iterates_a_generator_that_a_handler_returns() -> None:
    with Played(lambda req, res: (each for each in ("a", "b"))).visit() as visit:
        assert visit.read_to_end().endswith(b"ab")


def test_headers_cannot_change_after_the_start() -> None:
    def function(req: Any, res: ServerResponse) -> None:
        res.write("x")
        with pytest.raises(HeadersSent):
            res.status(500)
        with pytest.raises(HeadersSent):
            SseStream(req).pipe(res)
        res.end("y")

    with Played(function).visit() as visit:
        assert body_of(visit.read_to_end()) == b"xy"
