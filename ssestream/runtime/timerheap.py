"""The app's timers of one loop: one heap, and one libev timer for all of them.

All timers that are due within one millisecond are called at its end or a few milliseconds later,
together with others. So the heap holds milliseconds and not timers, and thousands of timers cost
few turns of the loop. A turn costs much: the loop wakes up, and so do the clients that it sends to.

A tick takes no greenlet and no thread of its own. On a hub that runs the app's code, one greenlet
runs all callbacks that are due, one after another. If a callback waits, the hub gets another
greenlet for the rest, so no timer is held up. The first greenlet without a callback waits for the
next tick, and the others end.

On threaded servers a thread of the loop's pool does the same. The loop cannot see that a callback
waits there. So it looks every `PATIENCE` seconds whether another callback has begun. If not, it
starts another thread.
"""

import heapq
import math
import operator
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import gevent

from .clock import clock
from .loop import CALLS_AT_ONCE, Loop
from .threads import new_lock
from .weak import snapshot

#: Seconds after which a callback in a thread counts as waiting: as long as Python lets one thread
#: run before another one has its turn.
PATIENCE = 0.005

#: The number of cancelled entries at which a sweep removes them, with one pass over all.
SWEEP = 1000

#: Slots of time in a second. The entries of a slot are called together, at its end or later.
SLOTS = 1000

#: An entry may be late by this part of its seconds, but not by more than so many slots.
LATE, MOST_LATE = 0.05, 4


class Entry:
    """A callback that is due at fixed times.

    The n-th time comes n times *seconds* after the entry was made, however late the calls are. A
    time that comes while the last call still runs is left out, and so is a time that the loop has
    missed.
    """

    __slots__ = ("_count", "_seconds", "began", "due", "grain", "is_over")

    def __init__(self, seconds: float) -> None:
        #: When it was made, on ``clock.now()``.
        self.began = clock.now()
        self._seconds = seconds
        self._count = 1
        late = min(MOST_LATE, int(seconds * SLOTS * LATE))
        #: The loop wakes up for the entry only at multiples of so many slots: 1, 2 or 4, so that
        #: entries with different grains share many of these times.
        self.grain = 1 << (late.bit_length() - 1) if late else 1
        #: The next time, on ``clock.now()``.
        self.due = self.began + seconds
        #: Whether the callback is never called again. Then it is left out of the heap.
        self.is_over = False

    def run(self) -> None:
        """Call the callback. It may block. Raises nothing but ``GreenletExit``."""
        raise NotImplementedError

    def skip_to(self, now: float) -> None:
        """Be due at the next fixed time after *now*."""
        # A time is missed only when the slot is over at whose end it is called at the latest.
        now = math.floor(now * SLOTS / self.grain) * self.grain / SLOTS
        # Never the same time again: the division may be wrong in the last digit.
        self._count = max(self._count, math.floor((now - self.began) / self._seconds)) + 1
        self.due = self.began + self._count * self._seconds


_due_of = operator.attrgetter("due")


class TimerHeap:
    """The entries of one loop. `add`, `discard`, `entries` and `run_one` are for any thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = weakref.ref(loop)
        # The slots by their numbers, and a heap of the numbers. Slot 1 ends when ``clock.now()`` is
        # a millisecond.
        self._slots: dict[int, list[Entry]] = {}
        self._numbers: list[int] = []
        # For each slot the number of the slot at whose end its entries are called at the latest.
        self._latest: dict[int, int] = {}
        # The number of entries in the slots, and roughly how many of them are over.
        self._count = 0
        self._cancelled = 0
        self._timer: Any = None
        # The number of the slot for which the timer is set.
        self._set_for = math.inf
        # The entries to be called now.
        self._due: deque[Entry] = deque()
        # How many more calls may begin before the loop looks at its other events.
        self._budget = 0
        self._is_turning = False
        # The greenlet that waits for the next tick.
        self._idle: Any = None
        self._threads = _Threads(self._due, self.run_one)

    def add(self, entry: Entry) -> None:
        """Call *entry* when it is due, until it is over. Thread-safe."""
        self._call(self._enter, entry)

    def discard(self, entry: Entry) -> None:
        """Let nothing wait for *entry*, which is over. Thread-safe."""
        self._call(self._drop)

    def _call(self, callback: Any, *args: Any) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call(callback, *args)

    def _enter(self, entry: Entry) -> None:
        if not entry.is_over and self._put(entry) < self._set_for and not self._is_turning:
            self.arm()

    def _put(self, entry: Entry) -> int:
        """Put *entry* in its slot. Returns the slot at whose end it is called at the latest."""
        number = math.ceil(entry.due * SLOTS)
        latest = number + -number % entry.grain
        self._count += 1
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = [entry]
            self._latest[number] = latest
            heapq.heappush(self._numbers, number)
        else:
            slot.append(entry)
            if latest < self._latest[number]:
                self._latest[number] = latest
        return latest

    def _drop(self) -> None:
        self._cancelled += 1
        if self._cancelled > max(SWEEP, self._count // 2):
            self._keep(self.entries())
        self.arm()

    def _keep(self, entries: Iterable[Entry]) -> None:
        """Drop all but *entries*."""
        self._slots.clear()
        self._latest.clear()
        self._numbers.clear()
        self._count = self._cancelled = 0
        for entry in entries:
            self._put(entry)

    def _pop_first(self) -> list[Entry]:
        """Remove the first slot, and return its entries in the order in which they are due."""
        number = heapq.heappop(self._numbers)
        slot = self._slots.pop(number)
        del self._latest[number]
        self._count -= len(slot)
        # Entries with the same time stay in the order in which they were added.
        slot.sort(key=_due_of)
        return [entry for entry in slot if not entry.is_over]

    def entries(self) -> list[Entry]:
        """The entries that wait for their time. Thread-safe."""
        slots = snapshot(self._slots.values)
        return [entry for slot in slots for entry in list(slot) if not entry.is_over]

    def next_due(self) -> float | None:
        """When the next entry is due; None if there is none."""
        self._drop_first_if_over()
        if not self._numbers:
            return None
        return min(entry.due for entry in self._slots[self._numbers[0]] if not entry.is_over)

    def take_due(self, now: float) -> list[Entry]:
        """Remove the entries that are due at *now*, for a caller that calls `run_one` for each."""
        entries: list[Entry] = []
        while self._numbers and self._numbers[0] <= math.ceil(now * SLOTS):
            entries += self._pop_first()
        for entry in entries:
            if entry.due > now:
                self._put(entry)
        return [entry for entry in entries if entry.due <= now]

    def _drop_first_if_over(self) -> None:
        """Let the first slot have an entry that is not over, if any slot has one."""
        numbers = self._numbers
        while numbers:
            slot = self._slots[numbers[0]]
            while slot and slot[-1].is_over:
                slot.pop()
                self._count -= 1
            if slot:
                return
            self._pop_first()

    def arm(self) -> None:
        """Set the timer for the entry that is called first. A clock that stands needs none."""
        self._drop_first_if_over()
        numbers = self._numbers
        number = math.inf
        if numbers and not clock.stands:
            # A slot that is MOST_LATE or more after the first is called later than the first.
            first = numbers[0]
            number = min(self._latest.get(first + late, math.inf) for late in range(MOST_LATE))
        if number == self._set_for:
            return
        timer, self._timer = self._timer, None
        self._set_for = number
        if timer is not None:
            timer.stop()
            timer.close()
        loop = self._loop()
        if number != math.inf and loop is not None and not loop.is_copy:
            self._timer = loop.libev.timer(max(0.0, number / SLOTS - clock.now()))
            # libev counts from the time when its loop last woke up, and this may be a while ago.
            # Without the update the timer could fire early.
            self._timer.start(self._look, update=True)
        if not numbers:
            self._end_idle()

    def _look(self) -> None:
        """Run the entries that are due. Called when the timer fires."""
        loop = self._loop()
        if loop is None or loop.is_copy:
            return
        try:
            now = clock.now() * SLOTS
            while self._numbers and self._numbers[0] <= now:
                self._due.extend(self._pop_first())
            self._set_for = -math.inf  # the timer has run out
            if loop.cooperative:
                self._run_due()
            else:
                self._threads.run_due(loop)
        finally:
            self.arm()

    def _run_due(self) -> None:
        """Let greenlets run the callbacks that are due."""
        loop = self._loop()
        if loop is None or loop.is_copy:
            return
        self._budget = CALLS_AT_ONCE
        self._is_turning = True
        try:
            while self._due and self._budget > 0 and not loop.is_copy:
                idle, self._idle = self._idle, None
                # Either returns when the greenlet waits: for the next tick, or in a callback.
                if idle is None:
                    loop.run_now(self._run_in_greenlet, loop.hub)
                else:
                    idle.switch()
        finally:
            self._is_turning = False
            if self._due:
                loop.call_after_events(self._run_due)
            self.arm()

    def _run_in_greenlet(self, hub: Any) -> None:
        me = gevent.getcurrent()
        while True:
            while self._due and self._budget > 0:
                self._budget -= 1
                self.run_one(self._due.popleft())
            # Without entries, a waiting greenlet would stay when its thread ends.
            if self._idle is not None or not self._numbers:
                return
            self._idle = me
            try:
                hub.switch()
            finally:
                if self._idle is me:
                    self._idle = None

    def _end_idle(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None:
            self._budget = 0
            idle.switch()

    def run_one(self, entry: Entry) -> None:
        """Call *entry*, in a greenlet of the loop or in a thread of its pool."""
        loop = self._loop()
        if loop is None or loop.is_copy:
            # The last callback has forked, and this is the job. The rest is its parent's.
            return
        try:
            if not entry.is_over:
                entry.run()
        finally:
            if not entry.is_over:
                entry.skip_to(clock.now())
                if loop.cooperative and not loop.is_copy:
                    self._enter(entry)
                else:
                    self.add(entry)


class _Threads:
    """Runs the entries in *due* in few threads: another one starts only when all of them wait."""

    def __init__(self, due: deque[Entry], run: Any) -> None:
        self._due = due
        self._run = run
        self._lock = new_lock()
        # The threads that do not wait in a callback, as far as the loop knows.
        self._free = 0
        # How often all threads were found waiting. A thread that has begun its callback before
        # the last time is not counted as free.
        self._round = 0
        self._begun = self._seen = 0
        self._watch: Any = None

    def run_due(self, loop: Loop) -> None:
        with self._lock:
            start = bool(self._due) and self._free == 0
            if start:
                self._free = 1
        if start:
            loop.spawn(self._work, self._round)
        if self._due and (self._watch is None or not self._watch.active):
            if self._watch is None:
                self._watch = loop.libev.timer(PATIENCE, PATIENCE)
            self._seen = self._begun
            self._watch.again(self._look, loop, update=True)

    def _look(self, loop: Loop) -> None:
        with self._lock:
            if not self._due:
                self._watch.stop()
                return
            if self._begun == self._seen:
                self._round += 1
                self._free = 0
            self._seen = self._begun
        self.run_due(loop)

    def _work(self, counted: int) -> None:
        while True:
            with self._lock:
                if counted != self._round:
                    counted = self._round
                    self._free += 1
                if not self._due:
                    self._free -= 1
                    return
                self._begun += 1
                entry = self._due.popleft()
            self._run(entry)
            # A waiting thread must hold nothing of the app.
            del entry


_heaps: "weakref.WeakKeyDictionary[Loop, TimerHeap]" = weakref.WeakKeyDictionary()


def heap_of(loop: Loop) -> TimerHeap:
    """Return the one heap of *loop*."""
    heap = _heaps.get(loop)
    return _heaps.setdefault(loop, TimerHeap(loop)) if heap is None else heap


def heaps() -> list[tuple[Loop, TimerHeap]]:
    """The heap of each loop that has one."""
    return snapshot(_heaps.items)
