"""Calls of an app's code, one after another."""

import concurrent.futures
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import GreenletExit

from ssestream import Channels, SseStream
from ssestream.runtime.calls import CallQueue, run_logged
from ssestream.runtime.loop import current_loop
from ssestream.runtime.origin import Origin, running_origin
from ssestream.runtime.threads import Pool
from tests.kit.failing import failing
from tests.kit.insides import call_queue_of
from tests.kit.visit import in_greenlet, on_threads_and_greenlets, until


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
def test_calls_run_in_their_order_outside_of_the_caller() -> None:
    queue, seen = CallQueue(), []
    for number in range(5):
        queue.call_soon(seen.append, number)
    if in_greenlet():
        assert seen == []
    until(lambda: len(seen) == 5, "all of them")
    assert seen == [0, 1, 2, 3, 4]


@on_threads_and_greenlets
def test_a_call_that_waits_holds_up_the_next_of_its_queue_alone() -> None:
    gate = gevent.event.Event() if in_greenlet() else threading.Event()
    queue, other, seen = CallQueue(), CallQueue(), []
    queue.call_soon(gate.wait, 20)
    queue.call_soon(seen.append, "behind")
    other.call_soon(seen.append, "other")
    until(lambda: seen, "the other queue's")
    assert seen == ["other"]
    gate.set()
    until(lambda: len(seen) == 2, "the one behind")


@on_threads_and_greenlets
def test_what_nobody_hears_runs_in_the_loop_and_in_its_order() -> None:
    queue, seen = CallQueue(), []
    current = []

    def emit(event: str) -> None:
        current.append(gevent.getcurrent())
        seen.append(event)

    queue.emit_soon(lambda event: False, emit, "unheard")
    queue.emit_soon(lambda event: True, emit, "heard")
    queue.emit_soon(lambda event: False, emit, "after")
    until(lambda: len(seen) == 3, "all of them")
    assert seen == ["unheard", "heard", "after"]
    assert [each is queue.loop.hub for each in current][:2] == [True, False]


def test_streams_whose_end_nobody_hears_take_no_threads_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread for each of thousands that end together would wait for the GIL and for locks."""
    submitted = []
    submit = Pool.submit

    def count(pool: Pool, function: Callable[..., object], *args: object) -> None:
        # A timer that an earlier test has left takes a thread, too.
        if getattr(function, "__func__", None) is CallQueue.run:
            submitted.append(function)
        submit(pool, function, *args)

    monkeypatch.setattr(Pool, "submit", count)
    channels = Channels("memory://")
    streams = [SseStream() for _ in range(100)]
    for stream in streams:
        channels.subscribe(stream, "news")
    for stream in streams:
        stream.destroy()
    until(lambda: channels.channel("news").subscribers == 0, "all of them")
    assert submitted == []
    channels.close()


def test_the_loop_is_chosen_when_it_is_needed() -> None:
    queue = CallQueue()
    assert not queue.has_loop
    assert queue.loop is current_loop()
    assert queue.has_loop
    assert not queue.is_copy


def test_a_failure_is_logged_with_its_request_and_does_not_spread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    origin = Origin("10.0.0.1 '/news'", {"path": "/news"})
    run_logged(failing(LookupError), origin=origin)
    assert caplog.records[0].getMessage().startswith("10.0.0.1 '/news': ")
    seen: list[object] = []
    run_logged(lambda: seen.append(running_origin()), origin=origin)
    assert seen == [origin]


def test_an_app_code_has_a_context_of_its_own_unless_calls_belong_together() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(5)
    seen: list[int] = []

    def count() -> None:
        variable.set(variable.get() + 1)
        seen.append(variable.get())

    run_logged(count)
    run_logged(count)
    together = contextvars.Context()
    run_logged(count, context=together)
    run_logged(count, context=together)
    assert seen == [1, 1, 1, 2]


async def awaited() -> None: ...


def iterated() -> Iterator[None]:
    yield


class Awaited:
    def __await__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("function", [awaited, iterated, Awaited], ids=lambda each: each.__name__)
def test_a_result_that_nobody_awaits_is_told(
    function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run_logged(lambda: function())
    (record,) = caplog.records
    assert "and nobody awaits or iterates it" in record.getMessage()


def test_a_future_that_a_callback_returns_runs_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for made in (concurrent.futures.Future[None](), gevent.spawn(iterated)):
        run_logged(lambda made=made: made)  # type: ignore[misc]
    assert not caplog.records
