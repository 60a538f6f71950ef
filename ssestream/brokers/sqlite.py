"""The ``sqlite://`` broker: logs in one SQLite file, shared by all processes of a host.

An entry is stored once its transaction is in the write-ahead log of the file. After `append`
has returned, the end of a process cannot lose the entry, not even by ``kill -9``. A loss of
power may lose the newest entries, but leaves the file intact. (To wait for the disk at each
append would stop everything else in the process.)

After each append, the broker touches the file, which changes only the file's times. The kernel
then wakes the waiting processes (inotify), so no process needs to poll. Without inotify, a waiting
process looks at the file every 20 ms. Even with inotify, a waiting process looks once a second,
because a publisher may be killed between its append and its touch.

All channels share one counter, and each append takes the next number. `wait` remembers the last
number that it saw, and asks which channels have a higher number. A restored backup sets the
counter back. Therefore `wait` first checks that the entry with the remembered number is still the
same entry.

Each append removes a few entries that its log no longer keeps. Each append also removes a few
entries that are too old for their logs, because some logs get no append any more.

SQLite's calls do not give way to other greenlets. Therefore all transactions are short, and no
transaction waits for a lock. A transaction that finds a lock is tried again after a pause in which
other greenlets run.

The file must be on a disk of this host, because write-ahead logs use shared memory.
"""

import ctypes
import json
import os
import secrets
import select
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..printable import escape
from ..runtime.clock import clock
from ..runtime.forking import AtFork
from ..runtime.loop import new_lock
from ..settings import chance
from .broker import (
    CHECK_LENGTH,
    CONTROL,
    CONTROLS,
    WAITED,
    WAITED_BYTES,
    Bounds,
    BrokerError,
    ChannelError,
    Entry,
    News,
    Position,
    Slice,
    shortage,
)

#: Seconds in which a call tries again while other connections keep the file locked.
PATIENCE = 5.0

#: The most seconds between two tries. A transaction takes a tenth of a millisecond.
PAUSE = 0.005

#: Seconds between two looks at a file that nobody has touched.
LOOK = 1.0

#: Seconds between two looks without inotify.
LOOK_OFTEN = 0.02

#: The most entries that one append removes from its own log, and the most that it removes from
#: all logs for their age.
TRIMMED = 16

#: The most channels that one `wait` reads, so that other greenlets get their turn.
CHANNELS = 256

#: The mark of a file of this broker: "SSE", and version 2 of its tables.
FORM = 0x53534502

TABLES = (
    # *last*, *change*, *token* and *at* are the number, change, check and time of the newest
    # entry ever appended. *messages* is the number of all messages ever appended. *history* is
    # NULL if it was never set, in a file of version 1. An *age* of NULL means any age.
    """CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    log TEXT NOT NULL, last INTEGER NOT NULL, change INTEGER NOT NULL,
    token TEXT NOT NULL DEFAULT '', messages INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL DEFAULT 0,
    history INTEGER, age REAL)""",
    "CREATE INDEX changes ON channels (change)",
    # *message* is the number of this message among all messages of its log. A control frame has
    # the number of the next message, and is kept as long as that message. *expires* is the time
    # at which the entry becomes too old for its log, or NULL for never. *at* and *expires*
    # never decrease within a log, even if the clock is set back.
    """CREATE TABLE events (change INTEGER PRIMARY KEY, channel INTEGER NOT NULL,
    number INTEGER NOT NULL, at REAL NOT NULL, frame BLOB NOT NULL,
    token TEXT NOT NULL DEFAULT '', message INTEGER NOT NULL DEFAULT 0, expires REAL)""",
    "CREATE UNIQUE INDEX numbers ON events (channel, number)",
    "CREATE INDEX expiry ON events (expires) WHERE expires IS NOT NULL",
    f"PRAGMA application_id = {FORM}",
)

#: The mark of a file of version 1.
FORM_1 = 0x53534501

#: The statements that turn version 1 into version 2.
FROM_FORM_1 = (
    "ALTER TABLE channels ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE channels ADD COLUMN messages INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE channels ADD COLUMN at REAL NOT NULL DEFAULT 0",
    "ALTER TABLE channels ADD COLUMN history INTEGER",
    "ALTER TABLE channels ADD COLUMN age REAL",
    "ALTER TABLE events ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE events ADD COLUMN message INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE events ADD COLUMN expires REAL",
    "UPDATE channels SET messages = last",
    "UPDATE events SET message = number",
    "CREATE INDEX expiry ON events (expires) WHERE expires IS NOT NULL",
    f"PRAGMA application_id = {FORM}",
)

#: inotify's IN_ATTRIB: the times of a file have changed, or the file was removed.
TOUCHED = 0x4

#: File descriptors that a connection needs: the file, its log, their index, a directory.
DESCRIPTORS = 4

#: SQLite's errors in the place of a wait for a lock.
BUSY = ("database is locked", "locking protocol")

#: Other errors of SQLite, each with its cure.
ALLOW = "this process must be allowed to write the file, its -wal and -shm, and the directory"
IO_ERROR = "disk I/O error"
MALFORMED = "database disk image is malformed"
UNOPENED = "unable to open database file"
CURES = {
    "database or disk is full": "make room on its disk",
    "attempt to write a readonly database": ALLOW,
    UNOPENED: ALLOW,
    "database is locked": f"another connection has kept the lock for {PATIENCE:g} s",
    "file is not a database": "move the file away",
    MALFORMED: "move the file away, and its -wal and -shm",
}

#: Errors that pass when the disk has room again or works again.
PASSING = ("database or disk is full", IO_ERROR)

_T = TypeVar("_T")

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class SqliteBroker:
    """Logs in the SQLite file *path* (see `broker.Broker`).

    Each method except `wait` returns or raises within about `PATIENCE` seconds.
    """

    shared = True

    def __init__(
        self, path: str, history: int | None = None, history_age: float | None = None
    ) -> None:
        self._path = os.path.abspath(path)
        self._asked = Bounds(history, history_age)
        self._warned = False
        self._held = _Held()
        self._begin()
        _brokers.add(self)
        # Close the connection when the broker is dropped, and at the end of the process: Python
        # 3.13 warns of a connection that only the garbage collector closes.
        weakref.finalize(self, _Held.close, self._held)

    def _begin(self) -> None:
        # Guards the connection. Held for one transaction, and never during a wait.
        self._lock = self._held.lock = new_lock()
        self._held.db = None
        self._file: tuple[int, ...] | None = None
        self._waker: _PollableWaker | None = None
        self._woken = False
        # The state after the last `wait`: its connection with the newest change and its check,
        # the positions of its caller, and the channels that may have news.
        self._seen: tuple[sqlite3.Connection | None, int, str] = None, 0, ""
        self._positions: dict[str, Position] = {}
        self._doubtful: dict[str, None] = {}

    # -- the contract

    def append(self, channel: str, frame: bytes) -> Position:
        try:
            position, bounds = self._do(
                "BEGIN IMMEDIATE", lambda db: self._append(db, channel, frame)
            )
        except (TypeError, ValueError) as error:
            raise ChannelError(channel, self._say(f"{channel!r} is damaged: {error}")) from error
        if not self._warned:
            self._warned = bounds.warn_of(self._asked, channel)
        try:
            os.utime(self._path)
        except OSError:  # the entry is stored; waiting processes see it at their next look
            pass
        return position

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        piece = self._do("BEGIN", lambda db: self._read_whole(db, channel, after, limit, max_bytes))
        if isinstance(piece, ChannelError):
            raise piece
        return piece

    def keep(self, channel: str, bounds: Bounds) -> Bounds:
        return self._do("BEGIN IMMEDIATE", lambda db: self._keep(db, channel, bounds))

    def ping(self) -> None:
        # A write that changes no row, so that the lack of a right to write is an error. In a file
        # that is read-only, SQLite takes BEGIN IMMEDIATE for BEGIN.
        self._do("BEGIN IMMEDIATE", lambda db: db.execute("UPDATE channels SET last = 0 WHERE 0"))

    def wait(self, positions: Mapping[str, Position]) -> News:
        known, self._positions = self._positions, dict(positions)
        moved = [name for name, at in positions.items() if known.get(name) != at]
        kept = (name for name in self._doubtful if name in positions)
        self._doubtful = dict.fromkeys([*kept, *moved])
        while True:
            waker = self._waker
            if waker is None:
                waker = self._waker = _new_bell()
            # Watch before the read, so that no append between read and watch goes unnoticed.
            watching = waker is not None and waker.watch(self._path)
            found = self._do("BEGIN", self._news)
            if self._take_wake() or found:
                return found
            if waker is not None and watching:
                waker.wait(LOOK)
            else:
                time.sleep(LOOK_OFTEN)
            # `close` also wakes, and then nothing may open the file again.
            if self._take_wake():
                return {}

    def wake(self) -> None:
        self._woken = True
        waker = self._waker
        if waker is not None:
            waker.wake()

    def close(self) -> None:
        with self._lock:
            self._forget()
        self.wake()
        self._waker = None  # a caller of `wait` still holds the waker, and closes it by dropping it

    def _take_wake(self) -> bool:
        woken, self._woken = self._woken, False
        return woken

    # -- transactions

    @property
    def _db(self) -> sqlite3.Connection | None:
        return self._held.db

    def _do(self, begin: str, what: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run *what* in one transaction, and return its result.

        *begin* is the SQL that begins the transaction. Tries again for `PATIENCE` seconds while
        the file is locked.
        """
        deadline = clock.now() + PATIENCE
        while True:
            try:
                with self._lock:
                    return self._transact(begin, what)
            except MemoryError as error:
                raise BrokerError(self._say("no memory")) from error
            except sqlite3.Error as error:
                if str(error) not in BUSY or clock.now() > deadline:
                    raise self._explain(error) from error
            time.sleep(chance.uniform(0, PAUSE))

    def _transact(self, begin: str, what: Callable[[sqlite3.Connection], _T]) -> _T:
        db = self._connection()
        try:
            db.execute(begin)
            result = what(db)
            db.execute("COMMIT")
            return result
        # A signal handler may raise any exception here. An open transaction would lock the file
        # for all processes.
        except BaseException as error:
            if db.in_transaction or str(error) not in BUSY:
                self._forget()
            raise

    def _connection(self) -> sqlite3.Connection:
        """The connection to the file at the path now. The old file may have been moved away."""
        db = self._db
        if db is not None and self._file is not None and self._file == self._find():
            return db
        self._forget()
        # SQLite must not wait for a lock: `_do` waits, and lets other greenlets run.
        db = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        # SQLite opens a file that it may not write for reading only. Forget such a connection at
        # the next call, because the file may be writable then.
        self._file = self._find() if os.access(self._path, os.W_OK) else None
        self._held.db = db
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        current = self._is_current(db)
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise sqlite3.OperationalError("its disk does not allow a write-ahead log")
        db.execute("PRAGMA synchronous = NORMAL")
        # After a burst, the write-ahead log shrinks to this many bytes again.
        db.execute("PRAGMA journal_size_limit = 16777216")
        if not current:
            db.execute("BEGIN IMMEDIATE")
            if not self._is_current(db):
                for statement in FROM_FORM_1 if self._form(db)[0] == FORM_1 else TABLES:
                    db.execute(statement)
            db.execute("COMMIT")

    def _is_current(self, db: sqlite3.Connection) -> bool:
        form, tables = self._form(db)
        if form not in (FORM, FORM_1) and tables:
            raise sqlite3.OperationalError("the file is a database of another program")
        return form == FORM

    def _form(self, db: sqlite3.Connection) -> tuple[int, int]:
        """The mark of the file, and the number of its tables and indexes."""
        # Read both in one statement, because another process may be making the tables now.
        form, tables = db.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
        ).fetchone()
        return form, tables

    def _find(self) -> tuple[int, ...] | None:
        # All three files, because an operator removes them one after the other.
        try:
            return tuple(os.stat(self._path + part).st_ino for part in ("", "-wal", "-shm"))
        except OSError:
            return None

    def _forget(self) -> None:
        self._held.forget()

    # A lock of SQLite belongs to one process. A child would take the locks of its parent for
    # its own, so no connection may be open while a process forks.
    def before_fork(self) -> None:
        self._forget()

    def after_fork(self) -> None:
        self._begin()

    def _explain(self, error: Exception) -> BrokerError:
        words, folder = str(error), os.path.dirname(self._path)
        # Do not open the file itself to find the cause: to close any descriptor of the file
        # releases the locks of SQLite.
        if words in (UNOPENED, IO_ERROR) and (lack := shortage(DESCRIPTORS)):
            return BrokerError(self._say(words + lack))
        cure = CURES.get(words) if os.path.isdir(folder) else f"there is no directory {folder}"
        text = self._say(words + (f" ({cure})" if cure else ""))
        return BrokerError(text, lasting=words not in (*BUSY, *PASSING))

    def _say(self, words: str) -> str:
        return escape(f"the channels in {self._path}: {words}")

    # -- in a transaction

    def _append(
        self, db: sqlite3.Connection, channel: str, frame: bytes
    ) -> tuple[Position, Bounds]:
        (change,) = db.execute("SELECT ifnull(max(change), 0) + 1 FROM channels").fetchone()
        row = db.execute(
            "SELECT id, log, last, messages, at, history, age FROM channels WHERE name = ?",
            (channel,),
        ).fetchone()
        token, now = secrets.token_hex(CHECK_LENGTH // 2), time.time()
        if row is None:
            log, last, messages, before = secrets.token_hex(4), 0, 0, Bounds()
            bounds = self._asked.of_new_log()
            inserted = "INSERT INTO channels (name, log, last, change) VALUES (?, ?, 0, 0)"
            key = db.execute(inserted, (channel, log)).lastrowid
        else:
            key, log, last, messages, at, *kept = row
            now = max(now, at)
            before = Bounds(*kept)
            said = before.history is not None
            bounds = before.widened(self._asked) if said else self._asked.of_new_log()
        number, message = last + 1, messages + 1
        messages += not frame.startswith(CONTROL)
        db.execute(
            "UPDATE channels SET last = ?, change = ?, token = ?, messages = ?, at = ?,"
            " history = ?, age = ? WHERE id = ?",
            (number, change, token, messages, now, *bounds, key),
        )
        if bounds != before:
            self._set_expiry(db, key, bounds.age)
        expires = None if bounds.age is None else now + bounds.age
        db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (change, key, number, now, frame, token, message, expires),
        )
        self._trim(db, key, number, messages, bounds)
        return Position(log, number, token), bounds

    def _trim(
        self, db: sqlite3.Connection, key: int | None, last: int, messages: int, bounds: Bounds
    ) -> None:
        """Remove a few entries that this log no longer keeps, and a few old entries of all logs."""
        assert bounds.history is not None
        db.execute(
            "DELETE FROM events WHERE channel = ? AND (message <= ? OR number <= ?) AND number <"
            " (SELECT min(number) FROM events WHERE channel = ?) + ?",
            (key, messages - bounds.history, last - bounds.history - CONTROLS, key, TRIMMED),
        )
        # In each log, remove all entries up to the newest of the old ones: a log has no gap.
        old = db.execute(
            "SELECT channel, max(number) FROM (SELECT channel, number FROM events"
            " WHERE expires <= ? ORDER BY expires LIMIT ?) GROUP BY channel",
            (time.time(), TRIMMED),
        )
        for of, number in old.fetchall():
            db.execute("DELETE FROM events WHERE channel = ? AND number <= ?", (of, number))

    def _set_expiry(self, db: sqlite3.Connection, key: int | None, age: float | None) -> None:
        db.execute("UPDATE events SET expires = at + ? WHERE channel = ?", (age, key))

    def _keep(self, db: sqlite3.Connection, channel: str, bounds: Bounds) -> Bounds:
        row = db.execute(
            "SELECT id, history, messages FROM channels WHERE name = ?", (channel,)
        ).fetchone()
        if row is None:
            return Bounds()
        key, history, messages = row
        bounds = Bounds(bounds.history or history, bounds.age).of_new_log()
        assert bounds.history is not None
        db.execute(
            "DELETE FROM events WHERE channel = ? AND message <= ?",
            (key, messages - bounds.history),
        )
        db.execute("UPDATE channels SET history = ?, age = ? WHERE id = ?", (*bounds, key))
        self._set_expiry(db, key, bounds.age)
        return bounds

    def _read(
        self, db: sqlite3.Connection, channel: str, after: int, limit: int, max_bytes: int
    ) -> Slice:
        row = db.execute(
            "SELECT id, log, last, token, messages, history, age FROM channels WHERE name = ?",
            (channel,),
        ).fetchone()
        if row is None:
            return Slice("", 1, 0, [])
        key, log, last, token, messages, *kept = row
        bounds = self._asked if kept[0] is None else Bounds(*kept)
        first = self._first(db, key, last, messages, bounds)
        check = token
        if after != last:
            row = db.execute(
                "SELECT token FROM events WHERE channel = ? AND number = ?", (key, after)
            ).fetchone()
            check = "" if row is None else row[0]
        entries: list[Entry] = []
        if after < last and limit:
            for row in db.execute(
                "SELECT number, frame, token FROM events WHERE channel = ? AND number >= ?"
                " ORDER BY number LIMIT ?",
                (key, max(first, after + 1), limit),
            ):
                if max_bytes <= 0:
                    break
                entries.append(Entry(*row))
                max_bytes -= len(entries[-1].frame)
        return Slice(log, first, last, entries, check, token, bounds)

    def _read_whole(
        self, db: sqlite3.Connection, channel: str, after: int, limit: int, max_bytes: int
    ) -> Slice | ChannelError:
        """The result of `_read`, or a `ChannelError` if only this channel cannot be read."""
        try:
            piece = self._read(db, channel, after, limit, max_bytes)
            numbers = [piece.first, piece.last, *(entry.number for entry in piece.entries)]
            if not isinstance(piece.log, str) or not all(type(each) is int for each in numbers):
                raise TypeError("the identity of the log is not a str, or a number is not an int")
            for number, frame, *_ in piece.entries:
                if not isinstance(frame, bytes):
                    raise TypeError(f"entry {number} is a {type(frame).__name__}, not bytes")
            return piece
        except (TypeError, ValueError) as error:
            return ChannelError(channel, self._say(f"{channel!r} is damaged: {error}"))
        except sqlite3.DatabaseError as error:
            # A damaged page of this channel. If the page concerns every channel, the next
            # statement fails too.
            if str(error) != MALFORMED:
                raise
            return ChannelError(channel, self._say(f"{channel!r}: {error}"))

    def _first(
        self, db: sqlite3.Connection, key: int, last: int, messages: int, bounds: Bounds
    ) -> int:
        """The number of the oldest entry that the log keeps; *last* + 1 if there is none.

        Some older entries may still be in the file, because an append removes only a few.
        """
        lost = 0 if bounds.history is None else messages - bounds.history
        now = time.time()

        def oldest_from(number: int) -> tuple[int, bool]:
            row = db.execute(
                "SELECT number, message <= ? OR ifnull(expires <= ?, 0) FROM events"
                " WHERE channel = ? AND number >= ? ORDER BY number LIMIT 1",
                (lost, now, key, number),
            ).fetchone()
            return (last + 1, False) if row is None else (row[0], bool(row[1]))

        first, is_lost = oldest_from(0)
        end = last + 1
        while is_lost and first < end:
            middle = (first + end) // 2
            if oldest_from(middle)[1]:
                first = middle + 1
            else:
                end = middle
        return first

    def _news(self, db: sqlite3.Connection) -> News:
        """The news of the channels that may have changed, of at most `CHANNELS` channels."""
        self._doubtful.update(dict.fromkeys(self._changed(db)))
        if not self._doubtful:
            return {}
        ends = db.execute(
            "SELECT name, log, last, token FROM channels"
            " WHERE name IN (SELECT value FROM json_each(?))",
            (json.dumps(list(self._doubtful)),),
        )
        logs = {name: Position(log, last, token) for name, log, last, token in ends}
        found: News = {}
        for name in list(self._doubtful):
            at, end = self._positions[name], logs.get(name, Position("", 0))
            if not _stands_at(at, end):
                if len(found) == CHANNELS:
                    break
                after = at.number if at.log in ("", end.log) else 0
                piece = self._read_whole(db, name, after, WAITED, WAITED_BYTES)
                if isinstance(piece, Slice) and piece.has_other_past(at):
                    whole = self._read_whole(db, name, 0, WAITED, WAITED_BYTES)
                    if isinstance(whole, Slice):
                        whole = whole._replace(check=piece.check)
                    piece = whole
                found[name] = piece
                # Without a known position, the next `wait` looks at the channel again.
                del self._positions[name]
            del self._doubtful[name]
        return found

    def _changed(self, db: sqlite3.Connection) -> list[str]:
        """The channels that the caller waits for and that may have changed since the last call."""
        newest: tuple[int, str] = db.execute(
            "SELECT change, token FROM channels ORDER BY change DESC LIMIT 1"
        ).fetchone() or (0, "")
        connection, *seen = self._seen
        self._seen = db, *newest
        if connection is db and tuple(seen) == newest:
            return []
        known = (
            connection is db
            and db.execute("SELECT 1 FROM events WHERE change = ? AND token = ?", seen).fetchone()
        )
        # Another connection, a restored backup, or the entry was trimmed. Any channel may have
        # changed.
        if not known:
            return list(self._positions)
        changed = db.execute("SELECT name FROM channels WHERE change > ?", seen[:1])
        return [name for (name,) in changed if name in self._positions]


def _stands_at(at: Position, end: Position) -> bool:
    """Whether a log that ends at *end* has no entry after *at*, and the same past."""
    return at[:2] == end[:2] and (at.check == end.check or not (at.check and end.check))


class _Held:
    """The open connection of a broker. `close` runs when the broker is dropped."""

    def __init__(self) -> None:
        self.lock = new_lock()
        self.db: sqlite3.Connection | None = None

    def forget(self) -> None:
        db, self.db = self.db, None
        if db is not None:
            db.close()  # also rolls back a transaction that was begun

    def close(self) -> None:
        # At the end of the process, a thread may still use the connection for a short time.
        if self.lock.acquire(timeout=1.0):
            try:
                self.forget()
            finally:
                self.lock.release()


class _PollableWaker:
    """Lets one thread or greenlet sleep until the file is touched, or any thread wakes."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._told = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._told < 0:  # the usual limit is 128 for each user
            raise OSError(ctypes.get_errno(), "no inotify instance is free")
        self._fds.append(self._told)
        self._is_awake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._fds.append(self._is_awake)

    def __del__(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def watch(self, path: str) -> bool:
        """Watch the file that is at *path* now. False if there is no file."""
        return bool(_libc.inotify_add_watch(self._told, os.fsencode(path), TOUCHED) >= 0)

    def wake(self) -> None:
        os.eventfd_write(self._is_awake, 1)

    def wait(self, seconds: float) -> None:
        # In a patched process this is gevent's poll, which lets other greenlets run.
        poll = select.poll()
        for fd in self._fds:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000):
            try:
                os.read(fd, 4096)  # bytes that remain only wake the sleeper once more
            except BlockingIOError:
                pass


def _new_bell() -> _PollableWaker | None:
    try:
        return None if _libc is None else _PollableWaker()
    except OSError:
        return None


_brokers: weakref.WeakSet[SqliteBroker] = weakref.WeakSet()
AtFork(_brokers)
