"""A standby takes over from a PostgreSQL that is killed, or that takes no more writes."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssestream import BrokerError, Channels
from ssestream.brokers.broker import Position
from ssestream.brokers.postgresql import PostgresqlBroker
from ssestream.brokers.postgresql import broker as broker_module
from ssestream.brokers.postgresql.errors import is_lasting
from ssestream.brokers.postgresql.psycopg import Connection, OperationalError, connect
from ssestream.brokers.postgresql.target import Target, parse
from tests.kit.brokers import Elsewhere, Follower, all_closed, everything, frames
from tests.kit.following import Client, Following, all_live, data_of, numbers, publish
from tests.kit.postgresql_server import PostgresqlServer
from tests.kit.servers import free_port, wait_until
from tests.kit.states import place_of

Open = Callable[..., PostgresqlBroker]


class Pair:
    """A primary and its standby, and the URL of a database in both."""

    def __init__(self, programs: Path) -> None:
        self.primary = PostgresqlServer(programs).start()
        name = self.primary.make_database().rpartition("/")[2]
        self.standby = PostgresqlServer(programs, primary=self.primary).start()
        hosts = ",".join(f"{each.address}:{each.port}" for each in (self.primary, self.standby))
        self.url = f"postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write"

    def remove(self) -> None:
        self.primary.remove()
        self.standby.remove()


@pytest.fixture
def pair(postgresql_programs: Path) -> Iterator[Pair]:
    pair = Pair(postgresql_programs)
    yield pair
    pair.remove()


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


# -- the primary is killed


@pytest.mark.long
def test_a_standby_that_has_all_loses_nothing_and_doubles_nothing(pair: Pair, opened: Open) -> None:
    pair.primary.replicate()
    reader, writer = opened(pair.url), opened(pair.url, 10**6)
    follower = Follower(reader, "news")
    stored: list[tuple[int, bytes, str]] = []
    doubtful: list[bytes] = []
    over = threading.Event()

    def write(number: int) -> None:
        for n in itertools.count():
            if over.is_set():
                return
            frame = b"%d %d" % (number, n)
            try:
                at = writer.append("news", frame)
                stored.append((at.number, frame, at.check))
            except BrokerError:
                doubtful.append(frame)

    writers = [Elsewhere(write, number) for number in range(8)]
    wait_until(lambda: len(stored) > 50, "some events")
    pair.primary.kill()
    count = len(stored)
    pair.standby.promote()
    wait_until(lambda: len(stored) > count + 50, "some events")
    over.set()
    for each in writers:
        each.result()
    there = everything(writer, "news").entries
    assert len({entry.frame for entry in there}) == len(there)
    assert set(stored) <= {tuple(entry) for entry in there}
    assert {entry.frame for entry in there} <= {frame for _, frame, _ in stored} | set(doubtful)
    wait_until(lambda: len(follower.frames) >= len(there), "all events")
    assert follower.frames == [entry.frame for entry in there]
    follower.stop()


@pytest.mark.long
@pytest.mark.parametrize("grown", [0, 3, 5])
def test_a_standby_that_lags_is_a_gap_for_those_who_have_what_is_lost(
    pair: Pair, grown: int
) -> None:
    channels, elsewhere = Channels(pair.url), Channels(pair.url)
    publish(elsewhere, "news", 3)
    app = Following(channels, "news", "other")
    with Client(app) as behind:
        behind_at = place_of(behind)
    pair.standby.wait_for(pair.primary)
    pair.standby.detach()
    with Client(app) as gone, Client(app) as client:
        publish(elsewhere, "news", 3, 6)
        gone.take(3)
        client.take(3)
        gone_at = gone.last_id
        all_live(channels)
        pair.primary.kill()
        pair.standby.promote()
        publish(elsewhere, "news", 100, 100 + grown)
        expected = numbers(3) + numbers(100, 100 + grown)
        # Both are still there: each gets what the log has now, and then goes on from there.
        for each in (gone, client):
            assert data_of(each.take(3 + len(expected)))[3:] == expected
        publish(elsewhere, "news", 200, 203)
        expected += numbers(200, 203)
        assert data_of(client.take(3 + len(expected)))[3:] == expected
        assert app.gaps == ["news", "news"]
    with Client(app, last_id=gone_at) as back, Client(app, last_id=behind_at) as other:
        assert data_of(back.take(len(expected))) == expected
        # This one has had nothing that is lost.
        assert data_of(other.take(len(expected) - 3)) == expected[3:]
    assert app.gaps == ["news", "news", "news"]
    elsewhere.close()
    channels.close()


# -- the primary goes on, and takes no writes


@pytest.mark.long
def test_a_server_that_takes_no_more_writes_is_left_by_those_who_write_and_who_read(
    pair: Pair, opened: Open
) -> None:
    reader, writer = opened(pair.url), opened(pair.url)
    writer.append("news", b"1")
    assert reader.read("news", 0, 1, 100).last == 1
    follower = Follower(reader, "news")
    wait_until(lambda: follower.frames == [b"1"], "the first")
    pair.standby.wait_for(pair.primary)
    pair.standby.detach()
    pair.primary.configure("default_transaction_read_only = on")
    pair.standby.promote()
    wait_until(lambda: can_append(writer, b"2"), "the standby to be used")
    wait_until(lambda: follower.frames == [b"1", b"2"], "the second")
    # Its connections from before are to the other server.
    assert frames(reader.read("news", 0, 10, 100)) == [b"1", b"2"]
    follower.stop()


def can_append(broker: PostgresqlBroker, frame: bytes) -> Position | None:
    try:
        return broker.append("news", frame)
    except BrokerError:
        return None


# -- errors


def test_the_hosts_are_named_as_in_the_url() -> None:
    assert parse("postgresql://u:pass@a:1,b:2/d").where == "postgresql://a:1,b:2/d"
    assert parse("postgresql://a,b/d?port=7").where == "postgresql://a:7,b:7/d"


def test_an_error_of_one_host_does_not_last_while_another_one_may_be_back(
    postgresql_server: PostgresqlServer, opened: Open
) -> None:
    wrong = f"127.0.0.1:{postgresql_server.port}"
    away = f"127.0.0.1:{free_port()}"
    for hosts, lasts in ((f"{wrong},{away}", False), (f"{wrong},{wrong}", True)):
        with pytest.raises(BrokerError, match="does not exist") as raised:
            opened(f"postgresql://postgres@{hosts}/nowhere").ping()
        assert raised.value.lasting == lasts
        assert raised.value.__cause__ is not None
        assert is_lasting(raised.value.__cause__) == lasts
        # Each host is told once.
        assert str(raised.value).count("connection failed") == 2


def test_a_server_that_is_away_is_told_and_not_that_all_connections_are_in_use(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "TRYING", 0.5)
    turn = threading.Semaphore(0)

    def fail(_: Target) -> Connection:
        turn.acquire(timeout=0.3)
        raise OperationalError("connection refused")

    monkeypatch.setattr(broker_module, "open_connection", fail)
    broker = opened("postgresql://127.0.0.1/app?max_connections=1")
    for call in (lambda: broker.append("news", b"x"), lambda: broker.read("news", 0, 1, 1)):
        tried = [Elsewhere(call) for _ in range(2)]
        told = []
        for each in tried:
            with pytest.raises(BrokerError) as raised:
                each.result()
            told.append(str(raised.value))
        assert all("connection refused" in words for words in told)


def test_an_error_has_not_the_place_in_the_sql(postgresql_url: str) -> None:
    target = parse(postgresql_url)
    db = connect(target.options, prepares=False)
    with pytest.raises(Exception, match="CONTEXT") as raised:
        db.execute("DO $$ BEGIN RAISE 'no room' USING HINT = 'make some'; END $$")
    db.close()
    assert target.explain(raised.value) == f"{target.where}: no room; HINT:  make some"
