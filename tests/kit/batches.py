"""Appends to PostgreSQL that come together, and the transactions that store them."""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from ssestream.brokers.broker import PLAIN, Bounds
from ssestream.brokers.postgresql import PostgresqlBroker
from ssestream.brokers.postgresql.logs import Append
from tests.kit.brokers import Elsewhere
from tests.kit.servers import wait_until


def wanted(
    name: str = "news", frame: bytes = b"x", *, token: str = "", bounds: Bounds | None = None
) -> Append:
    token = token or secrets.token_hex(6)
    return Append(name, frame, PLAIN, bounds or Bounds(), secrets.token_hex(4), token)


@contextlib.contextmanager
def holding(url: str, what: str) -> Iterator["psycopg.Connection[Any]"]:
    """Execute *what*, which locks something, as an app's transaction does, and roll it back."""
    with psycopg.connect(url) as db:
        db.execute(what)
        yield db
        db.rollback()


def channel(name: str) -> str:
    return f"SELECT FROM ssestream.channels WHERE name = '{name}' FOR UPDATE"


#: No entry of any channel can be stored.
ALL_ENTRIES = "LOCK TABLE ssestream.events IN SHARE ROW EXCLUSIVE MODE"

#: The channels of the appends that are under way in `gathering`: two alone, and the leader.
BUSY = ["busy/1", "busy/2", "busy/3"]


@contextlib.contextmanager
def gathering(url: str, broker: PostgresqlBroker) -> Iterator["psycopg.Connection[Any]"]:
    """Let all appends that begin meanwhile wait in the line, and then go on together."""
    for name in BUSY:
        broker.append(name, b"x")
    with holding(url, ALL_ENTRIES) as db:
        busy = start_together(broker, [(name, b"x") for name in BUSY])
        yield db
    for each in busy:
        each.result()


def start_together(
    broker: PostgresqlBroker, appends: Sequence[tuple[str, bytes]]
) -> list[Elsewhere]:
    """Begin *appends* in this order, each in a thread of its own. Use it while `gathering`."""
    begun, before = [], broker.group.under_way
    for count, (name, frame) in enumerate(appends, before + 1):
        begun.append(Elsewhere(broker.append, name, frame))
        wait_until(lambda count=count: broker.group.under_way == count, "the append to begin")
    return begun


def transactions(url: str, name: str = "%") -> int:
    """The number of transactions that have stored the channels like *name*."""
    with psycopg.connect(url) as db:
        rows = db.execute(
            "SELECT count(DISTINCT e.xmin::text) FROM ssestream.events e"
            " JOIN ssestream.channels c ON c.id = e.channel WHERE c.name LIKE %s",
            (name,),
        ).fetchall()
    return int(rows[0][0])


def written_by(url: str, *, waits: bool = False, batch: bool = False) -> list[int]:
    """The processes of the server that append now; with *waits*, those that wait for a lock."""
    with psycopg.connect(url) as db:
        rows = db.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'active' AND query LIKE %s AND (wait_event_type = 'Lock' OR NOT %s)",
            ("CALL ssestream.publish_all%" if batch else "CALL ssestream.publish%", waits),
        ).fetchall()
    return [int(row[0]) for row in rows]
