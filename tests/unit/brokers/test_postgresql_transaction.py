"""An event as a part of the app's own transaction: there when the app commits, and never before."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
import sqlalchemy.exc
import sqlalchemy.orm
from psycopg.rows import dict_row

from ssestream import BrokerError, ChannelEnded, Channels, MessageError, SseStream
from tests.kit.brokers import Elsewhere, all_closed
from tests.kit.servers import wait_until
from tests.kit.states import end_all_of
from tests.unit.channels.test_listener import Piece

Make = Callable[..., Channels]


@pytest.fixture
def make() -> Iterator[Make]:
    with all_closed(Channels, end_all_of) as make:
        yield make


@pytest.fixture
def channels(postgresql_url: str, make: Make) -> Channels:
    return make(postgresql_url)


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(postgresql_url.replace("://", "+psycopg://"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id int)")
    yield engine
    engine.dispose()


def data_of(channels: Channels, name: str = "orders") -> list[Any]:
    return [message["data"] for message in channels.history(name)]


# -- SQLAlchemy


def test_a_committed_event_is_there_and_a_rolled_back_one_never_was(
    channels: Channels, engine: sqlalchemy.Engine
) -> None:
    with sqlalchemy.orm.Session(engine) as session:
        session.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
        channels.publish("orders", {"data": "never"}, connection=session.connection())
        assert data_of(channels) == []
        session.rollback()
        session.execute(sqlalchemy.text("INSERT INTO orders VALUES (2)"))
        event_id = channels.publish("orders", {"data": "2"}, connection=session.connection())
        assert data_of(channels) == []
        session.commit()
    assert data_of(channels) == ["2"]
    assert channels.history("orders")[0]["id"] == event_id
    # A rollback leaves no hole.
    assert ".1." in event_id
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT id FROM orders").fetchall() == [(2,)]


def test_a_connection_that_has_begun_nothing_begins_with_the_event(
    channels: Channels, engine: sqlalchemy.Engine
) -> None:
    with engine.connect() as connection:
        channels.publish("orders", {"data": "1"}, connection=connection)
        connection.commit()
        channels.channel("orders").publish({"data": "2"}, connection=connection)
        connection.rollback()
    assert data_of(channels) == ["1"]


def test_a_savepoint_takes_its_events_back_and_no_others(
    channels: Channels, engine: sqlalchemy.Engine
) -> None:
    with engine.begin() as connection:
        channels.publish("orders", {"data": "1"}, connection=connection)
        with connection.begin_nested() as savepoint:
            channels.publish("orders", {"data": "2"}, connection=connection)
            savepoint.rollback()
        channels.publish("orders", {"data": "3"}, connection=connection)
    assert data_of(channels) == ["1", "3"]


# -- psycopg


@pytest.mark.parametrize("options", [{}, {"row_factory": dict_row}, {"prepare_threshold": None}])
def test_a_connection_of_psycopg_is_as_good(
    options: Any, channels: Channels, postgresql_url: str
) -> None:
    with psycopg.connect(postgresql_url, **options) as connection:
        channels.publish("orders", {"data": "1"}, connection=connection)
        connection.rollback()
        channels.publish("orders", {"data": "2"}, connection=connection)
        channels.publish("orders", {"data": "3"}, connection=connection)
        assert data_of(channels) == []
    assert data_of(channels) == ["2", "3"]


# -- what streams see


def test_streams_get_it_once_when_it_is_committed_and_at_once(
    channels: Channels, postgresql_url: str
) -> None:
    piece, stream = Piece(), SseStream()
    piece.allow(10**9)
    stream.pipe(piece)
    channels.subscribe(stream, "orders", since="start")

    def seen() -> list[str]:
        return [each["data"] for each in piece.messages if "data" in each]

    with psycopg.connect(postgresql_url) as connection:
        channels.publish("orders", {"data": "never"}, connection=connection)
        connection.rollback()
        channels.publish("orders", {"data": "1"}, connection=connection)
        # In another channel, meanwhile: nothing of the transaction holds it up.
        channels.publish("other", {"data": "x"})
        assert seen() == []
    channels.publish("orders", {"data": "2"})
    wait_until(lambda: len(seen()) >= 2, "the events")
    assert seen() == ["1", "2"]
    piece.leave()
    stream.destroy()


def test_numbers_follow_the_order_of_the_commits(channels: Channels, postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as connection:
        channels.publish("orders", {"data": "first"}, connection=connection)
        # This one gets its number only when the transaction before has ended.
        later = Elsewhere(channels.publish, "orders", {"data": "second"})
        with psycopg.connect(postgresql_url, autocommit=True) as other:
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_until(lambda: other.execute(waits).fetchall() == [(1,)], "the other to wait")
        assert not later.over
    later.result()
    assert data_of(channels) == ["first", "second"]


@pytest.mark.long
def test_a_transaction_that_goes_on_is_told_to_those_who_wait_for_it(
    channels: Channels, postgresql_url: str
) -> None:
    with psycopg.connect(postgresql_url) as connection:
        channels.publish("orders", {"data": "first"}, connection=connection)
        with pytest.raises(BrokerError, match="is not committed yet") as raised:
            channels.publish("orders", {"data": "never"})
        assert not raised.value.lasting
        channels.publish("other", {"data": "x"})
    # It was not only told too early: it does not come later either.
    channels.publish("orders", {"data": "second"})
    assert data_of(channels) == ["first", "second"]


# -- what goes wrong


def test_an_error_of_the_channel_leaves_the_transaction_as_it_is(
    channels: Channels, engine: sqlalchemy.Engine
) -> None:
    channels.end("orders")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO orders VALUES (1)")
        with pytest.raises(ChannelEnded):
            channels.publish("orders", {"data": "x"}, connection=connection)
        with pytest.raises(MessageError):
            channels.publish("orders", {"event": "a\nb"}, connection=connection)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT id FROM orders").fetchall() == [(1,)]


def test_an_error_of_the_server_is_a_broker_error(
    channels: Channels, engine: sqlalchemy.Engine
) -> None:
    with engine.connect() as connection:
        with pytest.raises(sqlalchemy.exc.ProgrammingError):
            connection.exec_driver_sql("SELECT nothing")
        with pytest.raises(BrokerError, match="current transaction is aborted"):
            channels.publish("orders", {"data": "x"}, connection=connection)
        connection.rollback()
        connection.exec_driver_sql("DROP SCHEMA ssestream CASCADE")
        with pytest.raises(BrokerError, match="python -m ssestream migrate"):
            channels.publish("orders", {"data": "x"}, connection=connection)
    assert data_of(channels) == []


def test_another_object_is_refused(channels: Channels, engine: sqlalchemy.Engine) -> None:
    with sqlalchemy.orm.Session(engine) as session:
        for wrong in (session, engine, "postgresql://", 7):
            with pytest.raises(TypeError, match=r"connection is a Connection of SQLAlchemy"):
                channels.publish("orders", {"data": "x"}, connection=wrong)
    lite = sqlalchemy.create_engine("sqlite://")
    with lite.connect() as connection, pytest.raises(TypeError, match=r"not of sqlite\+pysqlite"):
        channels.publish("orders", {"data": "x"}, connection=connection)
    lite.dispose()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("memory://", "MemoryBroker"),
        ("sqlite:///{folder}/events.db", "SqliteBroker"),
        ("redis://127.0.0.1:1", "RedisBroker"),
    ],
)
def test_another_broker_is_named(
    url: str, name: str, tmp_path: Path, make: Make, engine: sqlalchemy.Engine
) -> None:
    other = make(url.format(folder=tmp_path))
    with engine.connect() as connection, pytest.raises(TypeError, match=f"have a {name}"):
        other.publish("orders", {"data": "x"}, connection=connection)
