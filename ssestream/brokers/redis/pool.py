"""The connections of one process for commands that Redis answers at once."""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import redis

from ...runtime.clock import clock
from ...runtime.forking import process
from ...runtime.loop import logger
from ...runtime.waits import new_turns
from .client import Client, socket_of
from .errors import NEEDED
from .keys import followers_of
from .scripts import APPEND, DELETE, KEEP, READ, RENEW, ClusterScript, Script
from .servers import database_of

#: The least seconds that a caller waits for a free connection.
PAUSE = 0.05


#: Seconds for which nothing is announced after Redis has refused an announcement.
SILENT = 10.0


class NoTurn(Exception):
    """All connections of the pool stay in use."""


class Pool:
    """The connections for commands that Redis answers at once, and the scripts.

    At most *connections* callers hold a `turn` at the same time. The listener needs no turn:
    otherwise a busy process would look like a Redis server that is down.
    """

    def __init__(self, client: Client, connections: int) -> None:
        self.process = os.getpid()
        self.client: Any = client
        self._connections = connections
        # redis-py waits with sockets.
        self._free = new_turns("socket", connections)
        self.cluster = isinstance(client, redis.RedisCluster)
        self.append, self.read, self.keep, self.renew, self.delete = (
            ClusterScript(client, text) if self.cluster else Script(client, text)
            for text in (APPEND, READ, KEEP, RENEW, DELETE)
        )
        self._db = 0 if self.cluster else database_of(client)
        # The time until which entries are not announced, because Redis has refused it.
        self._silent_until = -math.inf
        self._has_warned = False

    def announces(self, channel: str) -> list[Any]:
        """For the scripts: how and where to announce an entry of *channel*."""
        if clock.real() < self._silent_until:
            return ["", ""]
        return ["SPUBLISH" if self.cluster else "PUBLISH", followers_of(channel, self._db)]

    def refused(self, words: str) -> None:
        """Note that Redis has stored an entry and has refused to announce it."""
        # Do not try again soon: Redis writes each refusal to its ACL log.
        self._silent_until = clock.real() + SILENT
        if self.cluster and "nknown" in words:
            return  # before Redis 7, which followers poll
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "channels: events are stored, and clients get them some seconds late: %s. %s",
                words,
                NEEDED,
            )

    @contextlib.contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Hold one of the connections. Raises `NoTurn` if none is free until *deadline*."""
        if not self._free.acquire(timeout=max(deadline - clock.real(), PAUSE)):
            raise NoTurn(
                f"all {self._connections} connections of this process stay in use"
                " (?max_connections=... in the URL allows more)"
            )
        try:
            yield
        finally:
            self._free.release()

    def forked(self) -> None:
        """Called in a child: drop the copies of the free connections, and silence the others."""
        for pool in self._pools():
            # A frame of a thread or greenlet that does not run here keeps its connection for ever.
            for connection in list(pool._in_use_connections):
                sock = socket_of(connection)
                if sock is not None:
                    process.silence(sock)
            pool.reset()

    def _pools(self) -> list[Any]:
        """The pools of redis-py: of each node of a cluster, or of the server and its sentinels."""
        if self.cluster:
            clients = [node.redis_connection for node in self.client.get_nodes()]
        else:
            manager = getattr(self.client.connection_pool, "sentinel_manager", None)
            clients = [self.client, *([] if manager is None else manager.sentinels)]
        return [client.connection_pool for client in clients if client is not None]

    def close(self) -> None:
        if self.cluster:
            self.client.close()
        else:
            # A connection in use is closed later, when its user returns it.
            self.client.connection_pool.disconnect(inuse_connections=False)
