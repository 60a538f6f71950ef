"""The clock of all deadlines: one that a test does not stop.

freezegun and time-machine stop ``time.monotonic()``, too. A deadline that is measured
with a stopped clock never comes, and whoever waits for it waits for ever.
"""

import functools
import time
import types
from collections.abc import Callable


def _seconds() -> Callable[[], float]:
    # The same clock by another name. time-machine leaves that name alone. freezegun
    # replaces it in `time` and in every module that has it, but looks into no instance.
    if isinstance(time.perf_counter, types.BuiltinFunctionType):
        return time.perf_counter
    # This module was imported while the clock was stopped.
    return functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)


class _Clock:
    __slots__ = ("now",)

    def __init__(self) -> None:
        #: Seconds since some moment in the past, the same for all of this machine.
        self.now: Callable[[], float] = _seconds()


clock = _Clock()
