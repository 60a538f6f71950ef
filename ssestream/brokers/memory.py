"""The ``memory://`` broker: logs in the memory of one process.

Other processes cannot publish to these logs, and the logs end with the process. All logs of a
process have one identity, even a log in which nothing was published yet. So a client that comes
back after a restart always finds another log, and its stream emits ``"gap"``. After a fork, the
logs of parent and child go on differently, so the child gets a new identity.

All entries of a log have one check. It tells them from the entries of a deleted log of the same
channel. So a deleted log leaves nothing behind, and the next log has another past.
"""

import heapq
import secrets
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..runtime.clock import clock
from ..runtime.forking import AtFork
from ..runtime.threads import new_lock
from ..runtime.waker import Waker
from .broker import (
    CHECK_LENGTH,
    CONTROL,
    CONTROLS,
    PLAIN,
    WAITED,
    WAITED_BYTES,
    Bounds,
    ChannelEnded,
    Entry,
    News,
    Position,
    Refused,
    Slice,
    Terms,
)
from .followed import Followed


class _Kept(NamedTuple):
    entry: Entry
    at: float
    #: The number of this message among all messages of the log. A control frame has the
    #: number of the next message, and is kept as long as that message.
    message: int


class _Log:
    def __init__(self, asked: Bounds) -> None:
        self.last = 0
        self.bounds = asked.of_new_log()
        # The bounds that were asked for last. Nearly every append asks for the same object.
        self._asked = asked
        #: How many messages were ever appended. Control frames do not count.
        self.messages = 0
        self.kept: deque[_Kept] = deque()
        #: The check of all entries.
        self.check = secrets.token_hex(CHECK_LENGTH // 2)
        #: The number of the entry that ended the log; 0 if it was not ended.
        self.ended = 0
        #: The times when the lease runs out and when the log is deleted; None for never.
        self.leased: float | None = None
        self.expires: float | None = None
        self._ttl: float | None = None

    @property
    def first(self) -> int:
        return self.kept[0].entry.number if self.kept else self.last + 1

    def append(self, frame: bytes) -> None:
        self.last += 1
        kept = Entry(self.last, frame, self.check)
        self.kept.append(_Kept(kept, clock.now(), self.messages + 1))
        self.messages += not frame.startswith(CONTROL)

    def widen(self, asked: Bounds) -> None:
        """Keep as much as *asked* from now on, if that is more."""
        if asked is not self._asked:
            self._asked, self.bounds = asked, self.bounds.widened(asked)

    def meets(self, terms: Terms) -> bool:
        """Whether an entry may be appended on *terms*, if the log has not ended."""
        lapsed = self.leased is not None and self.leased <= clock.now()
        right = terms.of is None or terms.of.check == self.check
        right = right and terms.number in (None, self.last + 1)
        return right and not terms.new and (lapsed or not terms.if_lapsed)

    def grant(self, terms: Terms) -> None:
        """Grant what *terms* ask beside an entry, which is appended already."""
        now = clock.now()
        if terms.end:
            if self.kept[-1].entry.frame != terms.end_frame:
                self.append(terms.end_frame)
            self.ended, self.leased = self.last, None
        elif terms.lease is not None:
            self.leased = now + terms.lease
        self.live_for(self._ttl if terms.ttl is None else terms.ttl)

    def live_for(self, ttl: float | None) -> None:
        """Expire *ttl* seconds from now, or after the lease; with None, never."""
        self._ttl, now = ttl, clock.now()
        self.expires = None if ttl is None else max(now, self.leased or now) + ttl

    def renew(self, lease: float) -> None:
        """See `Broker.renew`."""
        self.leased = clock.now() + lease
        self.live_for(self._ttl)

    def keep(self, bounds: Bounds, ttl: float | None) -> Bounds:
        """See `Broker.keep`."""
        history = self.bounds.history if bounds.history is None else bounds.history
        self.bounds = Bounds(history, bounds.age)
        self.live_for(ttl)
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
        # A heap of the times at which a log may have to be deleted, each with its channel. A log
        # that may expire is in it once, at the time when it expires or earlier.
        self._expiring: list[tuple[float, str]] = []
        _brokers.add(self)

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        with self.lock:
            self._delete_expired()
            asked = terms.bounds or self._asked
            log = self._logs.get(channel)
            if log is None:
                if terms.of is not None or terms.if_lapsed:
                    raise Refused(channel)
                log = _Log(asked)
            else:
                if not log.meets(terms):
                    raise Refused(channel)
                if log.ended and (terms.end or not frame.startswith(CONTROL)):
                    raise ChannelEnded(channel)
                log.widen(asked)
            self._logs[channel] = log
            log.append(frame)
            position = Position(self._identity, log.last, log.check)
            if terms is not PLAIN or log.expires is not None:
                self._note_expiry(channel, log, log.grant, terms)
            log.trim()
            waker = self._changed(channel)
        if waker is not None:
            waker.wake()
        return position

    def renew(self, channel: str, of: Position, lease: float) -> bool:
        with self.lock:
            self._delete_expired()
            log = self._logs.get(channel)
            if log is None or log.ended or of.check != log.check:
                return False
            self._note_expiry(channel, log, log.renew, lease)
            return True

    def delete(self, channel: str) -> None:
        with self.lock:
            self._delete_expired()
            log = self._logs.pop(channel, None)
            waker = None if log is None else self._changed(channel)
        if waker is not None:
            waker.wake()

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        with self.lock:
            self._delete_expired()
            return self._slice(channel, after, limit, max_bytes)

    def keep(self, channel: str, bounds: Bounds, ttl: float | None = None) -> Bounds:
        with self.lock:
            self._delete_expired()
            log = self._logs.get(channel)
            if log is None:
                return Bounds()
            self._note_expiry(channel, log, log.keep, bounds, ttl)
            return log.bounds

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
            self._expiring.clear()
            self._identity = secrets.token_hex(4)
            self._doubtful.update(self._positions)
            waker, self._waker = self._waker, None
        if waker is not None:
            waker.wake()

    def number_of_logs(self) -> int:
        """How many logs there are."""
        return len(self._logs)

    def before_fork(self) -> None:
        pass

    def after_fork(self) -> None:
        self.lock = new_lock()
        self._waker = None
        self._followed = Followed()
        self._identity = secrets.token_hex(4)

    def _changed(self, channel: str) -> Waker | None:
        """Note that the log of *channel* has changed. Returns the waker of `wait`, to be woken."""
        if channel in self._positions:
            self._doubtful.add(channel)
        waker, self._waker = self._waker, None
        return waker

    def _note_expiry(
        self, channel: str, log: _Log, change: Callable[..., object], *args: object
    ) -> None:
        """Call *change*, a method of *log*, with *args*. It may change when the log expires."""
        before = log.expires
        change(*args)
        # An entry in the heap that is too early does no harm.
        if log.expires is not None and (before is None or log.expires < before):
            heapq.heappush(self._expiring, (log.expires, channel))

    def _delete_expired(self) -> None:
        """Delete the logs that have expired."""
        heap, now = self._expiring, clock.now()
        while heap and heap[0][0] <= now:
            _, channel = heapq.heappop(heap)
            log = self._logs.get(channel)
            if log is None or log.expires is None:
                continue
            if log.expires > now:
                heapq.heappush(heap, (log.expires, channel))
                continue
            del self._logs[channel]
            if channel in self._positions:
                self._doubtful.add(channel)

    def _more(self) -> News:
        found: News = {}
        for name in self._doubtful:
            log, at = self._logs.get(name), self._positions[name]
            elsewhere = at.log not in ("", self._identity)
            other = elsewhere or (log is not None and at.check not in ("", log.check))
            if other or at.number != (0 if log is None else log.last):
                after = 0 if other else at.number
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
        lease = None if log.leased is None else log.leased - clock.now()
        check = log.check
        return Slice(
            self._identity,
            first,
            log.last,
            entries,
            check,
            check,
            log.bounds,
            ended=log.ended,
            lease=lease,
        )


_brokers: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()
AtFork(_brokers)
