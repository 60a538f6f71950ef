"""Waits that end by another caller: for a wake, for one of some turns, for the end of a greenlet.

In a process that gevent has patched, the callers are greenlets. Elsewhere the callers are
threads. Each caller says which module must be patched: the one that it also waits with.
"""

import logging
import queue
from typing import Any

import gevent.lock
from gevent import monkey

from .clock import clock
from .threads import Wake

logger = logging.getLogger("ssestream")


def join_through(greenlet: Any, what: object) -> None:
    """Wait in the main greenlet of a thread until *greenlet* is over: one of its hub, or the hub.

    gevent raises in the main greenlet if a greenlet of the thread raises ``SystemExit``. Each such
    exception is logged with *what*, and the wait goes on.
    """
    while True:
        try:
            greenlet.join()
        except BaseException:
            # For example sys.exit() in a greenlet that the app's code has started.
            logger.exception("the thread of %r was interrupted, and goes on", what)
        else:
            return


def new_wake(module: str) -> "GreenletWake | Wake":
    """A wake for greenlets if gevent has patched *module*, and for threads if not."""
    return GreenletWake() if monkey.is_module_patched(module) else Wake()


def new_turns(module: str, number: int) -> Any:
    """A semaphore of *number*, for greenlets if gevent has patched *module*, else for threads."""
    return (gevent.lock.Semaphore if monkey.is_module_patched(module) else Turns)(number)


class GreenletWake:
    """As `Wake`, for greenlets, and for other threads of a patched process."""

    def __init__(self) -> None:
        self._given: Any = gevent.lock.Semaphore(0)

    def wake(self) -> None:
        self._given.release()

    def sleep(self, seconds: float | None) -> bool:
        return bool(self._given.acquire(timeout=seconds))


class Turns:
    """A semaphore for threads. Its timeout works even if a test stops the clock of Python."""

    def __init__(self, number: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(number):
            self._free.put(None)
        # Wakes one of the callers that wait, when there is a free turn.
        self._given = Wake()

    def acquire(self, timeout: float) -> bool:
        deadline = clock.real() + timeout
        # Not `get` with a timeout: see `Wake`.
        while not self._take():
            left = deadline - clock.real()
            if left <= 0:
                return False
            self._given.sleep(left)
        if not self._free.empty():
            self._given.wake()  # two turns became free, and woke one caller
        return True

    def _take(self) -> bool:
        try:
            self._free.get_nowait()
        except queue.Empty:
            return False
        return True

    def release(self) -> None:
        self._free.put(None)
        self._given.wake()
