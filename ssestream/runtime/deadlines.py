"""The times at which the timers of one thread's loop are due (see ``threadloop``)."""

import heapq
import itertools
from typing import Any

from .clock import clock

#: The number of entries at which a sweep removes those of stopped timers. An entry takes three
#: hundred bytes, and there may be a loop for each stream.
SWEEP = 100


class Deadlines:
    """A heap of timers, for one thread.

    Each start of a timer makes an entry. A timer counts its own starts and stops in
    ``timer.starts``. So an entry with another count is of a timer that was stopped since.
    """

    __slots__ = ("_entries", "_most", "_numbers")

    def __init__(self) -> None:
        # The due time, a unique number, the timer, and the timer's `starts` then.
        self._entries: list[tuple[float, int, Any, int]] = []
        self._numbers = itertools.count()
        # The most entries before the next sweep.
        self._most = SWEEP

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, timer: Any, seconds: float) -> None:
        """Let *timer*, as it is started now, be due in so many *seconds*."""
        if len(self._entries) >= self._most:
            self._sweep()
        due = clock.real() + seconds
        heapq.heappush(self._entries, (due, next(self._numbers), timer, timer.starts))

    def take_due(self) -> list[tuple[Any, int]]:
        """Remove and return the timers whose time has come, each with its `starts` then."""
        now = clock.real()
        due = []
        while self._entries and self._entries[0][0] <= now:
            _, _, timer, start = heapq.heappop(self._entries)
            due.append((timer, start))
        return due

    def seconds_left(self) -> float | None:
        """The seconds until the first timer is due; None without a timer."""
        entries = self._entries
        while entries and entries[0][2].starts != entries[0][3]:
            heapq.heappop(entries)
        return max(0.0, entries[0][0] - clock.real()) if entries else None

    def _sweep(self) -> None:
        """Remove the entries of timers that were stopped or restarted since.

        Most timers are timeouts that nobody waits for any more, long before their time.
        """
        self._entries = [each for each in self._entries if each[2].starts == each[3]]
        heapq.heapify(self._entries)
        self._most = max(SWEEP, 2 * len(self._entries))
