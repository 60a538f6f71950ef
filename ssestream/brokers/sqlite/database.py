"""One SQLite file: its connection, transactions that never wait for a lock, and its errors."""

import functools
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from ...printable import escape
from ...runtime.clock import clock
from ...runtime.threads import new_lock
from ...settings import chance
from ..broker import BrokerError, shortage
from .schema import prepare

#: Seconds in which a call tries again while other connections keep the file locked.
PATIENCE = 5.0

#: The most seconds between two tries. A transaction takes a tenth of a millisecond.
PAUSE = 0.005

#: File descriptors that a connection needs: the file, its log, their index, a directory.
DESCRIPTORS = 4

#: SQLite's errors if the file is locked.
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

#: Errors without memory. Python 3.10 says of an entry that cannot be copied that its type is wrong.
NO_MEMORY: tuple[type[Exception], ...] = (
    (MemoryError,) if sys.version_info >= (3, 11) else (MemoryError, sqlite3.InterfaceError)
)

#: Errors that pass when the disk has room again or works again.
PASSING = ("database or disk is full", IO_ERROR)

_T = TypeVar("_T")


class Database:
    """The file at *path*, and the connection to it while there is one."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.begin()

    def begin(self) -> None:
        """Forget the connection. Called in a child after a fork."""
        #: Guards the connection. Held for one transaction, and never during a wait.
        self.lock = new_lock()
        self.connection: sqlite3.Connection | None = None
        # The inodes of the files that the connection has open.
        self._inodes: tuple[int, ...] | None = None

    def do(self, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run *work* in one transaction, and return its result.

        *begin* is the SQL that begins the transaction. Tries again for `PATIENCE` seconds while
        the file is locked.
        """
        deadline = clock.real() + PATIENCE
        while True:
            try:
                with self.lock:
                    return self._transact(begin, work)
            except NO_MEMORY as error:
                raise BrokerError(self.say("no memory")) from error
            except sqlite3.Error as error:
                if str(error) not in BUSY or clock.real() > deadline:
                    raise self._explain(error) from error
            time.sleep(chance.uniform(0, PAUSE))

    def forget(self) -> None:
        """Close the connection. The caller holds the lock."""
        db, self.connection = self.connection, None
        if db is not None:
            db.close()  # also rolls back a transaction that was begun

    def close(self) -> None:
        """Close the connection when the broker is dropped, and at the end of the process."""
        # At the end of the process, a thread may still use the connection for a short time.
        if self.lock.acquire(timeout=1.0):
            try:
                self.forget()
            finally:
                self.lock.release()

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        db = self._connect()
        try:
            db.execute(begin)
            result = work(db)
            db.execute("COMMIT")
            return result
        # A signal handler may raise any exception here. An open transaction would lock the file
        # for all processes.
        except BaseException as error:
            if db.in_transaction or str(error) not in BUSY:
                self.forget()
            raise

    def _connect(self) -> sqlite3.Connection:
        """The connection to the file at the path now. The old file may have been moved away."""
        db = self.connection
        if db is not None and self._inodes is not None and self._inodes == self._find_inodes():
            return db
        self.forget()
        # SQLite must not wait for a lock: `do` waits, and lets other greenlets run.
        db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        # A damaged text must not fail a statement that also reads other channels.
        db.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
        try:
            prepare(db)
        except BaseException:
            db.close()
            raise
        # If this process may not write the file, SQLite opens it read-only. Open it again at the
        # next call, because the file may be writable then.
        self._inodes = self._find_inodes() if os.access(self.path, os.W_OK) else None
        self.connection = db
        return db

    def _find_inodes(self) -> tuple[int, ...] | None:
        # All three files, because an operator removes them one after the other.
        try:
            return tuple(os.stat(self.path + part).st_ino for part in ("", "-wal", "-shm"))
        except OSError:
            return None

    def _explain(self, error: Exception) -> BrokerError:
        words, folder = str(error), os.path.dirname(self.path)
        # Do not open the file itself to find the cause: closing any descriptor of the file
        # releases SQLite's locks in this process.
        if words in (UNOPENED, IO_ERROR) and (lack := shortage(DESCRIPTORS)):
            return BrokerError(self.say(words + lack))
        cure = CURES.get(words) if os.path.isdir(folder) else f"there is no directory {folder}"
        text = self.say(words + (f" ({cure})" if cure else ""))
        return BrokerError(text, lasting=words not in (*BUSY, *PASSING))

    def say(self, words: str) -> str:
        """A text for the log, in one line: the file and *words*."""
        return escape(f"the channels in {self.path}: {words}")
