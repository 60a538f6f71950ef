"""What is no ``Exception``, and threads that cannot be started, stop nobody else."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from werkzeug.test import EnvironBuilder

from ssestream import Channels, ServerResponse, SseStream, clear_interval, pipeline, set_interval
from ssestream.channels import listener
from ssestream.channels.subscription import Subscription
from ssestream.runtime import loop as hub
from ssestream.runtime.calls import CallQueue
from ssestream.runtime.loop import Loop
from ssestream.runtime.wheel import TimerWheel
from tests.kit.failing import Threads, failing, greenlets_only
from tests.kit.following import Client, Following, data_of, numbers
from tests.kit.states import end_all_of
from tests.kit.visit import Visit, on_threads_and_greenlets, until


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent would print what ends a greenlet."""
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *args: None)


@pytest.fixture
def channels() -> Iterator[Channels]:
    made = Channels("memory://")
    yield made
    end_all_of(made)


# -- an app's code


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
        monkeypatch.setattr(listener, "STREAMS_AT_ONCE", 1)
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
    call_later = loop._call_later
    call_later(raising, 0.0)
    call_later(kept.append, "a call behind")
    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(0.1)
    until(lambda: len(kept) == 3, "all of them")
    assert set(kept) == {"first", "second", "a call behind"}
