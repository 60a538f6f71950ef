"""The connections that a broker keeps open between two calls."""

import contextlib
import os

from .errors import ERRORS
from .listener import Listener
from .pool import Pool


class Held:
    """The open connections of a broker between two calls.

    `close` runs when the broker is dropped, because Python warns of sockets that the garbage
    collector closes. If several threads have pools, this holds the pool that was made last.
    """

    def __init__(self) -> None:
        # None before the first `RedisBroker.wait`, and while `wait` uses the listener.
        self._listener: Listener | None = None
        self._pool: Pool | None = None
        # The listener that `wait` uses now, or used last.
        self._in_use: Listener | None = None

    def take_listener(self) -> Listener | None:
        listener, self._listener = self._listener, None
        self.use_listener(listener)
        return listener

    def use_listener(self, listener: Listener | None) -> None:
        """Note that `RedisBroker.wait` uses *listener* from now on."""
        self._in_use = listener

    def put_listener(self, listener: Listener) -> None:
        self._listener, self._in_use = listener, None

    def put_pool(self, pool: Pool) -> None:
        self._pool = pool

    def forked(self) -> None:
        """Called in a child, in which each caller is frozen with its connection."""
        listener, self._in_use = self._in_use, None
        pools = set() if self._pool is None else {self._pool}
        if listener is not None:
            listener.silence()
            pools.add(listener.pool)
        for pool in pools:
            pool.forked()

    def forget(self) -> None:
        """Forget the connections without closing them."""
        self._listener = self._pool = None

    def close(self) -> None:
        pool = self._pool
        # In a child after a fork, the connections belong to the parent.
        if pool is not None and pool.process == os.getpid():
            with contextlib.suppress(*ERRORS):
                pool.close()
                if self._listener is not None:
                    self._listener.close()
