"""A source drawn through a stream: lazily, at the client's pace, and closed in time."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import gevent.queue
import pytest
from gevent import GreenletExit

from ssestream import (
    MessageError,
    ServerResponse,
    SseStream,
    StreamError,
    pipeline,
    statistics,
)
from ssestream.wire import Decoder
from tests.kit.promptness import in_one_try
from tests.kit.sink import Sink
from tests.kit.visit import Visit, in_greenlet, on_threads_and_greenlets, until


class Played:
    """An app of one pipeline, and what came of it."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.seen: list[str] = []
        self.before_serving: Callable[[], object] = lambda: None
        self.sse_stream: Any = None
        self.res: Any = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.sse_stream = SseStream(environ)
        self.res = ServerResponse()
        for name, emitter in (("res", self.res), ("stream", self.sse_stream)):
            for event in ("finish", "close"):
                emitter.on(event, self._seer(f"{name} {event}"))
        assert self.pipe() is self.res
        self.before_serving()
        return self.res(environ, start_response)

    def pipe(self) -> Any:
        return pipeline(self.source, self.sse_stream, self.res)

    def _seer(self, what: str) -> Callable[[], None]:
        return lambda: self.seen.append(what)

    def over(self) -> list[str]:
        until(lambda: {"res close", "stream close"} <= set(self.seen), "both closes")
        return self.seen


class Source:
    """An iterator that is no generator, and knows what was done to it."""

    def __init__(self, messages: Any) -> None:
        self.messages = iter(messages)
        self.drawn = 0
        self.closed = 0

    def __iter__(self) -> "Source":
        return self

    def __next__(self) -> Any:
        message = next(self.messages)
        self.drawn += 1
        return message

    def close(self) -> None:
        self.closed += 1


def numbers(count: int) -> list[dict[str, int]]:
    return [{"data": number} for number in range(count)]


# -- the ordinary course


@on_threads_and_greenlets
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_an_exhausted_source_ends_the_stream(count: int) -> None:
    source = Source(numbers(count))
    played = Played(source)
    with Visit(played) as visit:
        visit.read_to_end()
        messages = Decoder().feed(visit.body)
        assert messages == [{"comment": "ok"}, *({"data": str(n)} for n in range(count))]
        seen = played.over()
    assert sorted(seen) == ["res close", "res finish", "stream close", "stream finish"]
    until(lambda: source.closed, "the source's close")
    assert source.closed == 1


@on_threads_and_greenlets
@pytest.mark.parametrize(
    "source",
    [numbers(3), tuple(numbers(3)), iter(numbers(3)), (message for message in numbers(3))],
    ids=["list", "tuple", "iterator", "generator"],
)
def test_any_iterable_is_a_source(source: Any) -> None:
    if isinstance(source, Iterator):  # these are used up, and the test runs twice
        source = iter(numbers(3))
    with Visit(Played(source)) as visit:
        visit.read_to_end()
        assert visit.body == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"


@on_threads_and_greenlets
def test_nothing_is_drawn_before_the_response_is_sent() -> None:
    source = Source(numbers(3))
    played = Played(source)
    drawn_before: list[int] = []

    def linger() -> None:
        for _ in range(20):
            gevent.sleep(0.001)
        drawn_before.append(source.drawn)

    played.before_serving = linger
    with Visit(played) as visit:
        visit.read_to_end()
    assert drawn_before == [0]
    assert source.drawn == 3


@on_threads_and_greenlets
def test_a_source_of_a_head_request_is_closed_undrawn() -> None:
    source = Source(numbers(3))
    played = Played(source)
    with Visit(played, method="HEAD") as visit:
        visit.read_to_end()
        assert visit.body == b""
        assert sorted(played.over()) == ["res close", "stream close"]
    until(lambda: source.closed, "the source's close")
    assert (source.drawn, source.closed) == (0, 1)


def test_a_generator_that_was_never_begun_is_closed_too() -> None:
    source = (message for message in numbers(3))
    res = pipeline(source, SseStream(), ServerResponse())
    res.destroy()
    until(lambda: source.gi_frame is None, "the generator's end")


@on_threads_and_greenlets
def test_what_was_written_before_comes_first() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        sse_stream = SseStream(environ)
        sse_stream.write({"data": "mine"})
        return pipeline(numbers(1), sse_stream, ServerResponse())(environ, start_response)

    with Visit(app) as visit:
        visit.read_to_end()
        assert visit.body == b":ok\n\ndata: mine\n\ndata: 0\n\n"


@on_threads_and_greenlets
def test_the_app_may_end_the_stream_before_the_source_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def endless() -> Iterator[dict[str, str]]:
        try:
            while True:
                yield {"data": "more"}
                gevent.sleep(0.001)
        finally:
            closed.append(True)

    closed: list[bool] = []
    played = Played(endless())
    with Visit(played) as visit:
        visit.read_until(b"more\n\n")
        played.sse_stream.end({"data": "enough"})
        visit.read_to_end()
        assert visit.body.endswith(b"data: enough\n\n")
        until(lambda: closed, "the generator's end")
    assert closed == [True]
    assert not caplog.records


# -- the client's pace


@on_threads_and_greenlets
def test_no_more_is_drawn_than_the_client_takes() -> None:
    size = 1000

    def draw() -> tuple[bool, tuple[int, int]]:
        source = Source({"data": f"{number:0{size}}"} for number in range(100_000))
        played = Played(source)
        with Visit(played, send_buffer=8192) as visit:
            until(
                lambda: played.sse_stream and played.sse_stream.writable_need_drain,
                "a full buffer",
            )
            others_run()
            stopped_at = source.drawn
            # What the kernel takes, the response's 16 KiB, the stream's 16 messages.
            assert stopped_at < 500
            others_run()
            later = source.drawn
            assert later < 500
            visit.read_until(f"data: {later + 200:0{size}}\n\n".encode())
            assert source.drawn > later + 200
            messages = Decoder().feed(visit.body)[1:]
            assert [int(message["data"]) for message in messages] == list(range(len(messages)))
        played.over()
        until(lambda: source.closed, "the source's close")
        return stopped_at == later, (stopped_at, later)

    # On a busy machine the thread that fills the buffers may have no turn for so long.
    in_one_try(draw)


def others_run() -> None:
    for _ in range(20):
        gevent.sleep(0.001)


# -- the client leaves


def sleeps() -> None:
    gevent.sleep(1000)


def waits_for_a_queue() -> None:
    gevent.queue.Queue().get()


def waits_for_an_event() -> None:
    gevent.event.Event().wait()


@on_threads_and_greenlets
@pytest.mark.parametrize("wait", [sleeps, waits_for_a_queue, waits_for_an_event])
def test_a_source_that_waits_is_closed_at_once_when_the_client_leaves(
    wait: Callable[[], None],
) -> None:
    steps: list[str] = []

    def source() -> Iterator[dict[str, str]]:
        try:
            yield {"data": "first"}
            steps.append("waits")
            wait()
            steps.append("waited")
            yield {"data": "second"}
        except Exception:
            steps.append("an exception")
        finally:
            steps.append("finally")

    played = Played(source())
    with Visit(played) as visit:
        visit.read_until(b"first\n\n")
        until(lambda: steps == ["waits"], "the wait")
        visit.fin()
        until(lambda: "finally" in steps, "the source's end")
        played.over()
    assert steps == ["waits", "finally"]
    assert "res finish" not in played.seen


@on_threads_and_greenlets
def test_a_source_that_waits_for_drain_is_closed_when_the_client_leaves() -> None:
    source = Source({"data": "x" * 1000} for _ in range(100_000))
    played = Played(source)
    with Visit(played, send_buffer=8192):
        until(lambda: played.sse_stream and played.sse_stream.writable_need_drain, "a full buffer")
    played.over()
    until(lambda: source.closed, "the source's close")
    assert source.closed == 1


@on_threads_and_greenlets
@pytest.mark.parametrize("end", ["the client leaves", "the stream is destroyed"])
def test_a_source_that_never_waits_is_closed_at_the_end(end: str) -> None:
    """It does not even wait for drain, as it writes less than the client takes."""
    source = Source({"data": number} for number in range(10**12))
    played = Played(source)
    with Visit(played) as visit:
        visit.read_until(b"data: 1000\n\n")
        if end == "the stream is destroyed":
            played.sse_stream.destroy()
            visit.read_to_end()
    played.over()
    until(lambda: source.closed, "the source's close")
    assert source.closed == 1


@on_threads_and_greenlets
@pytest.mark.parametrize(("size", "expected"), [(1, GreenletExit), (1 << 20, GeneratorExit)])
def test_a_source_that_sleeps_and_one_that_waits_for_its_client_are_ended_differently(
    size: int, expected: type[BaseException]
) -> None:
    """So only a ``finally`` sees every end."""
    ended: list[BaseException] = []

    def source() -> Iterator[dict[str, str]]:
        try:
            while True:
                yield {"data": "x" * size}
                if size == 1:
                    gevent.sleep(1000)
        except BaseException as error:
            ended.append(error)
            raise

    played = Played(source())
    with Visit(played, send_buffer=8192) as visit:
        if size == 1:
            visit.read_until(b"x\n\n")
        else:
            until(lambda: played.sse_stream and played.sse_stream.writable_need_drain, "the wait")
    until(lambda: ended, "the source's end")
    assert [type(each) for each in ended] == [expected]


@on_threads_and_greenlets
def test_the_rest_of_a_text_is_not_written_to_a_stream_that_is_over() -> None:
    written: list[Any] = []
    closed: list[bool] = []

    def source() -> Iterator[str]:
        try:
            yield "data: x\n\n" * 1000
        finally:
            closed.append(True)

    class Counting(SseStream):
        def write(self, *args: Any) -> bool:
            written.append(args)
            self.destroy()
            return super().write(*args)

    pipeline(source(), Counting(), Sink())
    until(lambda: closed, "the end of the source")
    assert len(written) == 1


@on_threads_and_greenlets
def test_a_source_may_wait_in_its_finally() -> None:
    steps: list[str] = []

    def source() -> Iterator[dict[str, str]]:
        try:
            yield {"data": "first"}
            gevent.sleep(1000)
        finally:
            gevent.sleep(0.005)
            steps.append("cleaned up")

    with Visit(Played(source())) as visit:
        visit.read_until(b"first\n\n")
    until(lambda: steps, "the clean-up")


@on_threads_and_greenlets
def test_a_source_that_a_handler_of_close_ends_may_wait_in_its_finally() -> None:
    if not in_greenlet() and int(gevent.__version__.partition(".")[0]) < 25:
        pytest.skip("gevent 24 wakes a waiter of another thread before the calls of its loop")
    steps: list[str] = []
    over = gevent.event.Event()

    def source() -> Iterator[dict[str, str]]:
        try:
            yield {"data": "first"}
            over.wait()
            steps.append("woken")
        finally:
            gevent.sleep(0.005)
            steps.append("cleaned up")

    played = Played(source())
    # After the handler of the pipeline, which ends the wait of the source, too.
    played.before_serving = lambda: played.sse_stream.on("close", over.set)
    with Visit(played) as visit:
        visit.read_until(b"first\n\n")
    until(lambda: "cleaned up" in steps, "the clean-up")


def test_a_plain_blocking_call_in_a_plain_thread_is_waited_for() -> None:
    """Nobody can break it; the source is closed as soon as it has returned."""
    gate = threading.Event()
    steps: list[str] = []

    def source() -> Iterator[dict[str, str]]:
        try:
            yield {"data": "first"}
            steps.append("waits")
            gate.wait()
            steps.append("waited")
            yield {"data": "second"}
            steps.append("never drawn again")
        finally:
            steps.append("finally")

    played = Played(source())
    with Visit(played) as visit:
        visit.read_until(b"first\n\n")
        until(lambda: steps == ["waits"], "the wait")
    played.over()
    assert steps == ["waits"]
    gate.set()
    until(lambda: "finally" in steps, "the source's end")
    assert steps == ["waits", "waited", "finally"]


# -- failures


def raises() -> Iterator[Any]:
    yield {"data": "first"}
    raise LookupError("in the source")


def gives_nonsense() -> Iterator[Any]:
    yield {"data": "first"}
    yield {"dada": "second"}


@on_threads_and_greenlets
@pytest.mark.parametrize(
    ("source", "error"), [(raises, LookupError), (gives_nonsense, MessageError)]
)
@pytest.mark.parametrize("handled", [False, True], ids=["unhandled", "handled"])
def test_a_source_that_fails_is_logged_and_breaks_the_transfer(
    source: Callable[[], Iterator[Any]],
    error: type[Exception],
    handled: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    played = Played(source())
    errors: list[BaseException] = []
    if handled:
        played.before_serving = lambda: played.sse_stream.on("error", errors.append)
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(played) as visit:
        visit.read_to_end()
        seen = played.over()
        until(lambda: caplog.records, "the log")
    assert "res finish" not in seen
    assert len(caplog.records) == 1
    record = caplog.records[0]
    assert record.name == "ssestream"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], error)
    assert [type(each) for each in errors] == ([error] if handled else [])


def message_of(error: BaseException) -> dict[str, Any]:
    return {"event": "error", "data": {"kind": type(error).__name__}}


class Failing(Played):
    """An app of one pipeline with *on_error*."""

    def __init__(self, source: Any, on_error: Any) -> None:
        super().__init__(source)
        self.on_error = on_error

    def pipe(self) -> Any:
        return pipeline(self.source, self.sse_stream, self.res, on_error=self.on_error)


@on_threads_and_greenlets
@pytest.mark.parametrize("reachable", [True, False], ids=["socket", "no socket"])
@pytest.mark.parametrize("handled", [False, True], ids=["unhandled", "handled"])
@pytest.mark.parametrize(
    ("source", "error"), [(raises, LookupError), (gives_nonsense, MessageError)]
)
def test_a_source_that_fails_may_say_so_behind_all_it_gave_before_its_client_is_cut(
    source: Any, error: type[Exception], handled: bool, reachable: bool, caplog: Any
) -> None:
    ended_before = statistics().closed.get("error", 0)
    played = Failing(source(), message_of)
    errors: list[BaseException] = []
    if handled:
        played.before_serving = lambda: played.sse_stream.on("error", errors.append)
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(played, reachable=reachable) as visit:
        visit.read_to_end()
        seen = played.over()
        messages = Decoder().feed(visit.body)
        told = {"event": "error", "data": f'{{"kind":"{error.__name__}"}}'}
        assert messages == [{"comment": "ok"}, {"data": "first"}, told]
    # Not finished: the response is cut, and its client sees that it is not whole.
    assert sorted(seen) == ["res close", "stream close"]
    assert [type(each) for each in errors] == ([error] if handled else [])
    ours = [record for record in caplog.records if record.name == "ssestream"]
    assert [type(record.exc_info[1]) for record in ours] == [error]
    assert statistics().closed.get("error", 0) == ended_before + 1


@on_threads_and_greenlets
def test_what_waits_for_a_slow_client_comes_before_the_message_of_a_failed_source() -> None:
    def source() -> Iterator[dict[str, str]]:
        yield {"data": "x" * 300_000}
        raise LookupError("in the source")

    played = Failing(source(), message_of)
    with Visit(played, send_buffer=8192) as visit:
        visit.read_until(b"xxx")
        visit.read_to_end()
        assert visit.body.endswith(
            b"x" * 1000 + b'\n\nevent: error\ndata: {"kind":"LookupError"}\n\n'
        )
        assert visit.body.count(b"x") == 300_000
    assert "res finish" not in played.over()


def fails_too(error: BaseException) -> Any:
    raise KeyError("in on_error")


@on_threads_and_greenlets
@pytest.mark.parametrize(
    ("on_error", "error"),
    [
        (fails_too, KeyError),
        (lambda error: None, MessageError),
        (lambda error: {"dada": "x"}, MessageError),
        (lambda error: {"data": error}, MessageError),
    ],
)
def test_an_on_error_that_fails_is_logged_and_the_client_is_cut_all_the_same(
    on_error: Any, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    played = Failing(raises(), on_error)
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(played) as visit:
        visit.read_to_end()
        seen = played.over()
    assert "res finish" not in seen
    kinds = [type(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert kinds == [LookupError, error]


@on_threads_and_greenlets
def test_on_error_is_not_asked_when_the_client_has_left() -> None:
    asked: list[BaseException] = []

    def source() -> Iterator[dict[str, str]]:
        try:
            yield {"data": "first"}
            gevent.sleep(1000)
        finally:
            steps.append("finally")
            raise LookupError("at the client's departure")

    steps: list[str] = []
    played = Failing(source(), asked.append)
    with Visit(played) as visit:
        visit.read_until(b"first\n\n")
        visit.fin()
        until(lambda: steps, "the source's end")
        played.over()
    assert not asked


def test_each_client_of_a_stream_gets_the_message_of_the_failed_source() -> None:
    gate = threading.Event()

    def source() -> Iterator[dict[str, str]]:
        yield {"data": "first"}
        gate.wait()
        raise LookupError("in the source")

    sse_stream = SseStream()
    second = ServerResponse()
    sse_stream.pipe(second)

    def app(environ: Any, start_response: Any) -> Any:
        res = pipeline(source(), sse_stream, ServerResponse(), on_error=message_of)
        return res(environ, start_response)

    with Visit(app) as one, Visit(second) as two:
        for visit in (one, two):
            visit.read_until(b"first\n\n")
        gate.set()
        for visit in (one, two):
            visit.read_to_end()
            assert visit.body.endswith(b'event: error\ndata: {"kind":"LookupError"}\n\n')
    assert sse_stream.destroyed


@pytest.mark.parametrize("wrong", ["message", 5, {"event": "error"}])
def test_an_on_error_that_is_no_function_is_refused_before_anything_is_piped(wrong: Any) -> None:
    res = ServerResponse()
    with pytest.raises(TypeError, match="on_error must be a function of an exception"):
        pipeline(numbers(1), SseStream(), res, on_error=wrong)

    async def later(error: BaseException) -> Any:
        return {"data": "x"}

    with pytest.raises(TypeError, match="on_error must be a plain function"):
        pipeline(numbers(1), SseStream(), res, on_error=later)
    assert res.writable_length == 0


def test_an_iterator_that_cannot_be_iterated_fails_at_once() -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise LookupError("in iter()")

    with pytest.raises(LookupError):
        pipeline(Broken(), SseStream(), ServerResponse())


def test_a_close_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Source(list[Any]):
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise StopIteration

        def close(self) -> None:
            raise LookupError("in close()")

    with caplog.at_level(logging.ERROR, "ssestream"), Visit(Played(Source())) as visit:
        visit.read_to_end()
        assert visit.body == b":ok\n\n"
        until(lambda: caplog.records, "the log")
    assert "LookupError" in caplog.text


# -- destinations


@on_threads_and_greenlets
def test_a_pipeline_may_lead_to_anything_with_write() -> None:
    source = Source(numbers(100))
    sink = Sink()
    assert pipeline(source, SseStream(), sink) is sink
    until(lambda: sink.ended, "the end")
    assert b"".join(sink.got) == b":ok\n\n" + b"".join(b"data: %d\n\n" % n for n in range(100))
    until(lambda: source.closed, "the source's close")


@on_threads_and_greenlets
def test_a_refused_pipe_starts_nothing() -> None:
    source = Source(numbers(3))
    res = ServerResponse()
    res.end()
    with pytest.raises(StreamError):
        pipeline(source, SseStream(), res)
    assert source.drawn == 0
