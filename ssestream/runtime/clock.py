"""The clock for all deadlines, which goes on even if a test stops Python's clock.

freezegun and time-machine also stop ``time.monotonic()``. With a stopped clock, a deadline never
comes, and its waiter waits for ever.
"""

import functools
import time
import types
from collections.abc import Callable


def _seconds() -> Callable[[], float]:
    # perf_counter() is the same clock as monotonic(), and time-machine does not replace it.
    # freezegun replaces it in `time` and in each module that imports it, but not in the
    # attributes of instances.
    if isinstance(time.perf_counter, types.BuiltinFunctionType):
        return time.perf_counter
    # perf_counter() is not the real function: this module is imported while freezegun is active.
    return functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)


class _Clock:
    """Two clocks that are the same clock, unless a test stops the first one.

    *now* is for all that an app sees: heartbeats, timers, ages. *real* is for the waits of code
    that blocks, such as the tries of a broker. They must end, also when a test stops *now*.
    """

    __slots__ = ("now", "real", "stands")

    def __init__(self) -> None:
        #: Seconds since a moment in the past that is the same for the whole machine.
        self.now: Callable[[], float] = _seconds()
        #: The same. No test stops it.
        self.real = self.now
        #: Whether `now` stands still. Then nothing becomes due by itself, and libev times nothing.
        self.stands = False

    def stop(self, now: Callable[[], float]) -> None:
        """Take the time from *now*, which a test moves by hand (``ssestream.testing``)."""
        self.now, self.stands = now, True

    def go_on(self, ahead: float) -> None:
        """Go on by itself, *ahead* seconds before the time of `real`."""
        real = self.real
        self.now, self.stands = (lambda: real() + ahead) if ahead else real, False


clock = _Clock()
