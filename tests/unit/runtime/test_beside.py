"""A function runs beside its request: in a greenlet, or in a thread with a hub of its own."""

import threading
from typing import Any

import gevent
import pytest

from ssestream.runtime.beside import start_beside
from ssestream.runtime.loop import current_loop
from tests.kit.visit import on_threads_and_greenlets, until


@on_threads_and_greenlets
def test_a_function_runs_in_a_greenlet_and_does_not_hold_up_its_starter() -> None:
    loop = current_loop()
    found: list[Any] = []
    go_on = threading.Event()

    def main() -> None:
        gevent.sleep(0)
        until(go_on.is_set, "the starter")
        found.append((isinstance(gevent.getcurrent(), gevent.Greenlet), threading.get_ident()))

    start_beside(loop, main, "a test")
    assert found == []
    go_on.set()
    until(lambda: found, "the function")
    ((in_greenlet, thread),) = found
    assert in_greenlet
    assert (thread == threading.get_ident()) is loop.cooperative


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_function_that_raises_leaves_the_next_to_run(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    loop = current_loop()
    found: list[str] = []
    greenlets: list[Any] = []

    def failing() -> None:
        found.append("failing")
        greenlets.append(gevent.getcurrent())
        raise error

    start_beside(loop, failing, "a test")
    until(lambda: found, "the first")
    start_beside(loop, lambda: found.append("next"), "a test")
    until(lambda: len(found) == 2, "the next")
    assert found == ["failing", "next"]
    if error is SystemExit:
        until(lambda: "was interrupted, and goes on" in caplog.text, "the line in the log")
    # Its thread does not wait on, and would do so without a pause.
    until(lambda: greenlets[0].dead, "the end of the first")
