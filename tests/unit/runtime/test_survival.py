"""What is no ``Exception``, and threads that cannot be started, stop nobody else."""

import contextlib
import functools
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import GreenletExit
from werkzeug.test import EnvironBuilder

from ssestream import Channels, ServerResponse, SseStream, clear_interval, pipeline, set_interval
from ssestream.channels import listener, tasks
from ssestream.channels.subscription import Subscription
from ssestream.runtime import loop as hub
from ssestream.runtime import threads as real_threads
from ssestream.runtime.calls import CallQueue
from ssestream.runtime.loop import Loop, current_loop
from ssestream.runtime.threads import Pool
from ssestream.runtime.wheel import TimerWheel
from tests.kit.following import Client, Following, data_of, numbers
from tests.kit.insides import call_queue_of
from tests.kit.states import end_all_of
from tests.kit.visit import Visit, in_greenlet, on_threads_and_greenlets, until

#: What an app may raise, on purpose or as somebody else has it raised there.
RAISED = [gevent.Timeout, GreenletExit, SystemExit, KeyboardInterrupt, GeneratorExit]


@pytest.fixture(params=RAISED, ids=lambda each: each.__name__)
def raised(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent would print what ends a greenlet."""
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *args: None)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[Any]]]:
    """The types of what this package has logged."""
    with caplog.at_level(logging.ERROR, "ssestream"):
        yield lambda: [record.exc_info[0] for record in caplog.records if record.exc_info]


@pytest.fixture
def channels() -> Iterator[Channels]:
    made = Channels("memory://")
    yield made
    end_all_of(made)


def failing(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*args: object) -> Any:
        raise error

    return fail


def calls_of(pool: Pool) -> tuple[int, int]:
    """The calls that are not finished yet, and the threads that have none."""
    return pool._unfinished, pool._idle


# -- an app's code


@on_threads_and_greenlets
def test_the_other_handlers_run_and_the_other_events_come(
    raised: type[BaseException], log: Callable[[], list[Any]]
) -> None:
    sse_stream = SseStream()
    seen: list[str] = []
    sse_stream.write({"data": 1}, failing(raised))
    sse_stream.write({"data": 2}, lambda error: seen.append("callback"))
    for event in ("finish", "end", "close"):
        sse_stream.on(event, failing(raised))
        sse_stream.once(event, functools.partial(seen.append, event))
    sse_stream.end()
    with contextlib.suppress(GreenletExit):  # this greenlet runs some of them
        b"".join(sse_stream)
    until(lambda: len(seen) == 4, "all of them")
    assert seen == ["callback", "finish", "end", "close"]
    until(lambda: len(log()) >= 4, "the log")
    assert set(log()) == {raised}


@on_threads_and_greenlets
def test_a_killed_handler_leaves_the_others_to_run(log: Callable[[], list[Any]]) -> None:
    if not in_greenlet():
        return
    sse_stream, seen, running = SseStream(), [], []

    def waits() -> None:
        running.append(gevent.getcurrent())
        gevent.sleep(1000)

    sse_stream.on("close", waits)
    sse_stream.on("close", lambda: seen.append("second"))
    sse_stream.destroy()
    call_queue_of(sse_stream).call_soon(seen.append, "what came behind")
    until(lambda: running, "the handler")
    running[0].kill()
    until(lambda: len(seen) == 2, "the others")
    assert seen == ["second", "what came behind"]


@on_threads_and_greenlets
def test_an_interval_goes_on(raised: type[BaseException], log: Callable[[], list[Any]]) -> None:
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        raise raised

    timer = set_interval(tick, 1)
    until(lambda: len(ticks) > 3, "ticks")
    clear_interval(timer)
    until(lambda: set(log()) == {raised}, "the log")


def test_a_thread_of_the_pool_goes_on(raised: type[BaseException]) -> None:
    pool, done = Pool(), threading.Event()
    pool.submit(failing(raised))
    until(lambda: calls_of(pool) == (0, 1), "the thread to be free again")
    pool.submit(done.set)
    assert done.wait(10)


@on_threads_and_greenlets
def test_a_destination_that_fails_is_let_go_and_the_others_stay(
    raised: type[BaseException],
) -> None:
    class Sink:
        def __init__(self, fails: bool = False) -> None:
            self.got: list[bytes] = []
            self.fails = fails

        def write(self, chunk: bytes) -> None:
            self.got.append(chunk)
            if self.fails and b"data" in chunk:
                raise raised

    sse_stream, errors = SseStream(), []
    sse_stream.on("error", errors.append)
    first, last = Sink(fails=True), Sink()
    sse_stream.pipe(first)
    sse_stream.pipe(last)
    for number in range(3):
        sse_stream.write({"data": number})
    sse_stream.end()
    until(lambda: sse_stream.destroyed, "the end")
    assert b"".join(last.got) == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert b"".join(first.got) == b":ok\n\ndata: 0\n\n"
    until(lambda: errors, "the error")
    assert [type(error) for error in errors] == [raised]


@on_threads_and_greenlets
def test_a_source_that_fails_destroys_its_stream(
    raised: type[BaseException], log: Callable[[], list[Any]]
) -> None:
    closed: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        def source() -> Iterator[dict[str, int]]:
            yield {"data": 1}
            raise raised

        res = ServerResponse()
        res.on("close", lambda: closed.append("res"))
        sse_stream = SseStream(environ)
        sse_stream.on("close", lambda: closed.append("stream"))
        return pipeline(source(), sse_stream, res)(environ, start_response)

    with Visit(app) as visit:
        visit.read_to_end()
    until(lambda: set(closed) == {"res", "stream"}, "both closes")
    until(lambda: raised in log(), "the log")


@on_threads_and_greenlets
def test_a_filter_that_fails_withholds_and_holds_up_nobody(
    channels: Channels, raised: type[BaseException], log: Callable[[], list[Any]]
) -> None:
    def wanted(message: dict[str, Any]) -> bool:
        if message["data"] == "1":
            raise raised
        return True

    with (
        Client(Following(channels, "news", filter=wanted)) as filtered,
        Client(Following(channels, "news")) as other,
        Client(Following(channels, "sports")) as elsewhere,
    ):
        for number in range(3):
            channels.publish("news", {"data": number})
            channels.publish("sports", {"data": number})
        assert data_of(filtered.take(2)) == ["0", "2"]
        assert data_of(other.take(3)) == data_of(elsewhere.take(3)) == numbers(0, 3)
    assert log() == [raised]


@on_threads_and_greenlets
def test_a_push_that_fails_ends_its_own_stream_alone(
    channels: Channels, raised: type[BaseException]
) -> None:
    class Own(SseStream):
        def push(self, frame: bytes) -> bool:
            raise raised

    with Client(Following(channels, "news")) as other:
        pushed, errors = Own(), []
        pushed.on("error", errors.append)
        channels.subscribe(pushed, "news")
        behind, _ = Own(), channels.publish("news", {"data": 0})
        behind.on("error", errors.append)
        channels.subscribe(behind, "news", latest=1)
        until(lambda: pushed.destroyed and behind.destroyed, "the ends of the two")
        channels.publish("news", {"data": 1})
        assert data_of(other.take(2)) == ["0", "1"]
        until(lambda: len(errors) == 2, "their errors")
        assert all(raised.__name__ in repr(error.__cause__) for error in errors)


def test_each_function_is_called_on_close(raised: type[BaseException]) -> None:
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        res = ServerResponse()
        res.on("close", lambda: seen.append("event"))
        res.call_on_close(failing(raised))
        res.call_on_close(lambda: seen.append("function"))
        res.end("all")
        return res(environ, start_response)

    body = app(EnvironBuilder().get_environ(), lambda status, headers: None)
    assert b"".join(body) == b"all"
    res = body.outgoing
    with pytest.raises(raised):
        body.close()
    assert sorted(seen) == ["event", "function"]
    assert res.response == ()


def test_a_response_whose_head_cannot_be_made_is_over(raised: type[BaseException]) -> None:
    """Also where no request of Flask's is there to be torn down."""

    class Own(ServerResponse):
        def get_wsgi_headers(self, environ: Any) -> Any:
            raise raised

    res, closed = Own(), []
    res.on("close", lambda: closed.append(True))
    SseStream().pipe(res)
    with pytest.raises(raised):
        res(EnvironBuilder().get_environ(), lambda status, headers: None)
    until(lambda: closed, "its close")


# -- the listener and the readers


def test_a_timeout_that_a_filter_has_left_running_stops_nobody(channels: Channels) -> None:
    """It is raised in the listener, at some later time, wherever that waits then."""

    def wanted(message: dict[str, Any]) -> bool:
        if message["data"] == "0":
            gevent.Timeout(0.001).start()
        return True

    def play() -> None:
        with (
            Client(Following(channels, "news", filter=wanted)) as filtered,
            Client(Following(channels, "news")) as other,
        ):
            channels.publish("news", {"data": 0})
            filtered.take(1)
            gevent.sleep(0.01)
            for number in range(1, 4):
                channels.publish("news", {"data": number})
            assert data_of(filtered.take(4)) == data_of(other.take(4)) == numbers(0, 4)

    # Where there are threads, that would be a thread's own.
    gevent.spawn(greenlets_only(play)).get()


def greenlets_only(play: Callable[[], None]) -> Callable[[], None]:
    def played() -> None:
        real = tasks.monkey.is_module_patched
        tasks.monkey.is_module_patched = lambda name: True
        try:
            play()
        finally:
            tasks.monkey.is_module_patched = real

    return played


def greenlets_of(function_name: str) -> list[Any]:
    return [
        each
        for each in gc.get_objects()
        if issubclass(type(each), gevent.Greenlet)  # not by what a dead proxy says
        and getattr(each._run, "__name__", "") == function_name
        and not each.dead
    ]


def test_a_listener_that_is_killed_is_replaced(channels: Channels) -> None:
    def play() -> None:
        with Client(Following(channels, "news")) as client:
            for number in range(3):
                channels.publish("news", {"data": number})
                client.take(number + 1)
                gevent.killall(greenlets_of("_listen"))
            channels.publish("news", {"data": 3})
            assert data_of(client.take(4)) == numbers(0, 4)

    gevent.spawn(greenlets_only(play)).get()


@on_threads_and_greenlets
@pytest.mark.parametrize("error", [ValueError, gevent.Timeout])
def test_who_is_left_when_handing_on_is_interrupted_reads_on(
    channels: Channels, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who is to be cut by what is handed on is cut."""
    apps = [Following(channels, "news", key=number) for number in range(5)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(app)) for app in apps]
        until(lambda: not channels.statistics()["news"].lagging, "all to be live")
        monkeypatch.setattr(listener, "TURN", 1)
        broadcast, calls = listener.broadcast, []

        def interrupted(*args: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise error
            return broadcast(*args)

        monkeypatch.setattr(listener, "broadcast", interrupted)
        channels.publish("news", {"data": 0})
        for client in clients:
            assert data_of(client.take(1)) == ["0"]
        monkeypatch.setattr(Subscription, "deliver_now", failing(error))
        monkeypatch.setattr(Subscription, "lose_place", failing(error))
        channels.cut("news", 3)
        assert clients[3].all() == clients[3].messages
        monkeypatch.undo()
        channels.publish("news", {"data": 1})
        for client in (*clients[:3], clients[4]):
            assert data_of(client.take(2)) == ["0", "1"]


# -- threads that cannot be started


class Threads:
    """Those of a process that may start no more of them for now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.to_be_had = True
        self.refused = 0
        self._start = hub.start_thread
        for module in (real_threads, hub, tasks):
            monkeypatch.setattr(module, "start_thread", self.start)

    def start(self, function: Callable[..., object], args: tuple[Any, ...]) -> int:
        if not self.to_be_had:
            self.refused += 1
            raise RuntimeError("can't start new thread")
        return self._start(function, args)


def test_a_listener_and_a_reader_that_got_no_thread_are_started_when_there_is_one(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(monkeypatch)
    ids = [channels.publish("news", {"data": number}) for number in range(3)]
    current_loop()
    got: list[bytes] = []

    class Sink:
        def write(self, chunk: bytes) -> None:
            got.append(chunk)

    sse_stream = SseStream()
    sse_stream.pipe(Sink())
    threads.to_be_had = False
    channels.subscribe(sse_stream, "news", since=ids[0])
    until(lambda: threads.refused >= 2, "a listener and a reader to be refused")
    assert not any(b"data" in frame for frame in got)
    threads.to_be_had = True
    until(lambda: b"data: 2" in b"".join(got), "what it has missed")
    channels.publish("news", {"data": 3})
    until(lambda: b"data: 3" in b"".join(got), "what came then")


def test_a_call_whose_thread_was_not_to_be_had_does_not_wait_for_those_that_are_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, pool = Threads(monkeypatch), Pool()
    loop = Loop(gevent.get_hub(), pool)
    monkeypatch.setattr(gevent.get_hub(), "ssestream_loop", loop, raising=False)
    stuck, done = threading.Event(), []
    pool.submit(stuck.wait)
    threads.to_be_had = False
    for number in range(3):
        pool.submit(done.append, number)
    gevent.sleep(0.15)
    assert not done
    threads.to_be_had = True
    until(lambda: sorted(done) == [0, 1, 2], "threads for them")
    stuck.set()
    until(lambda: calls_of(pool)[0] == 0 <= calls_of(pool)[1], "the end of all")


def test_a_first_thread_that_cannot_be_started_is_told_and_nothing_is_half_done(
    monkeypatch: pytest.MonkeyPatch, channels: Channels
) -> None:
    """That of the hub which all streams of a process with threads share."""
    threads = Threads(monkeypatch)
    monkeypatch.setattr(hub, "_service_loop", None)
    threads.to_be_had = False
    sse_stream, callbacks = SseStream(), []
    with pytest.raises(RuntimeError, match="can't start new thread"):
        channels.subscribe(sse_stream, "news")
    assert channels.statistics() == {}
    call_queue = CallQueue()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        call_queue.call_soon(callbacks.append, 0)
    threads.to_be_had = True
    call_queue.call_soon(callbacks.append, 1)
    until(lambda: callbacks == [1], "the call")
    channels.subscribe(sse_stream, "news")
    sse_stream.destroy()


def test_what_else_is_due_is_kept_when_a_signal_raises_in_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # gevent is to hand it on
    loop, kept = Loop(gevent.get_hub()), []
    wheel, due = TimerWheel(loop), time.monotonic() - 1

    def raising(now: float) -> None:
        raise KeyboardInterrupt

    wheel.add(due, lambda now: kept.append("first"))
    wheel.add(due, raising)
    wheel.add(due, lambda now: kept.append("second"))
    loop.call(raising, 0.0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            gevent.sleep(0.1)
    loop._call_later(raising, 0.0)
    loop._call_later(kept.append, "a call behind")
    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(0.1)
    until(lambda: len(kept) == 3, "all of them")
    assert set(kept) == {"first", "second", "a call behind"}
