"""A clock that a test moves by hand: no timer, heartbeat or age waits for the time to pass."""

import contextlib
import math
import threading
from collections.abc import Iterator

from ..runtime.clock import clock as package_clock
from ..runtime.loop import Loop
from ..runtime.timerheap import Entry, TimerHeap, heaps
from ..runtime.uncopyable import Uncopyable
from ..runtime.wheel import SLOT, TimerWheel, wheels
from .channels import all_heard
from .in_process import open_here
from .loops import in_loop, loops, settle
from .waiting import PATIENCE, wait_until

#: Seconds by which two sums of floats may differ. A timer that is due so little later is due now.
EXACT = 1e-6

#: Seconds for which a step of the clock waits for streams that are never at rest: the first such
#: step, and each one after that.
RESTLESS, STILL_RESTLESS = 0.5, 0.01


class Clock(Uncopyable):
    """The time of the package while it stands. `stopped_clock` makes it."""

    _only_one = "it is the clock of this process"

    def __init__(self) -> None:
        # A round number, so that round steps have round sums.
        self._began = self._at = float(math.ceil(package_clock.now()))
        # Whether the streams were not at rest after the last step.
        self._is_restless = False

    @property
    def now(self) -> float:
        """The seconds by which the clock was moved so far."""
        return self._at - self._began

    def time(self) -> float:
        """The time of the package."""
        return self._at

    def advance(self, seconds: float) -> None:
        """Move the time on by *seconds*, and let all happen that becomes due.

        It happens in the order of its times: heartbeats, the ends of streams that are too old or
        whose clients are stalled, and the callbacks of ``set_interval`` and ``set_timeout``, once
        for each time. When this returns, the callbacks have returned and the clients in this
        process have got what was written. Raises ``TypeError`` or ``ValueError`` if *seconds* is
        no finite number from 0 on, and ``AssertionError`` if a callback has not returned within
        5 real seconds.
        """
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
            raise TypeError(f"seconds must be a number, not {type(seconds).__name__}")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be finite and not negative, and is {seconds}")
        until = self._at + seconds
        self._settle()
        while (due := self._next_due()) is not None and due <= until + EXACT:
            self._at = max(self._at, due)
            self._run_due(self._at)
            self._settle()
        # A wheel runs its checks at the end of a slot, and a check may be due within the slot.
        self._at = max(self._at, until)
        self._run_due(self._at + SLOT)
        self._settle()

    def _next_due(self) -> float | None:
        """When the next check or callback is due; None if there is none."""
        times = [wheel.next_due() for _, wheel in self._wheels()]
        times += [in_loop(loop, heap.next_due) for loop, heap in self._heaps()]
        return min((due for due in times if due is not None), default=None)

    def _run_due(self, wheels_until: float) -> None:
        for loop, wheel in self._wheels():
            due = wheel.next_due()
            if due is not None and due <= wheels_until + EXACT:
                in_loop(loop, wheel.run_due, wheels_until + EXACT)
        for loop, heap in self._heaps():
            for entry in in_loop(loop, heap.take_due, self._at + EXACT) or ():
                self._call(loop, heap, entry)

    def _call(self, loop: Loop, heap: TimerHeap, entry: Entry) -> None:
        """Call the callback of *entry* where the app's code runs, and wait for its end."""
        returned = threading.Event()

        def run() -> None:
            try:
                heap.run_one(entry)
            finally:
                returned.set()

        name = str(entry)
        loop.spawn(run)
        if not wait_until(returned.is_set, PATIENCE, loop.here()):
            raise AssertionError(
                f"the callback {name} of a timer has not returned within {PATIENCE:g} s, so the"
                " clock cannot go on: does it wait for this test?"
            )

    def _settle(self) -> None:
        """Wait until the loops have done their work, and the clients have all that was written."""
        settle()
        # A stream whose source never waits is never at rest. A long move has many steps.
        served = open_here.copy()
        seconds = STILL_RESTLESS if self._is_restless else RESTLESS
        self._is_restless = not wait_until(
            lambda: all_heard() and all(each.is_settled for each in served), seconds
        )

    def _wheels(self) -> list[tuple[Loop, TimerWheel]]:
        living = loops()
        return [each for each in wheels() if each[0] in living]

    def _heaps(self) -> list[tuple[Loop, TimerHeap]]:
        living = loops()
        return [each for each in heaps() if each[0] in living and each[1].entries()]

    def arm(self) -> None:
        """Let each loop set its libev timers, or drop them while the clock stands."""
        for loop, wheel in self._wheels():
            in_loop(loop, wheel.arm)
        for loop, heap in self._heaps():
            in_loop(loop, heap.arm)


_running: list[Clock] = []


def running() -> Clock | None:
    """The clock that stands now, if one does."""
    return _running[-1] if _running else None


@contextlib.contextmanager
def stopped_clock() -> Iterator[Clock]:
    """Stop the time of the package for a block. Gives the `Clock` that moves it.

    It is the time of heartbeats, timers, ``max_age``, ``send_timeout`` and of the ages in
    ``memory://``. Python's own clocks go on, and so do the deadlines of tests, and whatever sleeps
    in an app. After the block the time goes on from where it is. Raises ``RuntimeError`` inside
    another such block.
    """
    if _running:
        raise RuntimeError("the clock stands already: one block of stopped_clock() at a time")
    clock = Clock()
    package_clock.stop(clock.time)
    _running.append(clock)
    try:
        clock.arm()
        yield clock
    finally:
        _running.clear()
        package_clock.go_on(clock.time() - package_clock.real())
        clock.arm()
