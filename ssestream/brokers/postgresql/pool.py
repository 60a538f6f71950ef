"""The connections of one process for calls that the server answers at once."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from ...runtime.clock import clock
from ...runtime.forking import process
from ...runtime.waits import new_wake
from .psycopg import ERRORS_OF_CLOSING, Connection, ReadOnly

#: The least seconds between two times at which all connections are made anew.
RENEWING = 1.0

#: The least seconds that a caller waits for a free connection.
LEAST = 0.05


class NoTurn(Exception):
    """All connections of the pool stay in use."""


class Pool:
    """At most *most* connections, each made by *connect* when it is needed.

    No connection belongs to a thread: psycopg uses only the descriptor, and waits for it in the
    loop of the caller. *lock* guards all fields. Held for a few instructions only.
    """

    def __init__(self, connect: Callable[[], Connection], most: int, lock: Any) -> None:
        self._connect = connect
        self._most = most
        self._lock = lock
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._in_use: set[Connection] = set()
        # The connections that are in use or that are being made.
        self._turns = 0
        # The wakes of the callers that wait for a turn, in the order in which they came.
        self._waiting: dict[Any, None] = {}
        # How often `close` was called.
        self._closed = 0
        # The time from which all connections may be made anew again.
        self._renew_at = 0.0

    @property
    def is_mine(self) -> bool:
        """Whether the connections belong to this process, and not to its parent."""
        return self._process == os.getpid()

    @contextlib.contextmanager
    def turn(self, deadline: float, seconds: float) -> Iterator[Connection]:
        """Hold one of the connections, whose server may be silent for *seconds*.

        Raises `NoTurn` if none is free until *deadline*.
        """
        self._begin_turn(deadline)
        db, closed = None, self._closed
        try:
            db = self._take() or self._connect()
            with self._lock:
                self._in_use.add(db)
            db.allow(seconds)
            yield db
        except ReadOnly:
            self.renew()
            raise
        finally:
            with self._lock:
                if db is not None:
                    self._in_use.discard(db)
                keeps = db is not None and db.is_idle and self.is_mine and closed == self._closed
                if db is not None and keeps:
                    self._idle.append(db)
            try:
                if db is not None and not keeps:
                    close(db)
            finally:
                self._end_turn()

    def _begin_turn(self, deadline: float) -> None:
        """Wait for a turn. The callers get their turns in the order in which they came."""
        with self._lock:
            if self._turns < self._most:
                self._turns += 1
                return
            # psycopg waits with this module, so it is patched or not.
            wake = new_wake("select")
            self._waiting[wake] = None
        try:
            if wake.sleep(max(deadline - clock.real(), LEAST)):
                return
        except BaseException:
            if not self._leave(wake):
                self._end_turn()
            raise
        if self._leave(wake):
            raise NoTurn(
                f"all {self._most} connections of this process stay in use"
                " (?max_connections=... in the URL allows more)"
            )

    def _leave(self, wake: Any) -> bool:
        """Let a caller wait no longer. Returns False if it has got a turn meanwhile."""
        with self._lock:
            return self._waiting.pop(wake, wake) is None

    def _end_turn(self) -> None:
        """Give the turn to the first caller that waits."""
        with self._lock:
            wake = next(iter(self._waiting), None)
            if wake is None:
                self._turns -= 1
                return
            del self._waiting[wake]
        wake.wake()

    def _take(self) -> Connection | None:
        while True:
            with self._lock:
                db = self._idle.pop() if self._idle else None
            if db is None or db.is_fresh:
                return db
            close(db)

    def renew(self) -> None:
        """Let no connection be used again: another server may have taken over."""
        now = clock.real()
        if now >= self._renew_at:
            self._renew_at = now + RENEWING
            self.close()

    def silence(self) -> None:
        """Called in a child: let its copies of the connections be none."""
        for db in self._idle:
            silence(db)
            close(db)
        for db in self._in_use:
            silence(db)

    def close(self) -> None:
        """Close the free connections now, and each other one when its user returns it."""
        if self.is_mine:
            with self._lock:
                idle, self._idle = self._idle, []
                self._closed += 1
            for db in idle:
                close(db)


def close(db: Connection) -> None:
    with contextlib.suppress(*ERRORS_OF_CLOSING):
        db.close()


def silence(db: Connection) -> None:
    """Called in a child: let nothing that is done with its copy of *db* reach the server."""
    with contextlib.suppress(*ERRORS_OF_CLOSING):
        process.silence(db)
