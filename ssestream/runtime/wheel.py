"""One timer for the checks of any number of streams.

Each open stream is checked now and then: is it silent, is its client stalled, is it too
old? Each loop has one libev timer for all of these checks. A check returns its next time
only when it runs, so that a busy stream costs nothing in between.

All checks that are due within one `SLOT` of time run together at the slot's end. So checks
need not be sorted against each other. Sorting would be most of the work: there may be a
hundred thousand streams, but only a few hundred slots.
"""

import heapq
import math
import weakref
from collections.abc import Callable
from typing import Any

from .clock import clock
from .loop import Loop, logger
from .weak import snapshot

#: The length of a slot in seconds. No check is more urgent, and the checks of one slot do
#: not hold up the loop.
SLOT = 0.02

#: The number of cancelled timers at which a sweep removes them. Each takes a hundred bytes,
#: and a sweep takes one pass over all timers.
SWEEP = 1000

#: A function that is called when it is due, with the time of ``clock.now()``. It returns
#: the time when it is due next, or None for never. It runs in the hub's loop.
Check = Callable[[float], float | None]


class TimerHandle:
    """One check's place in the wheel."""

    __slots__ = ("check", "wheel")

    def __init__(self, wheel: "TimerWheel", check: Check) -> None:
        self.wheel = wheel
        self.check: Check | None = check

    def cancel(self) -> None:
        """Never run the check again. Thread-safe."""
        # The empty timer stays in its slot until the slot is due or swept.
        self.check = None
        self.wheel.count_cancelled()


class TimerWheel:
    """The checks of one loop. `add`, `count_cancelled` and `next_due` are for any thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = weakref.ref(loop)
        # The number of cancelled timers, roughly: threads may miscount.
        self._cancelled = 0
        self._entered = 0
        # The slots by their numbers, and a heap of the numbers. Slot 1 ends at time `SLOT`.
        self._slots: dict[int, list[TimerHandle]] = {}
        self._numbers: list[int] = []
        self._timer: Any = None

    def add(self, due: float, check: Check) -> TimerHandle:
        """Call *check* at the time *due*, or up to a `SLOT` later. Thread-safe."""
        timer = TimerHandle(self, check)
        loop = self._loop()
        assert loop is not None
        if loop.here():
            self._enter(timer, due)
        else:
            loop.call(self._enter, timer, due)
        return timer

    def count_cancelled(self) -> None:
        """Count one more cancelled timer that is still in its slot."""
        self._cancelled += 1

    def next_due(self) -> float | None:
        """When the next checks run; None if there are none."""
        numbers = self._numbers
        return numbers[0] * SLOT if numbers else None

    def _enter(self, timer: TimerHandle, due: float) -> None:
        if timer.check is None:
            return
        if self._cancelled > max(SWEEP, self._entered // 2):
            self._sweep()
        self._entered += 1
        number = math.floor(due / SLOT) + 1
        slot = self._slots.get(number)
        if slot is not None:
            slot.append(timer)
            return
        self._slots[number] = [timer]
        heapq.heappush(self._numbers, number)
        if self._numbers[0] == number:
            self.arm()

    def _sweep(self) -> None:
        slots = self._slots.items()
        kept = {number: [each for each in slot if each.check is not None] for number, slot in slots}
        self._slots = {number: slot for number, slot in kept.items() if slot}
        self._numbers = sorted(self._slots)
        self._entered = sum(map(len, self._slots.values()))
        self._cancelled = 0

    def run_due(self, until: float | None = None) -> None:
        """Run all checks that are due at the time *until*; None is now."""
        loop = self._loop()
        if loop is None or loop.is_copy:
            return
        now = clock.now() if until is None else until
        again: list[tuple[TimerHandle, float]] = []
        slot: list[TimerHandle] = []
        try:
            while self._numbers and self._numbers[0] * SLOT <= now:
                slot = self._slots.pop(heapq.heappop(self._numbers))
                self._entered -= len(slot)
                slot.reverse()
                while slot:
                    timer = slot.pop()
                    check = timer.check
                    try:
                        due = None if check is None else check(now)
                    except Exception:
                        logger.exception("%r failed", check)
                        continue
                    if due is not None:
                        again.append((timer, due))
        finally:
            # Enter them only now: a check that is due again at once would hold up the loop.
            # The slot is empty here, unless a signal handler has raised in the midst.
            for timer, due in [*again, *((each, now) for each in slot)]:
                self._enter(timer, due)
            self.arm()

    def arm(self) -> None:
        """Set the libev timer for the next checks. A clock that stands needs none."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        loop = self._loop()
        if self._numbers and loop is not None and not loop.is_copy and not clock.stands:
            seconds = max(0.0, self._numbers[0] * SLOT - clock.now())
            self._timer = loop.libev.timer(seconds)
            self._timer.ref = False
            self._timer.start(self.run_due)


_wheels: "weakref.WeakKeyDictionary[Loop, TimerWheel]" = weakref.WeakKeyDictionary()


def wheel_of(loop: Loop) -> TimerWheel:
    """Return the one wheel of *loop*."""
    wheel = _wheels.get(loop)
    return _wheels.setdefault(loop, TimerWheel(loop)) if wheel is None else wheel


def wheels() -> list[tuple[Loop, TimerWheel]]:
    """The wheel of each loop that has one."""
    return snapshot(_wheels.items)
