"""`PostgresqlBroker`: the contract of a broker, kept with one PostgreSQL database."""

import contextlib
import functools
import secrets
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ...runtime.clock import clock
from ...runtime.forking import AtFork
from ...runtime.threads import new_lock
from ..broker import (
    CHECK_LENGTH,
    PLAIN,
    Bounds,
    BrokerError,
    Busy,
    News,
    Position,
    Slice,
    Terms,
)
from ..followed import FollowedLogs
from ..waker import PollableWaker
from . import logs
from .deletion import Broom, sweep_all, trim_all
from .errors import UNDONE, explained, may_pass, state_of
from .group_commit import ALONE, GroupCommit
from .held import Held
from .listener import LOOK, Listener
from .migration import ANSWER, open_connection
from .pool import Pool
from .psycopg import Connection
from .target import Target, parse
from .transaction import fetch_within

_T = TypeVar("_T")

#: Seconds in which a call waits for a free connection and begins new tries. Each try takes at most
#: `psycopg.CONNECTING` to connect and `ANSWER` for the answer, so a call raises within 7 s. Each
#: further address that does not answer adds `psycopg.CONNECTING`.
TRYING = 3.0

#: Seconds in which each read is tried only once, after a read has failed for `TRYING` seconds.
#: Otherwise each caller would wait for the same server in turn.
AWAY = 1.0

#: Seconds between two tries.
PAUSE = 0.05

#: Words of the server about a write, for `PostgresqlBroker.ping`. It changes no row.
_PING = "UPDATE ssestream.channels SET last = last WHERE false"


class PostgresqlBroker:
    """Logs in the PostgreSQL database of *url* (see `broker.Broker`). Tested with PostgreSQL 15.

    *url* is ``postgresql://user:password@host:5432/database``, as libpq takes it, with libpq's
    options in the query. ``postgres://`` and ``postgresql+psycopg://`` are the same. ``python -m
    ssestream migrate`` makes the tables.

    Each process uses at most 5 connections at once for its calls, or the number in
    ``?max_connections=``, and one more connection to listen.

    PgBouncer in transaction mode loses the commands with which a process listens. Then
    ``?notify_url=`` is the percent-encoded URL of the server itself, for the connection that
    listens.

    The URL may name several hosts, as in ``postgresql://host1:5432,host2:5432/database``, with
    ``?target_session_attrs=read-write`` for the one that takes writes.

    `append`, `read` and the other calls raise `BrokerError` within 7 s, and `wait` within 5 s. Each
    further host of the URL that does not answer adds 2 s.
    """

    shared = True

    def __init__(
        self, url: str, history: int | None = None, history_age: float | None = None
    ) -> None:
        self._target = parse(url)
        self._asked, self._warned = Bounds(history, history_age), False
        self._held = Held()
        weakref.finalize(self, self._held.close)
        self._followed = FollowedLogs()
        self._broom = Broom()
        self._begin()
        # The time until which each read is tried only once, and when to sweep.
        self._tried_once_until = 0.0
        self._sweep_at = 0.0
        _brokers.add(self)

    def _begin(self) -> None:
        #: Guards the waker and the held connections. Held for a few instructions only.
        self.lock = new_lock()
        target = self._target
        self._pool = Pool(lambda: open_connection(target), target.connections, self.lock)
        self._held.begin(self._pool)
        # A locked channel may hold up a line and each append that is alone. The others go on.
        alone = max(1, min(ALONE, target.connections - 2))
        self.group = GroupCommit(functools.partial(_send, target, self._pool), alone, self.lock)
        self._waker: PollableWaker | None = None
        self._woken = False
        # How often `close` was called.
        self._closed = 0

    # -- the contract

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        wanted = self._append(channel, frame, terms)
        position, bounds = self._store(wanted)
        if not self._warned:
            self._warned = bounds.warn_of(wanted.asked, channel)
        self._sweep_sometimes()
        return position

    def append_within(
        self, connection: Any, channel: str, frame: bytes, terms: Terms = PLAIN
    ) -> Position:
        """As `append`, but as a part of the transaction of the app's own *connection*.

        The entry is there when the app commits, and never if it rolls back. Raises ``TypeError``
        for another connection than SQLAlchemy's or psycopg's.
        """
        wanted = self._append(channel, frame, terms)
        with explained(self._target, channel):
            row = fetch_within(connection, logs.APPEND, wanted.parameters())
        return wanted.taken(row)[0]

    def _store(self, wanted: logs.Append) -> tuple[Position, Bounds]:
        group, deadline, again = self.group, clock.real() + TRYING, False
        failure: BrokerError | None = None
        if wanted.terms is PLAIN:
            if group.begin_alone():
                try:
                    return self._store_alone(wanted, deadline, again)
                finally:
                    group.end_alone()
            call = group.store(wanted, deadline)
            if call.result is not None:
                return call.result
            again, failure = call.is_in_doubt, call.error
        return self._store_alone(wanted, deadline, again, failure)

    def _store_alone(
        self,
        wanted: logs.Append,
        deadline: float,
        again: bool,
        failure: BrokerError | None = None,
    ) -> tuple[Position, Bounds]:
        def call(db: Connection, again: bool) -> tuple[Position, Bounds]:
            return logs.append(db, wanted, again)

        return self._try(call, wanted.channel, deadline, again, failure)

    def _append(self, channel: str, frame: bytes, terms: Terms) -> logs.Append:
        asked = terms.bounds or self._asked
        log, token = secrets.token_hex(4), secrets.token_hex(CHECK_LENGTH)
        return logs.Append(channel, frame, terms, asked, log, token)

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        return self._try(lambda db, again: logs.renew(db, channel, of, lease), channel)

    def delete(self, channel: str) -> None:
        # Another try must not delete what was published after a try whose answer was lost.
        log = self.read(channel, 0, 0, 0).log
        self._try(lambda db, again: logs.delete(db, channel, log), channel)
        self._in_pieces(sweep_all, channel)

    def keep(self, channel: str, bounds: Bounds, ttl: float | None = None) -> Bounds:
        kept = self._try(lambda db, again: logs.keep(db, channel, bounds, ttl), channel)
        self._in_pieces(lambda db: trim_all(db, channel), channel)
        return kept

    def _in_pieces(self, work: Callable[[Connection], Iterator[None]], channel: str) -> None:
        """Do *work*, which is several transactions. Other callers may have a turn between."""

        def do(db: Connection, again: bool) -> None:
            for _ in work(db):
                db.allow(ANSWER)
                time.sleep(0)

        self._try(do, channel)

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        now = clock.real()
        patience = 0 if now < self._tried_once_until else TRYING
        try:
            piece = self._try(
                lambda db, again: logs.read(db, channel, after, limit, max_bytes),
                channel,
                now + patience,
            )
        except BrokerError as error:
            if patience and may_pass(error.__cause__):
                self._tried_once_until = clock.real() + AWAY
            raise
        self._tried_once_until = 0.0
        return piece

    def ping(self) -> None:
        with self._turn() as db:
            db.execute(_PING)

    def follow(self, channel: str, position: Position) -> None:
        # A new object: the listener must not take this for the position that it knows.
        self._followed.follow(channel, Position(*position))
        self._hurry()

    def unfollow(self, channel: str) -> None:
        self._followed.unfollow(channel)

    def wait(self) -> News:
        listener: Listener | None = None
        try:
            with explained(self._target):
                with self.lock:
                    waker = self._waker = self._waker or PollableWaker()
                    closed = self._closed
                    listener = self._held.take_listener()
                if listener is None:
                    db = open_connection(self._target, listens=True)
                    listener = self._held.use(db, self._target, self._followed)
                found = listener.wait(waker, self._take_wake)
        except BaseException:
            self._held.drop(listener)
            if listener is not None:
                # The other connections may be to a server that another one has replaced.
                self._pool.renew()
            raise
        with self.lock:
            if closed == self._closed:
                self._held.put_listener(listener)
                return found
        self._held.drop(listener)
        return found

    def wake(self) -> None:
        with self.lock:
            self._woken = True
        self._hurry()

    def close(self) -> None:
        with self.lock:
            listener = self._held.take_listener()
            self._closed += 1
            waker = self._waker
            self._waker = None
            self._woken = True
        if waker is not None:
            waker.wake()
        self._held.drop(listener)
        self._pool.close()

    def _hurry(self) -> None:
        """Let a `wait` that has begun look again."""
        waker = self._waker
        # Nobody waits if there is no waker.
        if waker is not None:
            waker.wake()

    def _take_wake(self) -> bool:
        """Whether `wake` was called since the last time."""
        with self.lock:
            woken, self._woken = self._woken, False
            return woken

    # -- calls of the server

    def _try(
        self,
        call: Callable[[Connection, bool], _T],
        channel: str,
        deadline: float | None = None,
        again: bool = False,
        failure: BrokerError | None = None,
    ) -> _T:
        """Do *call* with a connection, and return its result.

        Waits until *deadline* for a free connection, by default for `TRYING` seconds. Until then,
        also does *call* again after an error that may pass. *call* is told whether an earlier try
        may have taken effect, as with *again*. *failure* is why an earlier try has failed.
        """
        deadline = clock.real() + TRYING if deadline is None else deadline
        while True:
            try:
                with explained(self._target, channel), self._pool.turn(deadline, ANSWER) as db:
                    return call(db, again)
            except Busy:
                if failure is None:
                    raise
                # The connections are in use because the others wait for the same server.
                raise BrokerError(str(failure), lasting=failure.lasting) from failure.__cause__
            except BrokerError as error:
                failure = error
                if not may_pass(error.__cause__) or clock.real() > deadline:
                    raise
                again = again or state_of(error.__cause__) not in UNDONE
            time.sleep(PAUSE)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[Connection]:
        """A connection for what is tried once."""
        with explained(self._target), self._pool.turn(clock.real(), ANSWER) as db:
            yield db

    def _sweep_sometimes(self) -> None:
        """Free what nobody reads any more, also where no process listens."""
        now = clock.real()
        if now < self._sweep_at:
            return
        self._sweep_at = now + LOOK
        with contextlib.suppress(BrokerError), self._turn() as db:
            self._broom.sweep(db)

    # -- forks (see `forking.AtFork`)

    def before_fork(self) -> None:
        pass

    def after_fork(self) -> None:
        # The connections belong to the parent. The child drops its copies, so that they close.
        self._held.forked()
        self._followed = FollowedLogs()
        self._begin()


def _send(
    target: Target, pool: Pool, wanted: Sequence[logs.Append], deadline: float, waits: bool
) -> list[logs.Outcome]:
    """Store a batch (see `group_commit.Send`)."""
    with explained(target), pool.turn(deadline, ANSWER) as db:
        return logs.append_all(db, wanted, waits)


_brokers: weakref.WeakSet[PostgresqlBroker] = weakref.WeakSet()
AtFork(_brokers)
