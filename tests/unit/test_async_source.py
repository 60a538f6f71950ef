"""An async source: drawn, held back, cancelled and closed in one task of the asyncio loop."""

import asyncio
import contextvars
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import gevent
import pytest

from ssestream import ServerResponse, SseStream, StreamError, pipeline, set_timeout
from ssestream.runtime import asyncloop
from ssestream.wire import Decoder
from tests.kit.promptness import at_best
from tests.kit.servers import PATIENCE
from tests.kit.sink import Sink
from tests.kit.visit import Visit, on_threads_and_greenlets, until


class Played:
    """An app of one pipeline, and what came of it."""

    def __init__(self, source: Callable[["Played"], Any]) -> None:
        self.seen: list[Any] = []
        self.source: Any = source(self)
        self.sse_stream: Any = None
        self.on_error: Callable[[Any], object] | None = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.sse_stream = SseStream(environ)
        if self.on_error is not None:
            self.sse_stream.on("error", self.on_error)
        res = pipeline(self.source, self.sse_stream, ServerResponse())
        return res(environ, start_response)

    def saw(self, what: Any) -> None:
        until(lambda: what in self.seen, repr(what))


async def numbers(count: int, pause: float | None = 0.0) -> AsyncIterator[dict[str, int]]:
    for number in range(count):
        if pause is not None:
            await asyncio.sleep(pause)
        yield {"data": number}


async def noting(played: Played, pause: float, count: int = 10**9) -> AsyncIterator[Any]:
    """Notes its end, and the task of each step."""
    tasks = set()
    try:
        for number in range(count):
            tasks.add(asyncio.current_task())
            await asyncio.sleep(pause)
            played.seen.append(number)
            yield {"data": "x" * 1000}
    except BaseException as error:
        played.seen.append(type(error))
        raise
    finally:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0.01)
        played.seen.append("cleaned" if len(tasks) == 1 else tasks)


class Items:
    """An async iterator without ``aclose``."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __aiter__(self) -> "Items":
        return self

    async def __anext__(self) -> Any:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        await asyncio.sleep(0)
        return {"data": self.left}


class Response:
    """An object as HTTP clients have it: it iterates by a generator, and is closed itself."""

    def __init__(self, played: Played, pause: float) -> None:
        self.played, self.pause = played, pause

    async def __aiter__(self) -> Any:
        try:
            while True:
                yield {"data": "x"}
                await asyncio.sleep(self.pause)
        finally:
            self.played.seen.append("iterator closed")

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.played.seen.append("closed")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    # Once in a process, as the tests' own is not patched.
    return [each for each in found if "gevent has not patched" not in each]


# -- the ordinary course


@on_threads_and_greenlets
@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("pause", [0.0, None], ids=["awaits", "never awaits"])
def test_an_exhausted_source_ends_the_stream(
    count: int, pause: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    with Visit(Played(lambda played: numbers(count, pause))) as visit:
        visit.read_to_end()
    messages = Decoder().feed(visit.body)
    assert messages == [{"comment": "ok"}, *({"data": str(n)} for n in range(count))]
    assert warnings_of(caplog) == []


@on_threads_and_greenlets
def test_an_iterator_without_aclose_is_a_source(caplog: pytest.LogCaptureFixture) -> None:
    with Visit(Played(lambda played: Items(3))) as visit:
        visit.read_to_end()
    assert visit.body == b":ok\n\ndata: 2\n\ndata: 1\n\ndata: 0\n\n"
    with Visit(Played(lambda played: Items(10**9))) as visit:
        visit.read_until(b"data: ")
    assert warnings_of(caplog) == []


def test_what_can_be_iterated_in_both_ways_is_no_async_source() -> None:
    class Both(list[Any]):
        def __aiter__(self) -> Any:
            raise AssertionError

    with Visit(Played(lambda played: Both([{"data": 1}]))) as visit:
        assert visit.read_to_end().endswith(b":ok\n\ndata: 1\n\n")


@on_threads_and_greenlets
def test_a_message_comes_while_the_source_waits_for_the_next() -> None:
    async def source(played: Played) -> AsyncIterator[Any]:
        yield {"data": 1}
        while not played.seen:
            await asyncio.sleep(0.001)
        yield {"data": 2}

    played = Played(source)
    with Visit(played) as visit:
        visit.read_until(b"data: 1\n\n")
        played.seen.append("read")
        assert visit.read_to_end().endswith(b"data: 2\n\n")


@on_threads_and_greenlets
def test_text_and_on_error_are_as_in_any_source() -> None:
    async def source(played: Played) -> AsyncIterator[Any]:
        yield "data: o"
        await asyncio.sleep(0)
        yield b"ne\n\ndata: two\n\n"
        yield {"data": "three"}
        yield ": last"
        if played.seen:
            raise LookupError("no model")

    played = Played(source)
    with Visit(played) as visit:
        visit.read_to_end()
    assert visit.body == b":ok\n\ndata: one\n\ndata: two\n\ndata: three\n\n"

    def app(environ: Any, start_response: Any) -> Any:
        played = Played(source)
        played.seen.append("fail")
        res = pipeline(
            played.source,
            SseStream(environ),
            ServerResponse(),
            on_error=lambda error: {"event": "error", "data": str(error)},
        )
        return res(environ, start_response)

    with Visit(app) as visit:
        assert visit.read_to_end().endswith(b"event: error\ndata: no model\n\n")


@on_threads_and_greenlets
def test_sources_run_side_by_side_in_one_thread() -> None:
    threads = set()

    async def source(played: Played) -> AsyncIterator[Any]:
        threads.add(threading.get_native_id())
        together.append(1)
        while len(together) < 20:
            await asyncio.sleep(0.001)
        yield {"data": "all"}

    together: list[int] = []
    visits = [Visit(Played(source)) for _ in range(20)]
    for visit in visits:
        with visit:
            assert visit.read_to_end().endswith(b"data: all\n\n")
    assert len(threads) == 1
    assert threading.get_native_id() not in threads


@on_threads_and_greenlets
def test_the_source_has_a_context_of_its_own_and_no_request() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("the view's")

    async def source(played: Played) -> AsyncIterator[Any]:
        yield {"data": variable.get()}
        variable.set("the source's")
        await asyncio.sleep(0)
        yield {"data": variable.get()}

    with Visit(Played(source)) as visit:
        visit.read_to_end()
    assert visit.body == b":ok\n\ndata: none\n\ndata: the source's\n\n"


@on_threads_and_greenlets
def test_the_source_may_use_timeouts_across_its_steps() -> None:
    async def source(played: Played) -> AsyncIterator[Any]:
        try:
            yield {"data": "begun"}
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            yield {"data": "late"}

    with Visit(Played(source)) as visit:
        assert visit.read_to_end().endswith(b"data: late\n\n")


# -- back pressure


@on_threads_and_greenlets
def test_the_source_is_asked_for_no_more_than_the_client_takes() -> None:
    played = Played(lambda played: noting(played, 0, 2000))
    with Visit(played, send_buffer=4096) as visit:
        visit.read_until(b"data: ")
        until(lambda: played.sse_stream.writable_need_drain, "a full stream")
        drawn = len(played.seen)
        gevent.sleep(0.1)
        # Whatever was under way has come to rest: the source waits.
        until(lambda: played.sse_stream.writable_need_drain, "a full stream")
        assert len(played.seen) <= max(drawn, 600)
        assert played.sse_stream.writable_length <= 17
        visit.read_to_end()
    assert len(Decoder().feed(visit.body)) == 2001


# -- the client leaves


@on_threads_and_greenlets
@pytest.mark.parametrize("leave", ["fin", "rst"])
def test_a_source_is_cancelled_in_the_middle_of_an_await(
    leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def source(played: Played) -> AsyncIterator[Any]:
        try:
            yield {"data": "begun"}
            await asyncio.sleep(PATIENCE)
        finally:
            played.seen.append(time.monotonic())
            await asyncio.sleep(0.01)
            played.seen.append("cleaned")

    def departure() -> float:
        played = Played(source)
        with Visit(played) as visit:
            visit.read_until(b"data: begun\n\n")
            left = time.monotonic()
            getattr(visit, leave)()
            played.saw("cleaned")
            return float(played.seen[0] - left)

    at_best(departure, 0.1)
    assert warnings_of(caplog) == []


@on_threads_and_greenlets
def test_a_source_that_waits_for_its_client_is_closed_in_its_own_task() -> None:
    played = Played(lambda played: noting(played, 0))
    with Visit(played, send_buffer=4096) as visit:
        visit.read_until(b"data: ")
        until(lambda: played.sse_stream.writable_need_drain, "a full stream")
    played.saw("cleaned")
    assert GeneratorExit in played.seen


@on_threads_and_greenlets
def test_a_source_that_never_waits_is_closed_too() -> None:
    async def source(played: Played) -> AsyncIterator[Any]:
        try:
            while True:
                yield {"comment": "x"}
        finally:
            played.seen.append("cleaned")

    played = Played(source)
    with Visit(played) as visit:
        visit.read_until(b": x")
    played.saw("cleaned")


@on_threads_and_greenlets
def test_an_object_is_closed_with_its_iterator() -> None:
    played = Played(lambda played: Response(played, PATIENCE))
    with Visit(played) as visit:
        visit.read_until(b"data: x\n\n")
    played.saw("closed")
    assert played.seen == ["iterator closed", "closed"]


@on_threads_and_greenlets
def test_destroying_and_ending_the_stream_ends_the_source() -> None:
    for end in ("destroy", "end"):
        played = Played(lambda played: noting(played, 0.001))
        with Visit(played) as visit:
            visit.read_until(b"data: ")
            getattr(played.sse_stream, end)()
            visit.read_to_end()
        played.saw("cleaned")


@on_threads_and_greenlets
def test_a_source_of_a_head_request_is_closed_undrawn() -> None:
    drawn = []

    class Undrawn(Response):
        def __aiter__(self) -> Any:
            drawn.append(1)

    played = Played(lambda played: Undrawn(played, 0))
    with Visit(played, method="HEAD") as visit:
        visit.read_to_end()
    played.saw("closed")
    assert drawn == []


def test_a_refused_pipe_closes_the_source() -> None:
    played = Played(lambda played: Response(played, 0))
    res = ServerResponse()
    res.end()
    with pytest.raises(StreamError):
        pipeline(played.source, SseStream(), res)
    played.saw("closed")


# -- what is wrong with a source


@on_threads_and_greenlets
def test_an_exception_destroys_the_stream_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def source(played: Played) -> AsyncIterator[Any]:
        yield {"data": "begun"}
        raise LookupError("no model")

    for heard in (False, True):
        caplog.clear()
        played = Played(source)
        errors: list[Any] = []
        if heard:
            played.on_error = errors.append
        with Visit(played) as visit:
            visit.read_to_end()
            until(lambda: warnings_of(caplog), "the log")
        until(lambda heard=heard, errors=errors: len(errors) == heard, "the error")
        (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)
        assert "test_async_source.py" in (logging.Formatter().formatException(record.exc_info))


@on_threads_and_greenlets
@pytest.mark.parametrize("wrong", ["text", "coroutine", "both"])
def test_a_wrong_message_destroys_the_stream(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    async def message() -> Any:
        return {"data": 1}

    async def source(played: Played) -> AsyncIterator[Any]:
        yield 5 if wrong == "text" else message()

    def plain(played: Played) -> Any:
        yield message()

    played = Played(plain if wrong == "both" else source)
    with Visit(played) as visit:
        visit.read_to_end()
        until(lambda: played.sse_stream.destroyed, "the end")
        until(lambda: "MessageError" in caplog.text, "the log")
    if wrong != "text":
        assert "a coroutine, which has to be awaited first" in caplog.text


@on_threads_and_greenlets
def test_a_source_that_keeps_its_cancellation_to_itself_is_named_and_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stubborn(played: Played) -> AsyncIterator[Any]:
        try:
            while True:
                yield {"data": 1}
                played.seen.append("waits")
                try:
                    await asyncio.sleep(PATIENCE)
                except asyncio.CancelledError:
                    played.seen.append("caught")
        finally:
            played.seen.append("cleaned")

    played = Played(stubborn)
    with Visit(played) as visit:
        visit.read_until(b"data: 1\n\n")
        played.saw("waits")
    played.saw("cleaned")
    assert played.seen == ["waits", "caught", "cleaned"]
    (line,) = warnings_of(caplog)
    assert "stubborn has caught asyncio.CancelledError" in line


@on_threads_and_greenlets
def test_a_source_that_does_not_end_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncloop, "PATIENCE", 0.01)

    async def endless(played: Played) -> AsyncIterator[Any]:
        yield {"data": 1}
        played.seen.append("waits")
        while not warnings_of(caplog):
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                pass
        played.seen.append("over")

    played = Played(endless)
    with Visit(played) as visit:
        visit.read_until(b"data: 1\n\n")
        played.saw("waits")
    played.saw("over")
    (line,) = warnings_of(caplog)
    assert "endless was cancelled 0.01 seconds ago" in line


@on_threads_and_greenlets
def test_a_source_that_cannot_be_closed_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unclosable(Items):
        async def aclose(self) -> None:
            raise LookupError("no close")

    with Visit(Played(lambda played: Unclosable(2))) as visit:
        assert visit.read_to_end().endswith(b"data: 0\n\n")
        until(lambda: "cannot be closed" in caplog.text, "the log")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: asyncio.sleep(0), "a coroutine: call an async def that yields"),
        (lambda: numbers, r"a function: call it, numbers\(\.\.\.\)"),
        (lambda: lambda: (yield), r"a function: call it"),
        (lambda: 5, "not int"),
    ],
)
def test_what_is_no_source_is_refused_at_once(wrong: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        pipeline(wrong(), SseStream(), Sink())


@on_threads_and_greenlets
def test_without_a_loop_the_stream_fails(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncloop.end_loop()

    def refuse() -> None:
        raise OSError(24, "no descriptors")

    monkeypatch.setattr(asyncloop, "check_descriptors", refuse)
    with Visit(Played(lambda played: numbers(3))) as visit:
        visit.read_to_end()
        until(lambda: "no descriptors" in caplog.text, "the log")
    assert b"data" not in visit.received


# -- beside responses


@on_threads_and_greenlets
def test_a_pipeline_may_lead_to_anything_with_write_and_set_timers() -> None:
    async def source() -> AsyncIterator[Any]:
        ticked = asyncio.Event()
        loop = asyncio.get_running_loop()
        set_timeout(lambda: loop.call_soon_threadsafe(ticked.set), 1)
        await ticked.wait()
        yield {"data": 1}

    sink = Sink()
    assert pipeline(source(), SseStream(), sink) is sink
    until(lambda: sink.ended, "the end")
    assert b"".join(sink.got) == b":ok\n\ndata: 1\n\n"


@pytest.mark.long
@on_threads_and_greenlets
def test_hundreds_of_streams_leave_nothing_behind() -> None:
    def visit_all(count: int, known: list[Any] | None = None) -> None:
        for _ in range(count):
            played = Played(lambda played: noting(played, 0.001))
            if known is not None:
                known.append(weakref.ref(played.source))
            with Visit(played) as visit:
                visit.read_until(b"data: ")
            played.saw("cleaned")

    def counts() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    visit_all(5)
    before = counts()
    known: list[Any] = []
    visit_all(200, known)
    until(lambda: counts()[0] <= before[0] and counts()[1] <= before[1], "all to be given back")

    def gone() -> bool:
        # The last of them may be in the hands of a thread when the collector first comes.
        gc.collect()
        return not any(each() for each in known)

    until(gone, "the sources to be gone")
