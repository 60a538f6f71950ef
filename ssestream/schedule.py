"""One timer for any number of streams.

Each open stream has things to be looked after now and then: is it silent, is
its client stalled, is it old. Each home has one libev timer for all of them. An
`Appointment` says when it wants to be kept next only when it is kept, so that a
busy stream costs nothing in between.

All that is due within one `SLOT` of time is kept together at its end. So none of
them is compared with any other, which would be most of the work: there are a
hundred thousand streams, and a few hundred slots.
"""

import heapq
import math
import weakref
from collections.abc import Callable
from typing import Any

from .clock import clock
from .hub import Home, logger

#: Seconds of a slot: nothing here is so urgent, and what is due in one does not hold
#: up the loop.
SLOT = 0.02

#: Cancelled appointments that may lie here before they are swept. A hundred
#: bytes each; sweeping costs one pass.
SWEEP = 1000

#: Called with the time (of ``clock.now()``) when it is due; returns the
#: time when it is due next, or None for never. Runs in the hub's loop.
Check = Callable[[float], float | None]


class Appointment:
    """A place in the schedule."""

    __slots__ = ("check", "schedule")

    def __init__(self, schedule: "Schedule", check: Check) -> None:
        self.schedule = schedule
        self.check: Check | None = check

    def cancel(self) -> None:
        """Never keep it again. From any thread."""
        # It stays in its slot, a few words long, until that is due or swept.
        self.check = None
        self.schedule.cancelled += 1


class Schedule:
    """The appointments of one home. All but `add` runs in its loop."""

    def __init__(self, home: Home) -> None:
        self._home = weakref.ref(home)
        # About how many of them are cancelled: threads may miscount.
        self.cancelled = 0
        self._entered = 0
        # By the number of the slot, and a heap of these: number 1 ends at time `SLOT`.
        self._slots: dict[int, list[Appointment]] = {}
        self._numbers: list[int] = []
        self._timer: Any = None

    def add(self, due: float, check: Check) -> Appointment:
        """Call *check* at *due*, or up to a `SLOT` later. From any thread."""
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
            # Not before: one that is due again at once would hold up the loop. Those that
            # are left in the slot are left by a signal, which raises wherever it comes.
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
    """The one schedule of *home*."""
    schedule = _schedules.get(home)
    return _schedules.setdefault(home, Schedule(home)) if schedule is None else schedule
