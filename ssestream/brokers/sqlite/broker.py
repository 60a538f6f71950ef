"""`SqliteBroker`: the contract of a broker, kept with one SQLite file."""

import contextlib
import json
import os
import sqlite3
import time
import weakref
from collections.abc import Mapping
from typing import Any

from ...runtime.forking import AtFork
from ..broker import PLAIN, WAITED, WAITED_BYTES, Bounds, ChannelError, News, Position, Slice, Terms
from ..followed import Followed
from ..waker import PollableWaker
from .database import Database
from .deletion import has_expired, sweep
from .logs import Logs
from .watch import FileWatch

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
        # The state after the last `wait`: its connection with the newest change and its check,
        # the positions of its caller, and the channels that may have news.
        self._seen: tuple[sqlite3.Connection | None, int, str] = None, 0, ""
        self._positions: dict[str, Position] = {}
        self._doubtful: dict[str, None] = {}
        self._followed = Followed()

    # -- the contract

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        database = self._database
        try:
            position, bounds = database.do(
                "BEGIN IMMEDIATE", lambda db: self._logs.append(db, channel, frame, terms)
            )
        except (TypeError, ValueError) as error:
            raise ChannelError(channel, database.say(f"{channel!r} is damaged: {error}")) from error
        if not self._warned:
            self._warned = bounds.warn_of(terms.bounds or self._asked, channel)
        self._touch()
        return position

    def _touch(self) -> None:
        """Wake the waiting processes. Without a touch, they look once a second."""
        with contextlib.suppress(OSError):
            os.utime(self._database.path)

    def renew(self, channel: str, of: Position, lease: float) -> bool:
        return self._database.do(
            "BEGIN IMMEDIATE", lambda db: self._logs.renew(db, channel, of, lease)
        )

    def delete(self, channel: str) -> None:
        self._database.do("BEGIN IMMEDIATE", lambda db: self._logs.delete(db, channel))
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
        return self._database.do(
            "BEGIN IMMEDIATE", lambda db: self._logs.keep(db, channel, bounds, ttl)
        )

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
        positions = self._followed.all()
        news: News = {}
        for name, piece in self._wait(positions).items():
            self._followed.pass_on(name, positions[name], piece, news)
        return news

    def _wait(self, positions: Mapping[str, Position]) -> News:
        known, self._positions = self._positions, dict(positions)
        moved = [name for name, at in positions.items() if known.get(name) != at]
        kept = (name for name in self._doubtful if name in positions)
        self._doubtful = dict.fromkeys([*kept, *moved])
        while True:
            # Without a free file descriptor there is no waker: sleep, and look often. Without
            # inotify, also look often, but the waker can end each pause.
            with contextlib.suppress(OSError):
                self._waker = self._waker or PollableWaker()
                self._watch = self._watch or FileWatch()
            waker, watch = self._waker, self._watch
            # Watch before the read, so that no append between read and watch goes unnoticed.
            watching = watch is not None and watch.watch(self._database.path)
            found = self._database.do("BEGIN", self._news)
            if self._take_wake() or found:
                return found
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

    def _news(self, db: sqlite3.Connection) -> News:
        """The news of the channels that may have changed, of at most `CHANNELS` channels."""
        self._doubtful.update(dict.fromkeys(self._changed(db)))
        if not self._doubtful:
            return {}
        ends = db.execute(
            "SELECT name, log, last, token FROM channels"
            " WHERE name IN (SELECT value FROM json_each(?)) AND ifnull(expires > ?, 1)",
            (json.dumps(list(self._doubtful)), time.time()),
        )
        logs = {name: Position(log, last, token) for name, log, last, token in ends}
        found: News = {}
        for name in list(self._doubtful):
            at, end = self._positions[name], logs.get(name, Position("", 0))
            if not _stands_at(at, end):
                if len(found) == CHANNELS:
                    break
                after = at.number if at.log in ("", end.log) else 0
                piece = self._logs.read(db, name, after, WAITED, WAITED_BYTES)
                if isinstance(piece, Slice) and piece.has_other_past(at):
                    whole = self._logs.read(db, name, 0, WAITED, WAITED_BYTES)
                    if isinstance(whole, Slice):
                        whole = whole.read_after(piece.check)
                    piece = whole
                found[name] = piece
                # Without a known position, the next `wait` looks at the channel again.
                del self._positions[name]
            del self._doubtful[name]
        return found

    def _changed(self, db: sqlite3.Connection) -> list[str]:
        """The channels that the caller waits for and that may have changed since the last call."""
        newest: tuple[int, str] = db.execute(
            "SELECT change, token FROM (SELECT * FROM"
            " (SELECT change, token FROM channels ORDER BY change DESC LIMIT 1)"
            " UNION ALL SELECT * FROM"
            " (SELECT change, token FROM gone ORDER BY change DESC LIMIT 1))"
            " ORDER BY change DESC LIMIT 1"
        ).fetchone() or (0, "")
        connection, *seen = self._seen
        self._seen = db, *newest
        if connection is db and tuple(seen) == newest:
            return []
        known = (
            connection is db
            and db.execute(
                "SELECT 1 FROM events WHERE change = ?1 AND token = ?2"
                " UNION ALL SELECT 1 FROM gone WHERE change = ?1 AND token = ?2",
                seen,
            ).fetchone()
        )
        # The connection is new, a backup was restored, or the entry was trimmed. In each case any
        # channel may have changed.
        if not known:
            return list(self._positions)
        changed = db.execute(
            "SELECT name FROM channels WHERE change > ?1"
            " UNION ALL SELECT name FROM gone WHERE change > ?1",
            seen[:1],
        )
        return [name for (name,) in changed if name in self._positions]


def _stands_at(at: Position, end: Position) -> bool:
    """Whether a log that ends at *end* has no entry after *at*, and the same past."""
    return at[:2] == end[:2] and (at.check == end.check or not (at.check and end.check))


_brokers: weakref.WeakSet[SqliteBroker] = weakref.WeakSet()
AtFork(_brokers)
