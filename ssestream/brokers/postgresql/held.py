"""The open connections of a broker between two calls."""

from ..followed import FollowedLogs
from .listener import Listener
from .pool import Pool, close, silence
from .psycopg import Connection
from .target import Target


class Held:
    """The pool and the listener of a broker.

    `close` runs when the broker is dropped, because psycopg warns of connections that the garbage
    collector closes.
    """

    def __init__(self) -> None:
        self._pool: Pool | None = None
        # None before the first `PostgresqlBroker.wait`, and while `wait` uses the listener.
        self._listener: Listener | None = None
        # The connection of the listener that `wait` uses now, or used last.
        self._in_use: Connection | None = None

    def begin(self, pool: Pool) -> None:
        self._pool = pool

    def take_listener(self) -> Listener | None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._in_use = listener.db
        return listener

    def use(self, db: Connection, target: Target, followed: FollowedLogs) -> Listener:
        """Make the listener that `wait` uses from now on."""
        self._in_use = db
        try:
            return Listener(db, target, followed)
        except BaseException:
            close(db)
            raise

    def put_listener(self, listener: Listener) -> None:
        self._listener, self._in_use = listener, None

    def drop(self, listener: Listener | None) -> None:
        """Close *listener*, which nobody uses any more."""
        if listener is not None:
            close(listener.db)

    def forked(self) -> None:
        """Called in a child, in which the caller of `wait` is frozen with its connection."""
        if self._pool is not None:
            self._pool.silence()
        if self._in_use is not None:
            silence(self._in_use)
        if self._listener is not None:
            silence(self._listener.db)
            close(self._listener.db)
        self._pool = self._listener = self._in_use = None

    def close(self) -> None:
        if self._pool is not None and self._pool.is_mine:
            self._pool.close()
            self.drop(self._listener)
