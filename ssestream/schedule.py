"""One timer for any number of streams.

Each open stream has things to be looked after now and then: is it silent, is
its client stalled, is it old. Each home has one libev timer for all of them, set
to whichever is due first. An `Appointment` says when it wants to be kept next
only when it is kept, so that a busy stream costs nothing in between.
"""

import heapq
import itertools
import time
import weakref
from collections.abc import Callable
from typing import Any

from .hub import Home, logger

#: Cancelled appointments that may lie in a heap before it is swept. A hundred
#: bytes each; sweeping costs one pass.
SWEEP = 1000

#: Called with the time (of ``time.monotonic()``) when it is due; returns the
#: time when it is due next, or None for never. Runs in the hub's loop.
Check = Callable[[float], float | None]


class Appointment:
    """A place in the schedule."""

    __slots__ = ("check", "due", "order", "schedule")

    def __init__(self, schedule: "Schedule", due: float, check: Check, order: int) -> None:
        self.schedule = schedule
        self.due = due
        self.check: Check | None = check
        self.order = order

    def __lt__(self, other: "Appointment") -> bool:
        return self.due < other.due or (self.due == other.due and self.order < other.order)

    def cancel(self) -> None:
        """Never keep it again. From any thread."""
        # It stays in the heap, a few words long, until it is due or swept.
        self.check = None
        self.schedule.cancelled += 1


class Schedule:
    """The appointments of one home. All but `add` runs in its loop."""

    def __init__(self, home: Home) -> None:
        self._home = weakref.ref(home)
        # About how many of them are cancelled: threads may miscount.
        self.cancelled = 0
        self._appointments: list[Appointment] = []
        self._order = itertools.count()
        self._timer: Any = None

    def add(self, due: float, check: Check) -> Appointment:
        """Call *check* at *due*. From any thread."""
        appointment = Appointment(self, due, check, next(self._order))
        home = self._home()
        assert home is not None
        if home.here():
            self._enter(appointment)
        else:
            home.call(self._enter, appointment)
        return appointment

    def _enter(self, appointment: Appointment) -> None:
        if appointment.check is None:
            return
        if self.cancelled > max(SWEEP, len(self._appointments) // 2):
            self._appointments = [each for each in self._appointments if each.check is not None]
            heapq.heapify(self._appointments)
            self.cancelled = 0
        heapq.heappush(self._appointments, appointment)
        if self._appointments[0] is appointment:
            self._arm()

    def _keep(self) -> None:
        now = time.monotonic()
        again = []
        while self._appointments and self._appointments[0].due <= now:
            appointment = heapq.heappop(self._appointments)
            check = appointment.check
            try:
                due = None if check is None else check(now)
            except Exception:
                logger.exception("%r failed", check)
                continue
            if due is not None:
                appointment.due = due
                again.append(appointment)
        # Not before: one that is due again at once would hold up the loop.
        for appointment in again:
            heapq.heappush(self._appointments, appointment)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        home = self._home()
        if self._appointments and home is not None:
            # Not more often than a hundred times a second, however many there are.
            seconds = max(0.01, self._appointments[0].due - time.monotonic())
            self._timer = home.loop.timer(seconds)
            self._timer.ref = False
            self._timer.start(self._keep)


_schedules: "weakref.WeakKeyDictionary[Home, Schedule]" = weakref.WeakKeyDictionary()


def schedule_of(home: Home) -> Schedule:
    """The one schedule of *home*."""
    schedule = _schedules.get(home)
    return _schedules.setdefault(home, Schedule(home)) if schedule is None else schedule
