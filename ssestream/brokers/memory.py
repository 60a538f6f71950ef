"""Logs in the memory of this process, which end with it.

Nothing can be published from another process, and nothing is kept over a
restart: a client that comes back then finds another log, and is told of the gap.
A process that forks has logs that go on differently in parent and child, so the
child's are others too.
"""

import os
import secrets
import weakref
from collections import deque
from collections.abc import Mapping

from ..clock import clock
from ..hub import Doorbell, new_lock
from .broker import WAITED, WAITED_BYTES, Entry, Position, Slice


class _Log:
    def __init__(self) -> None:
        self.identity = secrets.token_hex(4)
        self.last = 0
        self.entries: deque[tuple[float, Entry]] = deque()

    @property
    def first(self) -> int:
        return self.entries[0][1].number if self.entries else self.last + 1


class MemoryBroker:
    """See `broker.Broker`. It never fails.

    *history* is the number of entries that a log keeps, *history_age* their
    age in seconds at most, or None.
    """

    shared = False

    def __init__(self, history: int, history_age: float | None) -> None:
        self._history = history
        self._history_age = history_age
        self._logs: dict[str, _Log] = {}
        # Never held while anybody waits.
        self._lock = new_lock()
        self._bell: Doorbell | None = None
        self._woken = False
        # What the caller of the last wait knew, and the channels in which there
        # may be more.
        self._positions: dict[str, Position] = {}
        self._doubtful: set[str] = set()
        _brokers.add(self)

    def append(self, channel: str, frame: bytes) -> Position:
        with self._lock:
            log = self._logs.get(channel)
            if log is None:
                log = self._logs[channel] = _Log()
            log.last += 1
            log.entries.append((clock.now(), Entry(log.last, frame)))
            self._trim(log)
            if channel in self._positions:
                self._doubtful.add(channel)
            position = Position(log.identity, log.last)
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.ring()
        return position

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        with self._lock:
            log = self._logs.get(channel)
            if log is None:
                return Slice("", 1, 0, [])
            self._trim(log)
            return _slice(log, after, limit, max_bytes)

    def wait(self, positions: Mapping[str, Position]) -> dict[str, Slice]:
        bell = Doorbell()
        with self._lock:
            known, self._positions = self._positions, dict(positions)
            self._doubtful &= positions.keys()
            self._doubtful.update(name for name, at in positions.items() if known.get(name) != at)
        while True:
            with self._lock:
                found = self._more()
                if found or self._woken:
                    self._woken = False
                    return found
                self._bell = bell
            bell.sleep()

    def wake(self) -> None:
        with self._lock:
            self._woken = True
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.ring()

    def close(self) -> None:
        pass

    def clear(self) -> None:
        """Forget all logs. What is appended next begins others."""
        with self._lock:
            self._logs.clear()
            self._doubtful.update(self._positions)
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.ring()

    def _more(self) -> dict[str, Slice]:
        found = {}
        for name in self._doubtful:
            log, at = self._logs.get(name), self._positions[name]
            if log is None:
                if at.log:
                    found[name] = Slice("", 1, 0, [])
            elif at.log != log.identity or at.number < log.last:
                self._trim(log)
                after = at.number if at.log in ("", log.identity) else 0
                found[name] = _slice(log, after, WAITED, WAITED_BYTES)
        self._doubtful.clear()
        for name in found:  # ask again, wherever it is next time
            del self._positions[name]
        return found

    def _trim(self, log: _Log) -> None:
        while len(log.entries) > self._history:
            log.entries.popleft()
        if self._history_age is not None:
            oldest = clock.now() - self._history_age
            while log.entries and log.entries[0][0] <= oldest:
                log.entries.popleft()


def _slice(log: _Log, after: int, limit: int, max_bytes: int) -> Slice:
    first = log.first
    entries: list[Entry] = []
    # By their numbers: indexing walks a deque, but from its nearer end.
    for index in range(max(after + 1 - first, 0), len(log.entries)):
        if len(entries) >= limit or max_bytes <= 0:
            break
        entries.append(log.entries[index][1])
        max_bytes -= len(entries[-1].frame)
    return Slice(log.identity, first, log.last, entries)


_brokers: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for broker in _brokers:
        broker._lock = new_lock()
        broker._bell = None
        for log in broker._logs.values():
            log.identity = secrets.token_hex(4)


os.register_at_fork(after_in_child=_after_fork_in_child)
