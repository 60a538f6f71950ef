"""The ``memory://`` broker: logs in the memory of one process.

Other processes cannot publish to these logs, and the logs end with the process. All logs of a
process have one identity, even a log in which nothing was published yet. So a client that comes
back after a restart always finds another log, and its stream emits ``"gap"``. After a fork, the
logs of parent and child go on differently, so the child gets a new identity.

All entries of a log have one check. It tells them from the entries of a deleted log of the same
channel. So a deleted log leaves nothing behind, and the next log has another past.

A log whose entries are all too old is *dropped*, unless its channel is followed or its bounds were
changed. The next log of the channel goes on behind the numbers of the dropped log, so a client that
has missed nothing need not be told of a gap. For that the broker remembers where dropped logs
ended, but only the greatest number in each of `SLOTS` groups of channels. So a client that comes
back may find that its channel begins at a greater number, and its stream then emits ``"gap"``.
"""

import heapq
import itertools
import secrets
import weakref

from ..runtime.clock import clock
from ..runtime.forking import AtFork
from ..runtime.threads import new_lock
from ..runtime.waker import Waker
from .broker import (
    CONTROL,
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
from .followed import FollowedLogs
from .memory_log import Log

#: The most channels in one result of `MemoryBroker.wait`, so that other work has its turn.
CHANNELS = 256

#: Groups of channels for which the ends of dropped logs are remembered.
SLOTS = 1024


class MemoryBroker:
    """Logs in this process (see `broker.Broker`). No method raises `BrokerError`."""

    shared = False

    def __init__(self, history: int | None = None, history_age: float | None = None) -> None:
        self._asked = Bounds(history, history_age)
        self._identity = secrets.token_hex(4)
        self._logs: dict[str, Log] = {}
        #: Guards all fields. Nobody holds it while waiting.
        self.lock = new_lock()
        self._waker: Waker | None = None
        self._woken = False
        self._followed = FollowedLogs()
        # A heap of logs by `Log.due`. The number keeps equal times apart.
        self._due: list[tuple[float, int, Log]] = []
        self._numbers = itertools.count()
        # The greatest end of a dropped log, in each slot of channels that had one.
        self._ends: dict[int, int] = {}
        _brokers.add(self)

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        with self.lock:
            self._sweep()
            asked = terms.bounds or self._asked
            log = self._logs.get(channel)
            if log is None:
                if terms.of is not None or terms.if_lapsed:
                    raise Refused(channel)
                log = self._logs[channel] = Log(channel, self._end(channel), asked)
            else:
                if terms is not PLAIN and not log.meets(terms):
                    raise Refused(channel)
                if log.ended and (terms.end or not frame.startswith(CONTROL)):
                    raise ChannelEnded(channel)
                log.widen(asked)
            log.append(frame)
            position = Position(self._identity, log.last, log.check)
            if terms is not PLAIN or log.expires is not None:
                log.grant(terms)
            log.trim()
            self._plan(log)
            waker = self._changed(channel)
        if waker is not None:
            waker.wake()
        return position

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        with self.lock:
            self._sweep()
            log = self._logs.get(channel)
            if log is None or log.ended or of.check != log.check:
                return False
            log.renew(lease)
            self._plan(log)
            return True

    def delete(self, channel: str) -> None:
        with self.lock:
            self._sweep()
            log = self._logs.get(channel)
            if log is not None:
                self._delete(log)
            waker = None if log is None else self._changed(channel)
        if waker is not None:
            waker.wake()

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        with self.lock:
            self._sweep()
            return self._slice(channel, after, limit, max_bytes)

    def keep(self, channel: str, bounds: Bounds, ttl: float | None = None) -> Bounds:
        with self.lock:
            self._sweep()
            log = self._logs.get(channel)
            if log is None:
                return Bounds()
            log.keep(bounds, ttl)
            self._plan(log)
            return log.bounds

    def ping(self) -> None:
        pass

    def follow(self, channel: str, position: Position) -> None:
        with self.lock:
            has_news = not self._stands_at_end(channel, position)
            self._followed.follow(channel, position)
            if not has_news:
                self._followed.settle(channel, position)
            waker = self._take_waker() if has_news else None
        if waker is not None:
            waker.wake()

    def unfollow(self, channel: str) -> None:
        with self.lock:
            self._followed.unfollow(channel)
            log = self._logs.get(channel)
            if log is not None:
                log.trim()
                self._plan(log)

    def wait(self) -> News:
        waker = Waker()
        while True:
            with self.lock:
                self._sweep()
                news = self._news()
                if news or self._woken:
                    self._woken = False
                    return news
                self._waker = waker
            waker.wait()

    def wake(self) -> None:
        with self.lock:
            self._woken = True
            waker = self._take_waker()
        if waker is not None:
            waker.wake()

    def close(self) -> None:
        pass

    def clear(self) -> None:
        """Forget all logs. The next append to a channel begins a new log."""
        with self.lock:
            self._logs.clear()
            self._due.clear()
            self._ends.clear()
            self._identity = secrets.token_hex(4)
            self._followed.note_all()
            waker = self._take_waker()
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
        self._followed = FollowedLogs()
        self._identity = secrets.token_hex(4)

    # -- the following methods are called with the lock held

    def _take_waker(self) -> Waker | None:
        """The waker of a sleeping `wait`, which the caller wakes without the lock."""
        waker, self._waker = self._waker, None
        return waker

    def _changed(self, channel: str) -> Waker | None:
        """Note that the log of *channel* has changed. Returns a waker as `_take_waker` does."""
        return self._take_waker() if self._followed.note(channel) else None

    def _news(self) -> News:
        """The news of some followed channels."""
        news: News = {}
        while not news and (unchecked := self._followed.unchecked(CHANNELS)):
            for name, at in unchecked:
                if self._stands_at_end(name, at):
                    self._followed.settle(name, at)
                else:
                    self._followed.pass_on(name, at, self._read_news(name, at), news)
        return news

    def _read_news(self, channel: str, at: Position) -> Slice:
        if self._is_of_log(channel, at):
            return self._slice(channel, at.number, WAITED, WAITED_BYTES)
        log = self._logs.get(channel)
        check = "" if log is None else log.check_of(at.number)
        return self._slice(channel, 0, WAITED, WAITED_BYTES).with_check(check)

    def _is_of_log(self, channel: str, at: Position) -> bool:
        """Whether *at* is a position in the log of *channel*, and not in an earlier log."""
        log = self._logs.get(channel)
        check = "" if log is None else log.check_of(at.number)
        return at.log in ("", self._identity) and (not check or at.check in ("", check))

    def _stands_at_end(self, channel: str, at: Position) -> bool:
        return self._is_of_log(channel, at) and at.number == self._end(channel)

    def _end(self, channel: str) -> int:
        """The number after which the next entry of *channel* comes."""
        log = self._logs.get(channel)
        if log is not None:
            return log.last
        # The end of a dropped log must not move a follower of another channel in the slot, or its
        # stream would emit a gap.
        at = self._followed.position(channel)
        if at is not None and at.log == self._identity and not self._followed.is_unchecked(channel):
            return at.number
        return self._ends.get(hash(channel) % SLOTS, 0)

    def _plan(self, log: Log) -> None:
        """Look at *log* when it changes by itself. Drop it if nobody needs it any more."""
        if not log.kept and not log.ended and log.expires is None:
            is_usual = log.bounds == self._asked.of_new_log()
            if is_usual and self._followed.position(log.name) is None:
                self._drop(log, log.last)
                return
        due = log.changes_at
        if due is not None and (log.due is None or due < log.due):
            log.look_at(due)
            heapq.heappush(self._due, (due, next(self._numbers), log))

    def _drop(self, log: Log, end: int) -> None:
        """Forget *log*. The next log of the channel comes behind the number *end*."""
        if self._logs.get(log.name) is log:
            del self._logs[log.name]
            slot = hash(log.name) % SLOTS
            self._ends[slot] = max(end, self._ends.get(slot, 0))

    def _delete(self, log: Log) -> None:
        """Forget *log*, and let a client see that the next log of the channel is another log."""
        if log.start:
            # A dropped log came before, and the check of its entries is forgotten. So leave out a
            # number.
            self._drop(log, log.last + 1)
        else:
            del self._logs[log.name]

    def _sweep(self) -> None:
        """Delete the logs that have expired, and remove the entries that are too old."""
        now = clock.now()
        looked: list[Log] = []
        while self._due and self._due[0][0] <= now:
            due, _, log = heapq.heappop(self._due)
            if due == log.due and self._logs.get(log.name) is log:
                looked.append(log)
        for log in looked:
            log.look_at(None)
            if log.expires is not None and log.expires <= now:
                self._delete(log)
                self._followed.note(log.name)
            else:
                log.trim()
                self._plan(log)

    def _slice(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        log = self._logs.get(channel)
        if log is None:
            end = self._end(channel)
            return Slice(self._identity, end + 1, end, [])
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
        lease = None if log.leased is None else log.leased - clock.real()
        return Slice(
            self._identity,
            first,
            log.last,
            entries,
            log.check_of(after),
            log.check_of(log.last),
            log.bounds,
            ended=log.ended,
            lease=lease,
        )


_brokers: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()
AtFork(_brokers)
