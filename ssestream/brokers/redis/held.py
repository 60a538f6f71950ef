"""The connections that a broker keeps open between two calls."""

import contextlib
import os

from .errors import ERRORS
from .listener import Listener, Poller
from .pool import Pool


class Held:
    """The open connections of a broker between two calls.

    `close` runs when the broker is dropped, because Python warns of sockets that the garbage
    collector closes. If several threads have pools, this holds the pool that was made last.
    """

    def __init__(self) -> None:
        # None before the first `RedisBroker.wait`, and while `wait` uses the listener.
        self._listener: Listener | Poller | None = None
        self._pool: Pool | None = None

    def take_listener(self) -> Listener | Poller | None:
        listener, self._listener = self._listener, None
        return listener

    def put_listener(self, listener: Listener | Poller) -> None:
        self._listener = listener

    def put_pool(self, pool: Pool) -> None:
        self._pool = pool

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
