"""Logs in one SQLite file, for every process of a host, with no server to run.

An entry is stored when its transaction is in the file's write-ahead log: the end
of any process, even by ``kill -9``, loses nothing that `append` returned for. A
loss of power may take the last of it, and leaves the file whole. (To wait for
the disk each time would hold up everything else that the process does.)

Who appends touches the file afterwards, which changes nothing but its times, and
those who wait are told of it by the kernel (inotify). Nobody polls. Where there
is no inotify they look several times in 50 ms, and everywhere they look once in a
while, lest the one who appended was killed before it touched the file.

What `wait` asks is what changed since it last asked: each append takes the next
number of a counter that all channels share. A backup that is put back into the file
sets that counter back, so `wait` looks first whether the entry of its number is still
the same one.

Each append removes a few entries that its log keeps no longer, and a few that are too
old for their logs, also where nobody appends any more.

SQLite's calls do not give way to other greenlets. So there are only short
transactions, and none that waits for a lock: that is tried again, with pauses
in which others run.

The file must be on a disk of this host, as write-ahead logs share memory.
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

from ..clock import clock
from ..hub import new_lock
from ..printable import escape
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

#: Seconds for which a call tries to get at a file that others are busy with.
PATIENCE = 5.0

#: Seconds between two tries, at most. A transaction takes a tenth of a millisecond.
PAUSE = 0.005

#: Seconds between two looks at a file of which nobody told anything.
LOOK = 1.0

#: The same where the kernel does not tell.
LOOK_OFTEN = 0.02

#: Entries that an append removes at most, for each of the two reasons to.
TRIMMED = 16

#: Channels that one `wait` reads at most, so that others have their turn.
CHANNELS = 256

#: Marks a file as one of ours, and of this form: "SSE" and 2.
FORM = 0x53534502

TABLES = (
    # Of the last entry, kept or not: its *change*, its check (*token*), and its time (*at*).
    # *messages* is how many of all entries were messages. A *history* of NULL is nothing said,
    # as of files of the first form; an *age* of NULL is any.
    """CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    log TEXT NOT NULL, last INTEGER NOT NULL, change INTEGER NOT NULL,
    token TEXT NOT NULL DEFAULT '', messages INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL DEFAULT 0,
    history INTEGER, age REAL)""",
    "CREATE INDEX changes ON channels (change)",
    # *message* counts the messages of a log; a control frame has the count of the next
    # message, so that it is kept as long as that. *expires* is the time at which the entry is
    # too old for its log; like *at* it never falls within a log, whatever the clock does.
    """CREATE TABLE events (change INTEGER PRIMARY KEY, channel INTEGER NOT NULL,
    number INTEGER NOT NULL, at REAL NOT NULL, frame BLOB NOT NULL,
    token TEXT NOT NULL DEFAULT '', message INTEGER NOT NULL DEFAULT 0, expires REAL)""",
    "CREATE UNIQUE INDEX numbers ON events (channel, number)",
    "CREATE INDEX expiry ON events (expires) WHERE expires IS NOT NULL",
    f"PRAGMA application_id = {FORM}",
)

#: The form before this one, and what makes this one of it.
FORM_1 = 0x53534501

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

#: Of inotify: the times of a file changed, or it was removed (IN_ATTRIB).
TOUCHED = 0x4

#: Descriptors that a connection needs: the file, its log, their index, a directory.
DESCRIPTORS = 4

#: What SQLite says where it would wait.
BUSY = ("database is locked", "locking protocol")

#: What else it says, and what helps.
ALLOW = "this process must be allowed to write it, what SQLite keeps beside it, and their directory"
IO_ERROR = "disk I/O error"
MALFORMED = "database disk image is malformed"
UNOPENED = "unable to open database file"
CURES = {
    "database or disk is full": "make room on its disk",
    "attempt to write a readonly database": ALLOW,
    UNOPENED: ALLOW,
    "database is locked": f"others have kept it so for {PATIENCE:g} s",
    "file is not a database": "move it away",
    MALFORMED: "move it away, and what SQLite keeps beside it",
}

#: What passes when a disk has room again, or works again.
PASSING = ("database or disk is full", IO_ERROR)

_T = TypeVar("_T")

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class SqliteBroker:
    """See `broker.Broker`. Each method but `wait` takes `PATIENCE` seconds at most."""

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
        # When the broker is dropped, or at the end of the process: Python 3.13 warns of a
        # connection that only its collector closes.
        weakref.finalize(self, _Held.close, self._held)

    def _begin(self) -> None:
        # Held for one transaction, and never while anybody waits.
        self._lock = self._held.lock = new_lock()
        self._held.db = None
        self._file: tuple[int, ...] | None = None
        self._bell: _Bell | None = None
        self._woken = False
        # What the last wait knew: the newest change and its check, and by which connection;
        # its caller's positions; and the channels in which there may be more.
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
        except OSError:  # it is stored, and they will see it when they look
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
        # Who may not write is told so here, and nothing is written.
        self._do("BEGIN IMMEDIATE", lambda db: db.execute("SELECT 1 FROM channels LIMIT 1"))

    def wait(self, positions: Mapping[str, Position]) -> News:
        known, self._positions = self._positions, dict(positions)
        moved = [name for name, at in positions.items() if known.get(name) != at]
        kept = (name for name in self._doubtful if name in positions)
        self._doubtful = dict.fromkeys([*kept, *moved])
        while True:
            bell = self._bell
            if bell is None:
                bell = self._bell = _new_bell()
            # Before it is asked, so that nothing comes unnoticed in between.
            watching = bell is not None and bell.watch(self._path)
            found = self._do("BEGIN", self._news)
            if self._take_wake() or found:
                return found
            if bell is not None and watching:
                bell.sleep(LOOK)
            else:
                time.sleep(LOOK_OFTEN)
            if self._take_wake():  # maybe by `close`: nothing is to be opened again for this
                return {}

    def wake(self) -> None:
        self._woken = True
        bell = self._bell
        if bell is not None:
            bell.ring()

    def close(self) -> None:
        with self._lock:
            self._forget()
        self.wake()
        self._bell = None  # whoever waits by it keeps it until then

    def _take_wake(self) -> bool:
        woken, self._woken = self._woken, False
        return woken

    # -- transactions

    @property
    def _db(self) -> sqlite3.Connection | None:
        return self._held.db

    def _do(self, begin: str, what: Callable[[sqlite3.Connection], _T]) -> _T:
        """The result of *what*, which is done as a whole or not at all."""
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
        # Also what a handler of signals raises: nobody else could append any more.
        except BaseException as error:
            if db.in_transaction or str(error) not in BUSY:
                self._forget()
            raise

    def _connection(self) -> sqlite3.Connection:
        """To the file that has the name now; it may have been moved away."""
        db = self._db
        if db is not None and self._file is not None and self._file == self._find():
            return db
        self._forget()
        # No time to wait: see `_do`.
        db = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        # SQLite opens to read what it may not write; next time it may.
        self._file = self._find() if os.access(self._path, os.W_OK) else None
        self._held.db = db
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        current = self._is_current(db)
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise sqlite3.OperationalError("its disk does not allow a write-ahead log")
        db.execute("PRAGMA synchronous = NORMAL")
        # What a burst made of it is given back to the disk.
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
            raise sqlite3.OperationalError("it is a database of something else")
        return form == FORM

    def _form(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Of the file: its mark, and how many tables it has."""
        # In one statement, as somebody may just be making it.
        form, tables = db.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
        ).fetchone()
        return form, tables

    def _find(self) -> tuple[int, ...] | None:
        # All of it: who removes it takes one after the other.
        try:
            return tuple(os.stat(self._path + part).st_ino for part in ("", "-wal", "-shm"))
        except OSError:
            return None

    def _forget(self) -> None:
        self._held.forget()

    def _explain(self, error: Exception) -> BrokerError:
        words, folder = str(error), os.path.dirname(self._path)
        # Not by opening the file: who closes a descriptor of it drops SQLite's locks.
        if words in (UNOPENED, IO_ERROR) and (lack := shortage(DESCRIPTORS)):
            return BrokerError(self._say(words + lack))
        cure = CURES.get(words) if os.path.isdir(folder) else f"there is no directory {folder}"
        text = self._say(words + (f" ({cure})" if cure else ""))
        return BrokerError(text, lasting=words not in (*BUSY, *PASSING))

    def _say(self, words: str) -> str:
        return escape(f"the channels in {self._path}: {words}")

    # -- what is done in them

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
        """Remove a few entries: of this log, and of all that are too old."""
        assert bounds.history is not None
        db.execute(
            "DELETE FROM events WHERE channel = ? AND (message <= ? OR number <= ?) AND number <"
            " (SELECT min(number) FROM events WHERE channel = ?) + ?",
            (key, messages - bounds.history, last - bounds.history - CONTROLS, key, TRIMMED),
        )
        # All up to the newest of them in each log, as a log has no hole.
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
        """What `_read` gives, or why nobody can read this channel, where others' can be read."""
        try:
            piece = self._read(db, channel, after, limit, max_bytes)
            numbers = [piece.first, piece.last, *(entry.number for entry in piece.entries)]
            if not isinstance(piece.log, str) or not all(type(each) is int for each in numbers):
                raise TypeError("a log has no name, or a number is none")
            for number, frame, *_ in piece.entries:
                if not isinstance(frame, bytes):
                    raise TypeError(f"entry {number} is {type(frame).__name__}")
            return piece
        except (TypeError, ValueError) as error:
            return ChannelError(channel, self._say(f"{channel!r} is damaged: {error}"))
        except sqlite3.DatabaseError as error:
            # A page of this channel's. Where it is another the next statement says so.
            if str(error) != MALFORMED:
                raise
            return ChannelError(channel, self._say(f"{channel!r}: {error}"))

    def _first(
        self, db: sqlite3.Connection, key: int, last: int, messages: int, bounds: Bounds
    ) -> int:
        """The oldest entry that is kept, be there others that are not yet removed."""
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
        """What there is beyond the positions; of too many channels, of some."""
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
                del self._positions[name]  # ask again, wherever it is next time
            del self._doubtful[name]
        return found

    def _changed(self, db: sqlite3.Connection) -> list[str]:
        """The channels, of those that are waited for, which may have changed since last time."""
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
        if not known:  # another file, or a backup that was put back, or just trimmed
            return list(self._positions)
        changed = db.execute("SELECT name FROM channels WHERE change > ?", seen[:1])
        return [name for (name,) in changed if name in self._positions]


def _stands_at(at: Position, end: Position) -> bool:
    """Whether there is nothing behind *at* in a log that ends at *end*."""
    return at[:2] == end[:2] and (at.check == end.check or not (at.check and end.check))


class _Held:
    """The open connection of a broker, and what closes it once the broker is gone."""

    def __init__(self) -> None:
        self.lock = new_lock()
        self.db: sqlite3.Connection | None = None

    def forget(self) -> None:
        db, self.db = self.db, None
        if db is not None:
            db.close()  # which takes back what was begun

    def close(self) -> None:
        # At the end of the process a thread may be using it, though not for long.
        if self.lock.acquire(timeout=1.0):
            try:
                self.forget()
            finally:
                self.lock.release()


class _Bell:
    """Lets one thread or greenlet sleep until the file is touched, or for a ring from any."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._told = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._told < 0:  # a user can have 128 of them
            raise OSError(ctypes.get_errno(), "no inotify to be had")
        self._fds.append(self._told)
        self._rung = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._fds.append(self._rung)

    def __del__(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def watch(self, path: str) -> bool:
        """Also if it is another file by now. False where there is none."""
        return bool(_libc.inotify_add_watch(self._told, os.fsencode(path), TOUCHED) >= 0)

    def ring(self) -> None:
        os.eventfd_write(self._rung, 1)

    def sleep(self, seconds: float) -> None:
        # In a patched process this is gevent's poll, and others run meanwhile.
        poll = select.poll()
        for fd in self._fds:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000):
            try:
                os.read(fd, 4096)  # what remains of it wakes once more
            except BlockingIOError:
                pass


def _new_bell() -> _Bell | None:
    try:
        return None if _libc is None else _Bell()
    except OSError:
        return None


_brokers: weakref.WeakSet[SqliteBroker] = weakref.WeakSet()
_forking: list[SqliteBroker] = []

# Held by the thread that forks. Of several threads that fork at once each waits for its turn,
# as a lock can be given back by the thread that took it only.
_fork_turn = new_lock()


# SQLite's locks are of one process, and a child would take its parent's for its
# own. So nothing of it is open while a process forks.
def _before_fork() -> None:
    _fork_turn.acquire()
    _forking.extend(_brokers)
    for broker in _forking:
        broker._lock.acquire()
        broker._forget()


def _after_fork() -> None:
    while _forking:
        _forking.pop()._lock.release()
    _fork_turn.release()


def _after_fork_in_child() -> None:
    global _fork_turn
    _fork_turn = new_lock()
    while _forking:
        _forking.pop()._begin()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
)
