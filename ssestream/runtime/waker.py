"""How a reader sleeps until a writer wakes it: a `Waker`, for a greenlet or a thread."""

from collections.abc import Iterable
from typing import Any

import greenlet

from .loop import Loop, hub_of_greenlet, in_main_thread, loop_of
from .threads import Wake

# While the main thread waits, its signal handlers can run once in so many seconds.
LISTEN = 0.5


class Wakeable:
    """A handle on a reader that sleeps, because it has found nothing. The next writer wakes it."""

    __slots__ = ()

    @property
    def loop(self) -> Loop | None:
        """The loop of the reader's greenlet; None for a reader that is a thread."""
        raise NotImplementedError

    def wake_now(self, _: None = None) -> None:
        """Wake the reader. `Loop.call_each` of `loop` calls it."""
        raise NotImplementedError

    def wake(self) -> None:
        """Wake the reader. Thread-safe."""
        raise NotImplementedError


def wake_all(wakers: Iterable[Wakeable]) -> None:
    """Wake each of *wakers*.

    If a signal handler raises during a wake, the others are woken all the same, and do not sleep
    for ever.
    """
    remaining = iter(wakers)
    try:
        for waker in remaining:
            waker.wake()
    finally:
        for waker in remaining:
            waker.wake()


class Waker(Wakeable):
    """The thread or greenlet that made the waker sleeps in it, until another one wakes it.

    For a greenlet it works like gevent's `Waiter`. A gevent queue would take two kilobytes,
    and a callback in the loop for each wake. A `Waiter` would take two hundred bytes of each
    sleeper's stack.
    """

    __slots__ = ("_is_awake", "_sleeper", "loop")

    def __init__(self) -> None:
        hub = hub_of_greenlet()
        #: The loop of the sleeping greenlet; None if the sleeper is a thread.
        self.loop: Loop | None = None if hub is None else loop_of(hub)
        # What wakes a sleeping thread; or the greenlet, while it sleeps.
        self._sleeper: Any = Wake() if hub is None else None
        self._is_awake = False

    def wake_now(self, _: None = None) -> None:
        """Wake the greenlet. Only for `Loop.call_each` of the waker's own loop."""
        if self._sleeper is None:
            self._is_awake = True
        else:
            self._sleeper.switch()

    def is_mine(self) -> bool:
        """Whether the calling thread may sleep in it."""
        return self.loop is None or self.loop.here()

    def wake(self) -> None:
        """End the current sleep, or else the next one. Call it once for each sleep. Thread-safe."""
        loop = self.loop
        if loop is None:
            self._sleeper.wake()
        elif loop.here():
            loop.call_each((self.wake_now,))
        else:
            loop.call(loop.call_each, (self.wake_now,))

    def wait(self) -> None:
        """Sleep until `wake` is called, or return at once if it was called since the last sleep."""
        loop = self.loop
        if loop is not None:
            if self._is_awake:
                self._is_awake = False
                return
            self._sleeper = greenlet.getcurrent()
            try:
                loop.hub.switch()
            finally:
                # Also when the greenlet was killed: later wakes must not switch to it.
                self._sleeper = None
            return
        # gunicorn's signals do not interrupt a waiting system call (``siginterrupt``). A
        # waiting sync worker must wake now and then to learn that it must stop.
        timeout = LISTEN if in_main_thread() else None
        while not self._sleeper.sleep(timeout):
            pass
