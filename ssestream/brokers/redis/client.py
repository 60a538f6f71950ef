"""Make clients of redis-py for one server, for a master behind sentinels, and for a cluster."""

import inspect
from collections.abc import Callable
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import parse_url
from redis.retry import Retry

from .sentinels import NewestSentinels
from .target import Target

Client = redis.Redis | redis.RedisCluster

#: Seconds in which Redis must accept a connection, and seconds in which it must answer.
ANSWER = 1.0

#: Default options of redis-py; a URL can override some of them. redis-py must not retry: it
#: would run a command twice if only the answer was lost. Its pools have no bound, because a
#: full pool of redis-py raises an error, while `Pool` lets the caller wait.
OPTIONS: dict[str, Any] = {
    "socket_timeout": ANSWER,
    "socket_connect_timeout": ANSWER,
    "max_connections": 2**31,
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
}

#: Options of redis-py that belong to a pool or a client, and not to a connection.
_OF_POOLS = ("max_connections", "single_connection_client", "auto_close_connection_pool")


class NodePool(redis.ConnectionPool):
    """The connections to one node of a cluster.

    redis-py 6 closes all connections to a node when it asks the node for the slots. Another thread
    may be waiting for an answer on one of them, and would get an error that redis-py has not.
    """

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the free connections. The others are closed when a command on them fails."""
        super().disconnect(inuse_connections=False)


class Cluster(redis.RedisCluster):
    """A client of a cluster that several threads use.

    After an error in one thread, redis-py asks for the nodes anew, and redis-py 6 drops the
    connections of the failed node. Another thread then finds no node or no connections, and
    redis-py would raise an ``AttributeError`` there.
    """

    def get_redis_connection(self, node: ClusterNode | None) -> redis.Redis:
        """The client of *node*. Raises ``SlotNotCoveredError``, which may pass, if it is lost."""
        found = None if node is None else super().get_redis_connection(node)
        if found is None:
            raise exceptions.SlotNotCoveredError("the node of this slot is not known any more")
        return found


def socket_of(connection: Any) -> Any:
    """The socket of a *connection* of redis-py; None if it is closed."""
    return connection._sock


def opener(target: Target) -> Callable[[], Client]:
    """A function that makes a client for *target*.

    Raises ``ValueError`` if redis-py does not accept an option of the URL.
    """
    try:
        options = OPTIONS | parse_url(target.url)
        # A new connection checks its options but does not connect yet.
        connection = options.pop("connection_class", redis.Connection)
        others = inspect.signature(redis.RedisCluster).parameters if target.kind else ()
        connection(**{name: options[name] for name in options.keys() - {*_OF_POOLS, *others}})
    except (TypeError, ValueError, exceptions.RedisError) as error:
        raise ValueError(target.refuse(error)) from None
    if target.kind == "":
        return lambda: redis.Redis.from_url(target.url, **OPTIONS)
    if target.kind == "cluster":
        return lambda: Cluster.from_url(target.url, connection_pool_class=NodePool, **OPTIONS)

    options = OPTIONS | parse_url(target.url)
    del options["host"]
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    shared = ("socket_", "ssl", "retry", "protocol")
    own = {name: value for name, value in options.items() if name.startswith(shared)}
    own["username"], own["password"] = target.sentinel_username, target.sentinel_password
    return lambda: NewestSentinels(target.sentinels, sentinel_kwargs=own, **options).master_for(
        target.service
    )
