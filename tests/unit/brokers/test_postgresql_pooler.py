"""The broker of PostgreSQL behind PgBouncer in transaction mode."""

from collections.abc import Callable, Iterator
from urllib.parse import quote

import psycopg
import pytest

from ssestream import BrokerError, Channels
from ssestream.brokers.broker import Bounds, Position, Terms
from ssestream.brokers.postgresql import PostgresqlBroker, listener
from tests.kit.brokers import NEVER, Elsewhere, all_closed, everything, follow, frames, next_news
from tests.kit.pgbouncer import PgBouncer
from tests.kit.postgresql_server import PostgresqlServer

Open = Callable[..., PostgresqlBroker]


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


@pytest.fixture
def pooler(pgbouncer: str, postgresql_server: PostgresqlServer) -> Iterator[PgBouncer]:
    pooler = PgBouncer(pgbouncer, postgresql_server)
    yield pooler
    pooler.remove()


@pytest.fixture
def url(pooler: PgBouncer, postgresql_url: str) -> str:
    """By way of the pooler, with the URL of the server itself to listen."""
    return f"{pooler.url(postgresql_url)}?notify_url={quote(postgresql_url, safe='')}"


def test_news_is_heard_by_the_connection_to_the_server(
    url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is looked at in turn: only a notification can tell.
    monkeypatch.setattr(listener, "LOOK", 3600.0)
    reader, writer = opened(url), opened(url)
    at: Position = writer.append("news", b"0")
    for n in range(1, 6):
        follow(reader, {"news": at})
        reader.wake()
        assert reader.wait() == {}
        waiter = Elsewhere(next_news, reader)
        at = writer.append("news", b"%d" % n)
        assert frames(waiter.result()["news"]) == [b"%d" % n]


def test_all_calls_work_for_more_processes_than_the_pooler_has_connections(
    url: str, opened: Open
) -> None:
    brokers = [opened(url) for _ in range(6)]

    def use(broker: PostgresqlBroker, name: str) -> list[bytes]:
        at = broker.append(name, b"1", Terms(lease=60, ttl=60))
        for n in range(2, 20):
            broker.append(name, b"%d" % n)
        assert broker.renew(name, at, None)
        broker.keep(name, Bounds(3))
        kept = frames(everything(broker, name))
        broker.delete(name)
        broker.ping()
        return kept

    users = [Elsewhere(use, broker, f"job/{n}") for n, broker in enumerate(brokers)]
    assert [each.result() for each in users] == [[b"17", b"18", b"19"]] * 6


def test_an_append_in_a_transaction_of_the_pooler_is_heard_when_it_is_committed(
    url: str, pooler: PgBouncer, postgresql_url: str, opened: Open
) -> None:
    reader = opened(url)
    follow(reader, {"orders": NEVER})
    waiter = Elsewhere(next_news, reader)
    channels = Channels(url)
    with psycopg.connect(pooler.url(postgresql_url), prepare_threshold=None) as connection:
        channels.publish("orders", {"data": "1"}, connection=connection)
    assert waiter.result()["orders"].last == 1
    channels.close()


def test_a_pooler_without_a_url_to_listen_is_told(
    pgbouncer: str, postgresql_server: PostgresqlServer, postgresql_url: str, opened: Open
) -> None:
    pooler = PgBouncer(pgbouncer, postgresql_server, size=1)
    try:
        one, other = opened(pooler.url(postgresql_url)), opened(pooler.url(postgresql_url))

        def take_turns() -> None:
            for _ in range(5):
                one.append("news", b"x")
                other.append("news", b"x")

        with pytest.raises(BrokerError, match=r"\?notify_url=") as raised:
            take_turns()
        assert raised.value.lasting
        one.close()
        other.close()
    finally:
        pooler.remove()
