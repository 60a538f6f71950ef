"""The ``memory://`` broker: logs in the memory of one process.

Other processes cannot publish to these logs, and the logs end with the process. All logs of a
process have one identity, even a log in which nothing was published yet. So a client that comes
back after a restart always finds another log, and its stream emits ``"gap"``. After a fork, the
logs of parent and child go on differently, so the child gets a new identity.
"""

import secrets
import weakref
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from ..runtime.clock import clock
from ..runtime.forking import AtFork
from ..runtime.threads import new_lock
from ..runtime.waker import Waker
from .broker import CONTROL, CONTROLS, WAITED, WAITED_BYTES, Bounds, Entry, News, Position, Slice
from .followed import Followed


class _Kept(NamedTuple):
    entry: Entry
    at: float
    #: The number of this message among all messages of the log. A control frame has the
    #: number of the next message, and is kept as long as that message.
    message: int


class _Log:
    def __init__(self, bounds: Bounds) -> None:
        self.last = 0
        self.bounds = bounds
        #: How many messages were ever appended. Control frames do not count.
        self.messages = 0
        self.kept: deque[_Kept] = deque()

    @property
    def first(self) -> int:
        return self.kept[0].entry.number if self.kept else self.last + 1

    def append(self, frame: bytes) -> None:
        self.last += 1
        self.kept.append(_Kept(Entry(self.last, frame), clock.now(), self.messages + 1))
        self.messages += not frame.startswith(CONTROL)

    def keep(self, bounds: Bounds) -> Bounds:
        """See `Broker.keep`."""
        history = self.bounds.history if bounds.history is None else bounds.history
        self.bounds = Bounds(history, bounds.age)
        self.trim()
        return self.bounds

    def trim(self) -> None:
        history, age = self.bounds
        history = self.messages if history is None else history
        oldest = None if age is None else clock.now() - age
        while self.kept and (
            self.kept[0].message <= self.messages - history
            or len(self.kept) > history + CONTROLS
            or (oldest is not None and self.kept[0].at <= oldest)
        ):
            self.kept.popleft()


class MemoryBroker:
    """Logs in this process (see `broker.Broker`). No method raises `BrokerError`."""

    shared = False

    def __init__(self, history: int | None = None, history_age: float | None = None) -> None:
        self._asked = Bounds(history, history_age)
        self._identity = secrets.token_hex(4)
        self._logs: dict[str, _Log] = {}
        #: Guards all fields. Nobody holds it while waiting.
        self.lock = new_lock()
        self._waker: Waker | None = None
        self._woken = False
        # The positions that the last `wait` was given, and the channels that may have
        # entries after them.
        self._positions: dict[str, Position] = {}
        self._doubtful: set[str] = set()
        self._followed = Followed()
        _brokers.add(self)

    def append(self, channel: str, frame: bytes) -> Position:
        with self.lock:
            log = self._logs.get(channel)
            if log is None:
                log = self._logs[channel] = _Log(self._asked.of_new_log())
            log.append(frame)
            log.trim()
            if channel in self._positions:
                self._doubtful.add(channel)
            position = Position(self._identity, log.last)
            waker, self._waker = self._waker, None
        if waker is not None:
            waker.wake()
        return position

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        with self.lock:
            return self._slice(channel, after, limit, max_bytes)

    def keep(self, channel: str, bounds: Bounds) -> Bounds:
        with self.lock:
            log = self._logs.get(channel)
            if log is None:
                return Bounds()
            return log.keep(bounds)

    def ping(self) -> None:
        pass

    def follow(self, channel: str, position: Position) -> None:
        self._followed.follow(channel, position)
        self.wake()

    def unfollow(self, channel: str) -> None:
        self._followed.unfollow(channel)

    def wait(self) -> News:
        positions = self._followed.all()
        news: News = {}
        for name, piece in self._wait(positions).items():
            self._followed.pass_on(name, positions[name], piece, news)
        return news

    def _wait(self, positions: Mapping[str, Position]) -> News:
        waker = Waker()
        with self.lock:
            known, self._positions = self._positions, dict(positions)
            self._doubtful &= positions.keys()
            self._doubtful.update(name for name, at in positions.items() if known.get(name) != at)
        while True:
            with self.lock:
                found = self._more()
                if found or self._woken:
                    self._woken = False
                    return found
                self._waker = waker
            waker.wait()

    def wake(self) -> None:
        with self.lock:
            self._woken = True
            waker, self._waker = self._waker, None
        if waker is not None:
            waker.wake()

    def close(self) -> None:
        pass

    def clear(self) -> None:
        """Forget all logs. The next append to a channel begins a new log."""
        with self.lock:
            self._logs.clear()
            self._identity = secrets.token_hex(4)
            self._doubtful.update(self._positions)
            waker, self._waker = self._waker, None
        if waker is not None:
            waker.wake()

    def before_fork(self) -> None:
        pass

    def after_fork(self) -> None:
        self.lock = new_lock()
        self._waker = None
        self._followed = Followed()
        self._identity = secrets.token_hex(4)

    def _more(self) -> News:
        found: News = {}
        for name in self._doubtful:
            log, at = self._logs.get(name), self._positions[name]
            elsewhere = at.log not in ("", self._identity)
            if elsewhere or at.number != (0 if log is None else log.last):
                after = at.number if at.log in ("", self._identity) else 0
                found[name] = self._slice(name, after, WAITED, WAITED_BYTES)
        self._doubtful.clear()
        # Without a known position, the next `wait` looks at the channel again.
        for name in found:
            del self._positions[name]
        return found

    def _slice(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        log = self._logs.get(channel)
        if log is None:
            return Slice(self._identity, 1, 0, [])
        log.trim()
        first, kept = log.first, log.kept
        entries: list[Entry] = []
        # An index is faster than a scan from the start: a deque walks to an index from its
        # nearer end, and most reads are near the newest entry.
        for index in range(max(after + 1 - first, 0), len(kept)):
            if len(entries) >= limit or max_bytes <= 0:
                break
            entries.append(kept[index].entry)
            max_bytes -= len(entries[-1].frame)
        return Slice(self._identity, first, log.last, entries, bounds=log.bounds)


_brokers: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()
AtFork(_brokers)
