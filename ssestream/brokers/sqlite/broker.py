"""`SqliteBroker`: the contract of a broker, kept with one SQLite file."""

import contextlib
import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from ...runtime.forking import AtFork
from ..broker import PLAIN, WAITED, WAITED_BYTES, Bounds, ChannelError, News, Position, Slice, Terms
from ..followed import FollowedLogs
from ..waker import PollableWaker
from .database import Database
from .deletion import has_expired, sweep
from .logs import DAMAGE, Logs
from .seen import Seen
from .watch import FileWatch

_T = TypeVar("_T")

#: Seconds between two looks at a file that nobody has touched.
LOOK = 1.0

#: Seconds between two looks without inotify.
LOOK_OFTEN = 0.02

#: The most channels that one `wait` reads, so that other greenlets get their turn.
CHANNELS = 256


class SqliteBroker:
    """Logs in the SQLite file *path* (see `broker.Broker`).

    Each method except `wait` returns or raises within about `database.PATIENCE` seconds.
    """

    shared = True

    def __init__(
        self, path: str, history: int | None = None, history_age: float | None = None
    ) -> None:
        self._database = Database(path)
        self._asked = Bounds(history, history_age)
        self._logs = Logs(self._asked, self._database.say)
        self._warned = False
        self._begin()
        _brokers.add(self)
        # Close the connection when the broker is dropped, and at the end of the process: Python
        # 3.13 warns of a connection that only the garbage collector closes.
        weakref.finalize(self, self._database.close)

    def _begin(self) -> None:
        self._waker: PollableWaker | None = None
        self._watch: FileWatch | None = None
        self._woken = False
        self._followed = FollowedLogs()
        self._seen = Seen()

    # -- the contract

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        position, bounds = self._change(
            channel, lambda db: self._logs.append(db, channel, frame, terms)
        )
        if not self._warned:
            self._warned = bounds.warn_of(terms.bounds or self._asked, channel)
        self._touch()
        return position

    def _change(self, channel: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run *work*, which changes the log of *channel* alone, in one transaction."""
        try:
            return self._database.do("BEGIN IMMEDIATE", work)
        except DAMAGE as error:
            words = f"{channel!r} is damaged: {error}"
            raise ChannelError(channel, self._database.say(words)) from error

    def _touch(self) -> None:
        """Wake the waiting processes. Without a touch, they look once a second."""
        with contextlib.suppress(OSError):
            os.utime(self._database.path)

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        return self._change(channel, lambda db: self._logs.renew(db, channel, of, lease))

    def delete(self, channel: str) -> None:
        self._change(channel, lambda db: self._logs.delete(db, channel))
        self._touch()
        self._sweep()

    def _sweep(self) -> None:
        """Free the rows of deleted and expired logs."""
        while self._database.do("BEGIN", has_expired):
            self._database.do("BEGIN IMMEDIATE", sweep)
            time.sleep(0)  # let other greenlets run

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        piece = self._database.do(
            "BEGIN", lambda db: self._logs.read(db, channel, after, limit, max_bytes)
        )
        if isinstance(piece, ChannelError):
            raise piece
        return piece

    def keep(self, channel: str, bounds: Bounds, ttl: float | None = None) -> Bounds:
        return self._change(channel, lambda db: self._logs.keep(db, channel, bounds, ttl))

    def ping(self) -> None:
        # A write that changes no row: it fails if this process may not write. BEGIN IMMEDIATE
        # alone does not fail in a read-only file, because SQLite then treats it as BEGIN.
        self._database.do(
            "BEGIN IMMEDIATE", lambda db: db.execute("UPDATE channels SET last = 0 WHERE 0")
        )

    def follow(self, channel: str, position: Position) -> None:
        self._followed.follow(channel, position)
        self.wake()

    def unfollow(self, channel: str) -> None:
        self._followed.unfollow(channel)

    def wait(self) -> News:
        while True:
            # Without a free file descriptor there is no waker: sleep, and look often. Without
            # inotify, also look often, but the waker can end each pause.
            with contextlib.suppress(OSError):
                self._waker = self._waker or PollableWaker()
                self._watch = self._watch or FileWatch()
            waker, watch = self._waker, self._watch
            # Watch before the read, so that no append between read and watch goes unnoticed.
            watching = watch is not None and watch.watch(self._database.path)
            news: News = {}
            # Move no position before the transaction has ended well.
            for name, at, piece in self._database.do("BEGIN", self._find_news):
                self._followed.pass_on(name, at, piece, news)
            if self._take_wake() or news:
                return news
            if self._followed.has_unchecked:
                time.sleep(0)  # let other greenlets run
                continue
            # Nothing else frees the expired logs if nobody appends.
            self._sweep()
            if waker is None:
                time.sleep(LOOK_OFTEN)
            elif watch is None or not watching:
                waker.wait(LOOK_OFTEN)
            elif waker.wait(LOOK, watch)[1]:
                watch.clear()
            # `close` also wakes, and then nothing may open the file again.
            if self._take_wake():
                return {}

    def wake(self) -> None:
        self._woken = True
        waker = self._waker
        if waker is not None:
            waker.wake()

    def close(self) -> None:
        with self._database.lock:
            self._database.forget()
        self.wake()
        self._waker = self._watch = None  # a caller of `wait` still holds both, and closes them

    def _take_wake(self) -> bool:
        woken, self._woken = self._woken, False
        return woken

    # -- forks (see `forking.AtFork`)

    @property
    def lock(self) -> Any:
        return self._database.lock

    def before_fork(self) -> None:
        # A lock of SQLite belongs to one process. A child would take the locks of its parent for
        # its own, so no connection may be open while a process forks.
        self._database.forget()

    def after_fork(self) -> None:
        self._database.begin()
        self._begin()

    # -- news

    def _find_news(
        self, db: sqlite3.Connection
    ) -> list[tuple[str, Position, Slice | ChannelError]]:
        """The news of some followed channels, each with the position before it."""
        changed = self._seen.changed(db)
        if changed is None:
            self._followed.note_all()
        else:
            for name in changed:
                self._followed.note(name)
        found: list[tuple[str, Position, Slice | ChannelError]] = []
        if unchecked := self._followed.unchecked(CHANNELS):
            ends = self._logs.ends(db, [name for name, _ in unchecked])
            for name, at in unchecked:
                end = ends.get(name, Position("", 0))
                if _stands_at(at, end):
                    self._followed.settle(name, at)
                else:
                    found.append((name, at, self._read_news(db, name, at, end.log)))
        return found

    def _read_news(
        self, db: sqlite3.Connection, name: str, at: Position, log: str
    ) -> Slice | ChannelError:
        """The entries of the channel *name*, which has the log *log*, after *at*."""
        after = at.number if at.log in ("", log) else 0
        piece = self._logs.read(db, name, after, WAITED, WAITED_BYTES)
        if isinstance(piece, Slice) and piece.has_other_past(at):
            whole = self._logs.read(db, name, 0, WAITED, WAITED_BYTES)
            return whole.with_check(piece.check) if isinstance(whole, Slice) else whole
        return piece


def _stands_at(at: Position, end: Position) -> bool:
    """Whether a log that ends at *end* has no entry after *at*, and the same past."""
    return at[:2] == end[:2] and (at.check == end.check or not (at.check and end.check))


_brokers: weakref.WeakSet[SqliteBroker] = weakref.WeakSet()
AtFork(_brokers)
