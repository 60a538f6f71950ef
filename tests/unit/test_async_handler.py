"""@handler of an ``async def``: a task that writes between its awaits, and is cancelled in time."""

import asyncio
import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, current_app, g, request, session
from flask.views import MethodView

from ssestream import (
    ClientDisconnected,
    HeadersSent,
    ServerResponse,
    SseStream,
    StreamDestroyed,
    handler,
    once,
    pipeline,
    set_interval,
    set_timeout,
)
from ssestream.handler_run import ENDINGS
from ssestream.runtime import asyncloop
from ssestream.wire import Decoder
from tests.kit.handlers import EVENTS, Played, errors_of
from tests.kit.promptness import at_best
from tests.kit.servers import PATIENCE
from tests.kit.visit import Visit, on_threads_and_greenlets, until

# -- the ordinary course


@on_threads_and_greenlets
def test_what_is_written_goes_out_between_the_awaits() -> None:
    gate = threading.Event()

    async def function(req: Any, res: ServerResponse) -> None:
        res.write_head(200, EVENTS)
        res.write("data: 1\n\n")
        while not gate.is_set():
            await asyncio.sleep(0.001)
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
    ],
    ids=["write", "flush_headers", "pipe", "timer"],
)
def test_each_of_these_starts_the_response(start: Callable[[Any, Any], Any]) -> None:
    gate = threading.Event()

    async def function(req: Any, res: ServerResponse) -> None:
        start(req, res)
        while not gate.is_set():
            await asyncio.sleep(0.001)
        res.end()

    with Played(function).visit() as visit:
        visit.read_until(b"200 OK")
        gate.set()
        visit.read_to_end()


@on_threads_and_greenlets
def test_end_starts_the_response_too_and_the_function_runs_on() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        res.status(201).json({"a": 1})
        while not gate.is_set():
            await asyncio.sleep(0.001)
        played.seen.append("on")

    gate = threading.Event()
    played = Played(function)
    with played.visit() as visit:
        assert visit.read_to_end().endswith(b'\r\n\r\n{"a":1}')
        assert "on" not in played.seen
    gate.set()
    played.saw("on")


@on_threads_and_greenlets
def test_a_pipeline_a_timer_and_a_task_go_on_after_the_function(
    caplog: pytest.LogCaptureFixture, unsaid: None
) -> None:
    async def drawn(req: Any, res: ServerResponse) -> ServerResponse:
        async def numbers() -> Any:
            for number in range(3):
                await asyncio.sleep(0.001)
                yield {"data": number}

        return pipeline(numbers(), SseStream(req), res)

    async def timed(req: Any, res: ServerResponse) -> None:
        res.write("begun ")
        set_timeout(lambda: res.end("late"), 20)

    async def tasked(req: Any, res: ServerResponse) -> None:
        async def answer() -> None:
            res.write("begun ")
            await asyncio.sleep(0.05)
            res.end("task")

        tasks.append(asyncio.create_task(answer()))
        await asyncio.sleep(0.01)

    tasks: list[Any] = []
    for function, end in ((drawn, b"data: 2\n\n"), (timed, b"late"), (tasked, b"task")):
        with Played(function).visit() as visit:
            assert visit.read_to_end().endswith(end)
    assert errors_of(caplog) == []


@on_threads_and_greenlets
def test_methods_partials_objects_and_decorated_functions_are_handlers() -> None:
    class Page(MethodView):
        @handler
        async def get(self, req: Any, res: ServerResponse, name: str) -> Any:
            await asyncio.sleep(0)
            return f"{name} {req.params['name']}"

    class Called:
        async def __call__(self, req: Any, res: ServerResponse, name: str) -> Any:
            return "called"

    async def two(prefix: str, req: Any, res: ServerResponse, name: str) -> Any:
        return prefix + name

    def guarded(function: Any) -> Any:
        @functools.wraps(function)
        def guard(req: Any, res: Any, name: str) -> Any:
            return ("no", 401) if name == "eve" else function(req, res, name)

        return guard

    @guarded
    async def inner(req: Any, res: ServerResponse, name: str) -> Any:
        await asyncio.sleep(0)
        return "in"

    app = Flask(__name__)
    app.add_url_rule("/page/<name>", view_func=Page.as_view("page"))
    app.add_url_rule("/called/<name>", "called", handler(Called()))
    app.add_url_rule("/two/<name>", "two", handler(functools.partial(two, "> ")))
    app.add_url_rule("/inner/<name>", "inner", handler(inner))
    for path, answer in {
        "/page/ada": b"ada ada",
        "/called/ada": b"called",
        "/two/ada": b"> ada",
        "/inner/ada": b"in",
        "/inner/eve": b"no",
    }.items():
        with Visit(app, path) as visit:
            assert visit.read_to_end().endswith(b"\r\n\r\n" + answer), path


# -- before the start


@on_threads_and_greenlets
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (lambda res: ("made", 201), 201, b"made"),
        (lambda res: {"a": 1}, 200, b'{"a":1}\n'),
        (lambda res: res.status(404).json({"e": 1}), 404, b'{"e":1}'),
        (lambda res: res.end("x") or "ignored", 200, b"x"),
        (lambda res: flask.redirect("/there"), 302, None),
        (lambda res: flask.abort(409), 409, None),
    ],
)
def test_what_the_function_returns_is_an_ordinary_answer(
    answer: Callable[[Any], Any], status: int, body: bytes | None
) -> None:
    async def function(req: Any, res: ServerResponse) -> Any:
        await asyncio.sleep(0)
        return answer(res)

    played = Played(function)
    with played.visit() as visit:
        visit.read_to_end()
    assert visit.head.split()[1] == str(status)
    assert body in (None, visit.body)
    assert played.seen == ["teardown"]


@on_threads_and_greenlets
def test_an_exception_is_one_of_the_view() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        await asyncio.sleep(0)
        raise LookupError("no such job")

    played = Played(function)
    played.app.errorhandler(LookupError)(lambda error: (f"sorry: {error}", 418))
    with played.visit() as visit:
        assert visit.read_to_end().endswith(b"sorry: no such job")
    assert " 418 " in visit.head


@on_threads_and_greenlets
def test_a_cancellation_of_the_functions_own_is_an_error() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        raise asyncio.CancelledError

    played = Played(function)
    played.app.errorhandler(RuntimeError)(lambda error: (f"sorry: {error}", 418))
    with played.visit() as visit:
        assert b"was cancelled, and not because its client" in visit.read_to_end()


@on_threads_and_greenlets
def test_without_a_loop_it_is_an_error_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncloop.end_loop()

    def refuse() -> None:
        raise OSError(24, "no descriptors")

    async def function(req: Any, res: ServerResponse) -> None: ...

    monkeypatch.setattr(asyncloop, "check_descriptors", refuse)
    with Played(function).visit() as visit:
        visit.read_to_end()
    assert " 500 " in visit.head


# -- after the start


@on_threads_and_greenlets
def test_a_late_exception_is_logged_told_and_cuts_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        if heard:
            res.on("error", lambda error: played.seen.append(error))
        res.write("begun")
        await asyncio.sleep(0.01)
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
        if heard:
            until(lambda seen=played.seen: len(seen) == 2, "the error")


@on_threads_and_greenlets
def test_a_function_that_nothing_holds_is_told_of_by_its_name(
    caplog: pytest.LogCaptureFixture, unsaid: None
) -> None:
    async def forgetful(req: Any, res: ServerResponse) -> None:
        res.write("begun")

    async def listens(req: Any, res: ServerResponse) -> None:
        res.write("begun")
        req.on("close", lambda: None)

    with Played(forgetful).visit():
        until(lambda: any("forgetful" in each for each in errors_of(caplog)), "the log")
    with Played(listens).visit() as visit:
        visit.read_until(b"begun")
    assert len(errors_of(caplog)) == 1


@on_threads_and_greenlets
def test_a_stream_that_a_function_makes_late_and_nobody_sends_ends_with_the_response() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        res.write("begun")
        await asyncio.sleep(0.01)
        SseStream(req).on("close", lambda: played.seen.append("stream"))
        res.end()

    played = Played(function)
    with played.visit() as visit:
        visit.read_to_end()
    played.saw("stream")


# -- the client leaves


@on_threads_and_greenlets
@pytest.mark.parametrize("leave", ["fin", "rst"])
def test_it_is_cancelled_in_the_middle_of_an_await(
    leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        # The client may leave before this write returns, which then raises.
        try:
            res.write("begun")
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            played.seen.append(time.monotonic())
            raise
        finally:
            await asyncio.sleep(0.01)
            played.seen.append(res.write("bye"))

    played = Played(function)

    def departure() -> float:
        nonlocal played
        played = Played(function)
        with played.visit() as visit:
            visit.read_until(b"begun")
            left = time.monotonic()
            getattr(visit, leave)()
            played.saw(False)
            cancelled: float = next(each for each in played.seen if isinstance(each, float))
            return cancelled - left

    at_best(departure, 0.1)
    assert errors_of(caplog) == []


@on_threads_and_greenlets
@pytest.mark.parametrize("wait", ["drain", "stream", "never"])
def test_a_function_that_writes_on_is_ended_too(
    wait: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        sse = SseStream(req)
        sse.pipe(res)
        played.seen.append("begun")
        try:
            while True:
                if wait == "drain":
                    if not res.write(b"x" * 100_000):
                        await once(res, "drain")
                elif wait == "stream":
                    if not sse.write({"data": "x" * 10_000}):
                        await once(sse, "drain")
                else:
                    res.write(":\n")
                    time.sleep(0.001)
        finally:
            played.seen.append("cleaned")

    played = Played(function)
    with played.visit(send_buffer=4096) as visit:
        visit.read_until(b":ok")
        played.saw("begun")
    played.saw("cleaned")
    assert errors_of(caplog) == []


@on_threads_and_greenlets
def test_a_stubborn_function_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncloop, "PATIENCE", 0.01)

    async def stubborn(req: Any, res: ServerResponse) -> None:
        res.write("begun")
        while not errors_of(caplog):
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                pass
        played.seen.append("over")

    played = Played(stubborn)
    with played.visit() as visit:
        visit.read_until(b"begun")
    played.saw("over")
    assert "stubborn was cancelled 0.01 seconds ago" in errors_of(caplog)[0]


@on_threads_and_greenlets
def test_a_function_that_catches_its_end_at_each_write_holds_up_no_other_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        while len(caught) < 10_000 and not gate.is_set():
            try:
                res.write(":\n")
                # Each write raises behind the end, and so this wait never comes again.
                await asyncio.sleep(0.001)
            except BaseException as error:
                caught.append(type(error))
        played.seen.append("over")

    async def other(req: Any, res: ServerResponse) -> Any:
        await asyncio.sleep(0)
        return "other"

    caught: list[type[BaseException]] = []
    gate = threading.Event()
    played = Played(function)
    with played.visit() as visit:
        visit.read_until(b":\n")
    until(lambda: errors_of(caplog), "the log")
    with Played(other).visit() as beside:
        assert beside.read_to_end().endswith(b"other")
    gate.set()
    played.saw("over")
    # The await was ended, and then so many writes.
    assert set(caught) == {asyncio.CancelledError}
    assert len(caught) <= 1 + ENDINGS
    assert "function catches CancelledError, though its client has left" in errors_of(caplog)[0]


@on_threads_and_greenlets
def test_head_ends_the_function_behind_its_first_write() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        res.set_header("X-Own", "1")
        try:
            res.write("body")
            await asyncio.sleep(PATIENCE)
            played.seen.append("went on")
        finally:
            played.seen.append("ended")

    played = Played(function)
    with played.visit("HEAD") as visit:
        assert visit.read_to_end().endswith(b"\r\n\r\n")
        assert visit.headers("X-Own") == ["1"]
    played.saw("ended")
    assert "went on" not in played.seen


# -- back pressure


@pytest.mark.long_except("greenlets")
@on_threads_and_greenlets
def test_a_write_never_waits_and_drain_is_awaited() -> None:
    most: list[int] = []

    async def function(req: Any, res: ServerResponse) -> None:
        for _ in range(400):
            if not res.write(b"x" * 10_000):
                await once(res, "drain")
            most.append(res.writable_length)
        res.end()

    with Played(function).visit(send_buffer=4096) as visit:
        until(lambda: most, "writes")
        length = len(visit.read_to_end().partition(b"\r\n\r\n")[2])
    assert length == 4_000_000
    assert max(most) < 100_000


@on_threads_and_greenlets
def test_a_client_that_reads_nothing_is_cut_at_the_bound_and_the_loop_is_never_held_up() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        written = 0
        try:
            res.write("begun")
            while not read.is_set():
                await asyncio.sleep(0.001)
            while written < 100_000_000:
                res.write(b"x" * 100_000)
                written += 100_000
                await asyncio.sleep(0)
        finally:
            played.seen.append(written)

    async def other(req: Any, res: ServerResponse) -> Any:
        await asyncio.sleep(0)
        return "other"

    read = threading.Event()
    played = Played(function)
    with played.visit(send_buffer=4096) as visit:
        visit.read_until(b"begun")
        read.set()
        with Played(other).visit() as beside:
            assert beside.read_to_end().endswith(b"other")
        until(lambda: any(isinstance(each, int) for each in played.seen), "the end")
    assert next(each for each in played.seen if isinstance(each, int)) < 50_000_000


# -- the contexts


@on_threads_and_greenlets
def test_the_contexts_are_the_requests() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        await asyncio.sleep(0)
        g.own = "function"
        session["seen"] = "yes"
        res.write("begun")
        while not read:
            await asyncio.sleep(0.001)
        assert request.path == req.path == "/"
        assert current_app.name == Played.__module__
        assert (g.user, g.own, session["seen"]) == ("ada", "function", "yes")
        session["late"] = "lost"
        assert await asyncio.gather(inner(), inner()) == ["/", "/"]
        res.end(" right")

    async def inner() -> str:
        await asyncio.sleep(0)
        return request.path

    # The response is being sent once its client has read of it. The function outlives the request.
    read: list[bool] = []
    played = Played(function)

    @played.app.before_request
    def login() -> None:
        g.user = "ada"

    closed: list[Any] = []
    played.app.teardown_appcontext(lambda error: closed.append(threading.get_native_id()))
    with played.visit() as visit:
        visit.read_until(b"begun")
        read.append(True)
        assert visit.read_to_end().endswith(b"right")
    assert played.session_of(visit) == {"seen": "yes"}
    # Of the request, and of the function, which ran on.
    until(lambda: len(closed) == 2, "the teardown")
    assert played.seen == ["teardown"]


@on_threads_and_greenlets
def test_the_functions_of_several_clients_do_not_see_each_other() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
            assert request.args["name"] == req.query["name"]
        res.end(request.args["name"])

    played = Played(function)
    visits = [Visit(played.app, f"/?name={number}") for number in range(20)]
    for number, visit in enumerate(visits):
        with visit:
            assert visit.read_to_end().endswith(b"\r\n\r\n%d" % number)


# -- all of them


@pytest.mark.long_except("greenlets")
@on_threads_and_greenlets
def test_hundreds_of_clients_leave_nothing_behind() -> None:
    ended: list[int] = []

    async def function(req: Any, res: ServerResponse) -> None:
        # The client may leave before this write returns, which then raises.
        try:
            res.write("begun")
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append(1)

    def visit_all(count: int) -> None:
        for _ in range(count):
            number = len(ended)
            with Played(function).visit() as visit:
                visit.read_until(b"begun")
            until(lambda number=number: len(ended) > number, "the end")

    def counts() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    visit_all(5)
    # Threads of other tests may end meanwhile, and none begins.
    before = counts()
    visit_all(100)
    until(lambda: counts()[0] <= before[0] and counts()[1] <= before[1], "all to be given back")


@on_threads_and_greenlets
def test_a_view_of_flask_that_is_async_may_return_a_pipeline_of_an_async_source() -> None:
    app = Flask(__name__)

    async def numbers() -> Any:
        for number in range(3):
            await asyncio.sleep(0.001)
            yield {"data": number}

    @app.get("/")
    async def view() -> Any:
        await asyncio.sleep(0)
        return pipeline(numbers(), SseStream(request), ServerResponse())

    with Visit(app) as visit:
        body = visit.read_to_end().partition(b"\r\n\r\n")[2]
    assert [each["data"] for each in Decoder().feed(body)[1:]] == ["0", "1", "2"]


# -- the rest of the shape


@on_threads_and_greenlets
def test_headers_cannot_change_after_the_start_and_timers_are_held() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        res.write("x")
        while not res.headers_sent:
            await asyncio.sleep(0.001)
        with pytest.raises(HeadersSent):
            res.status(500)
        set_interval(lambda: res.end("y"), 10)

    with Played(function).visit() as visit:
        assert visit.read_to_end().endswith(b"y")


@on_threads_and_greenlets
def test_nothing_is_written_to_a_client_that_has_left_by_a_function_that_ended() -> None:
    async def function(req: Any, res: ServerResponse) -> None:
        # The client may leave before this write returns, which then raises.
        try:
            res.write("begun")
            await once(res, "drain-that-never-comes")
        except (StreamDestroyed, ClientDisconnected) as error:
            played.seen.append(type(error))
        except asyncio.CancelledError:
            played.seen.append("cancelled")
            raise

    played = Played(function)
    with played.visit() as visit:
        visit.read_until(b"begun")
    until(lambda: len(played.seen) > 1, "the end")
    assert set(played.seen) <= {"teardown", "cancelled", StreamDestroyed}


def test_a_method_view_of_a_blueprint_may_be_async() -> None:
    blueprint = Blueprint("own", __name__)

    class Jobs(MethodView):
        init_every_request = False
        kind = "of the class"

        @handler
        async def get(self, req: Any, res: ServerResponse, id: int) -> Any:
            await asyncio.sleep(0)
            if id == 404:
                return res.status(404).json({"error": "no such job"})
            res.write(f"{self.kind} {id} {request.blueprint} {req.params}")
            await asyncio.sleep(0.01)
            res.end(" end")
            return None

        @handler
        async def post(self, req: Any, res: ServerResponse, id: int) -> None:
            res.write(f"{req.body} ")
            await asyncio.sleep(0.01)
            res.end(str(id))

    blueprint.add_url_rule("/jobs/<int:id>", view_func=Jobs.as_view("jobs"))
    app = Flask(__name__)
    app.register_blueprint(blueprint, url_prefix="/own")
    client = app.test_client()
    assert client.get("/own/jobs/7").data == b"of the class 7 own {'id': 7} end"
    assert client.post("/own/jobs/8", json=[1]).data == b"[1] 8"
    missing = client.get("/own/jobs/404")
    assert (missing.status_code, missing.json) == (404, {"error": "no such job"})
    assert client.put("/own/jobs/9").status_code == 405
