"""Calls of an app's code, one after another."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import gevent
from gevent import GreenletExit

from ssestream import SseStream
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
