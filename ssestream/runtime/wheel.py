"""One timer for the checks of any number of streams.

Each open stream is checked now and then: is it silent, is its client stalled, is it too
old? Each home has one libev timer for all of these checks. A check returns its next time
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
from .loop import Home, logger

#: The length of a slot in seconds. No check is more urgent, and the checks of one slot do
#: not hold up the loop.
SLOT = 0.02

#: The number of cancelled appointments from which they are swept. Each takes a hundred
#: bytes, and a sweep takes one pass over all appointments.
SWEEP = 1000

#: A function that is called when it is due, with the time of ``clock.now()``. It returns
#: the time when it is due next, or None for never. It runs in the hub's loop.
Check = Callable[[float], float | None]


class Appointment:
    """One check's place in the schedule."""

    __slots__ = ("check", "schedule")

    def __init__(self, schedule: "Schedule", check: Check) -> None:
        self.schedule = schedule
        self.check: Check | None = check

    def cancel(self) -> None:
        """Never run the check again. Thread-safe."""
        # The empty appointment stays in its slot until the slot is due or swept.
        self.check = None
        self.schedule.cancelled += 1


class Schedule:
    """The appointments of one home. All methods but `add` run in the home's loop."""

    def __init__(self, home: Home) -> None:
        self._home = weakref.ref(home)
        # The number of cancelled appointments, roughly: threads may miscount.
        self.cancelled = 0
        self._entered = 0
        # The slots by their numbers, and a heap of the numbers. Slot 1 ends at time `SLOT`.
        self._slots: dict[int, list[Appointment]] = {}
        self._numbers: list[int] = []
        self._timer: Any = None

    def add(self, due: float, check: Check) -> Appointment:
        """Call *check* at the time *due*, or up to a `SLOT` later. Thread-safe."""
        appointment = Appointment(self, check)
        home = self._home()
        assert home is not None
        if home.here():
            self._enter(appointment, due)
        else:
            home.call(self._enter, appointment, due)
        return appointment

    def _enter(self, appointment: Appointment, due: float) -> None:
        if appointment.check is None:
            return
        if self.cancelled > max(SWEEP, self._entered // 2):
            self._sweep()
        self._entered += 1
        number = math.floor(due / SLOT) + 1
        slot = self._slots.get(number)
        if slot is not None:
            slot.append(appointment)
            return
        self._slots[number] = [appointment]
        heapq.heappush(self._numbers, number)
        if self._numbers[0] == number:
            self._arm()

    def _sweep(self) -> None:
        slots = self._slots.items()
        left = {number: [each for each in slot if each.check is not None] for number, slot in slots}
        self._slots = {number: slot for number, slot in left.items() if slot}
        self._numbers = sorted(self._slots)
        self._entered = sum(map(len, self._slots.values()))
        self.cancelled = 0

    def _keep(self) -> None:
        home = self._home()
        if home is None or home.is_lost:
            return
        now = clock.now()
        again: list[tuple[Appointment, float]] = []
        slot: list[Appointment] = []
        try:
            while self._numbers and self._numbers[0] * SLOT <= now:
                slot = self._slots.pop(heapq.heappop(self._numbers))
                self._entered -= len(slot)
                slot.reverse()
                while slot:
                    appointment = slot.pop()
                    check = appointment.check
                    try:
                        due = None if check is None else check(now)
                    except Exception:
                        logger.exception("%r failed", check)
                        continue
                    if due is not None:
                        again.append((appointment, due))
        finally:
            # Enter them only now: a check that is due again at once would hold up the loop.
            # The slot is empty here, unless a signal handler has raised in the midst.
            for appointment, due in [*again, *((each, now) for each in slot)]:
                self._enter(appointment, due)
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        home = self._home()
        if self._numbers and home is not None and not home.is_lost:
            seconds = max(0.0, self._numbers[0] * SLOT - clock.now())
            self._timer = home.loop.timer(seconds)
            self._timer.ref = False
            self._timer.start(self._keep)


_schedules: "weakref.WeakKeyDictionary[Home, Schedule]" = weakref.WeakKeyDictionary()


def schedule_of(home: Home) -> Schedule:
    """Return the one schedule of *home*."""
    schedule = _schedules.get(home)
    return _schedules.setdefault(home, Schedule(home)) if schedule is None else schedule
