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
    __slots__ = ("now",)

    def __init__(self) -> None:
        #: Seconds since a moment in the past that is the same for the whole machine.
        self.now: Callable[[], float] = _seconds()


clock = _Clock()
