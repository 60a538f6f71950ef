"""Which server announces which channel: one server, or the nodes of a cluster."""

import contextlib
from typing import Any

from .client import Client
from .errors import ERRORS
from .keys import key_of


class OneServer:
    """One server, or the master that sentinels name."""

    #: Whether each channel is announced by one node of several.
    sharded = False

    def __init__(self, client: Any) -> None:
        self._client = client
        self._connection: Any = None
        #: The database that the announcements name.
        self.db = database_of(client)

    def of(self, channel: str) -> str:
        """The name of the server that announces *channel*."""
        return ""

    def connect(self, server: str) -> Any:
        """A connection to the server with the name *server*, for a subscriber.

        An earlier connection to this server is closed.
        """
        pool, earlier = self._client.connection_pool, self._connection
        if earlier is not None:
            self._connection = None
            _give_back(pool, earlier)
        self._connection = pool.get_connection()
        return self._connection

    def renew(self) -> None:
        """Ask anew which server announces which channel."""

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class Nodes:
    """As `OneServer`, for the nodes of a cluster, through the client that all calls share."""

    sharded = True
    db = 0

    def __init__(self, client: Any) -> None:
        self._client = client
        # By the name of the server.
        self._connections: dict[str, Any] = {}

    def of(self, channel: str) -> str:
        return str(self._client.get_node_from_key(key_of(channel)).name)

    def connect(self, server: str) -> Any:
        earlier = self._connections.pop(server, None)
        if earlier is not None:
            earlier.disconnect()
        try:
            node = self._client.get_node(node_name=server)
            pool = self._client.get_redis_connection(node).connection_pool
            # Not a connection of the pool: whenever redis-py asks a node for the slots, earlier
            # versions close all connections of its pool.
            connection = pool.connection_class(**pool.connection_kwargs)
            connection.connect()
        except ERRORS:
            # Another node may have taken the place of this one.
            with contextlib.suppress(*ERRORS):
                self.renew()
            raise
        self._connections[server] = connection
        return connection

    def renew(self) -> None:
        self._client.nodes_manager.initialize()

    def close(self) -> None:
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.disconnect()


#: The servers to subscribe at.
Servers = OneServer | Nodes


def _give_back(pool: Any, connection: Any) -> None:
    """Close *connection*, and let *pool* give it again. A pool holds what it has given."""
    connection.disconnect()
    pool.release(connection)


def database_of(client: Client) -> int:
    """The number of the database that *client* uses."""
    return int(client.get_connection_kwargs().get("db") or 0)
