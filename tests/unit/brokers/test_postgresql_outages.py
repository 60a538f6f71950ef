"""The broker of PostgreSQL while its server is away, frozen, read-only or has no room."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors as server_errors

from ssestream import BrokerError
from ssestream.brokers.broker import PLAIN, Bounds, ChannelEnded, Position, Terms
from ssestream.brokers.postgresql import PostgresqlBroker, listener, logs
from ssestream.brokers.postgresql.errors import cure_of, is_lasting, is_of_channel, may_pass
from ssestream.brokers.postgresql.migration import open_connection
from ssestream.brokers.postgresql.psycopg import Connection
from ssestream.brokers.postgresql.target import parse
from tests.kit.brokers import Elsewhere, Follower, all_closed, everything, frames
from tests.kit.postgresql_server import PostgresqlServer
from tests.kit.promptness import at_best
from tests.kit.servers import free_port, wait_until

Open = Callable[..., PostgresqlBroker]
Start = Callable[..., PostgresqlServer]


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


def end_sessions(url: str) -> None:
    """Cut every connection to the database but this one."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# -- away


@pytest.mark.long
def test_what_is_down_raises_in_time_and_without_the_password(opened: Open) -> None:
    broker = opened(f"postgresql://user:secret@127.0.0.1:{free_port()}/app")
    calls: list[Callable[[], object]] = [
        lambda: broker.append("news", b"x"),
        lambda: broker.read("news", 0, 1, 1),
        broker.ping,
        broker.wait,
    ]
    for call in calls:

        def fail(call: Callable[[], object] = call) -> float:
            began = time.monotonic()
            with pytest.raises(BrokerError, match=r"postgresql://127\.0\.0\.1:\d+/app: ") as raised:
                call()
            assert "secret" not in str(raised.value)
            assert "\n" not in str(raised.value)
            assert not raised.value.lasting
            return time.monotonic() - began

        at_best(fail, 7)


def test_cut_connections_cost_the_callers_nothing(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    for n in range(1, 4):
        assert broker.append("news", b"%d" % n).number == n
        end_sessions(postgresql_url)
        assert broker.read("news", 0, 0, 0).last == n
        end_sessions(postgresql_url)


def test_a_listener_whose_connection_is_cut_finds_what_came_meanwhile(
    postgresql_url: str, opened: Open
) -> None:
    reader, writer = opened(postgresql_url), opened(postgresql_url)
    writer.append("news", b"0")
    follower = Follower(reader, "news")
    wait_until(lambda: follower.frames == [b"0"], "the first")
    for n in range(1, 4):
        end_sessions(postgresql_url)
        writer.append("news", b"%d" % n)
        wait_until(lambda n=n: len(follower.frames) == n + 1, "the next")
    assert follower.frames == [b"0", b"1", b"2", b"3"]
    follower.stop()


def test_a_connection_that_is_cut_just_behind_the_news_takes_none_away(
    postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = opened(postgresql_url)
    broker.append("news", b"1")
    failures = iter([True])
    payloads = Connection.payloads

    def cut(db: Connection) -> list[str]:
        if next(failures, False):
            raise psycopg.OperationalError("the connection is lost")
        return payloads(db)

    monkeypatch.setattr(Connection, "payloads", cut)
    broker.follow("news", Position("", 0))
    seen: list[bytes] = []
    for frame in (b"1", b"2"):
        while frame not in seen:
            with contextlib.suppress(BrokerError):
                found: Any = broker.wait()
                seen += [each for piece in found.values() for each in frames(piece)]
        if frame == b"1":
            broker.append("news", b"2")
    assert seen == [b"1", b"2"]


@pytest.mark.long_except("kill")
@pytest.mark.parametrize("end", [PostgresqlServer.stop, PostgresqlServer.kill])
def test_a_restart_loses_nothing_and_doubles_nothing(
    end: Callable[[PostgresqlServer], None], start_postgresql: Start, opened: Open
) -> None:
    server = start_postgresql()
    url = server.make_database()
    # Nothing is to fall out of it, however long the follower has no turn.
    reader, writer = opened(url), opened(url, 10**6)
    follower = Follower(reader, "news")
    stored: list[bytes] = []
    doubtful: list[bytes] = []
    over = threading.Event()

    def publish() -> None:
        for n in itertools.count():
            if over.is_set():
                return
            frame = b"%d" % n
            try:
                writer.append("news", frame)
                stored.append(frame)
            except BrokerError:
                doubtful.append(frame)

    publisher = Elsewhere(publish)
    for _ in range(2):
        count = len(stored)
        wait_until(lambda count=count: len(stored) > count + 20, "some events")
        end(server)
        wait_until(lambda: follower.errors, "an error")
        follower.errors.clear()
        server.start()
    count = len(stored)
    wait_until(lambda: len(stored) > count + 20, "some events")
    over.set()
    publisher.result()
    last = everything(writer, "news").last
    wait_until(lambda: len(follower.frames) >= last, "all events")
    seen = follower.frames
    assert [frame for frame in seen if frame not in set(doubtful)] == stored
    assert len(set(seen)) == len(seen)
    follower.stop()


# -- frozen


@pytest.mark.long
def test_a_frozen_server_raises_in_time_and_later_stores_at_most_once(
    start_postgresql: Start, opened: Open
) -> None:
    server = start_postgresql()
    url = server.make_database()
    numbers = itertools.count()

    def freeze() -> float:
        name, publisher = f"news{next(numbers)}", opened(url)
        publisher.append(name, b"before")
        server.freeze()
        try:
            began = time.monotonic()
            with pytest.raises(BrokerError, match=r"does not answer|timeout"):
                publisher.append(name, b"once")
            took = time.monotonic() - began
        finally:
            server.thaw()
        publisher.append(name, b"after")
        assert frames(everything(publisher, name)).count(b"once") <= 1
        return took

    at_best(freeze, 7)


def test_a_frozen_server_fails_a_wait_in_time(
    start_postgresql: Start, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LOOK", 0.2)
    monkeypatch.setattr(listener, "ANSWER", 0.5)
    server = start_postgresql()
    url = server.make_database()
    reader, writer = opened(url), opened(url)
    writer.append("news", b"1")
    follower = Follower(reader, "news")
    wait_until(lambda: follower.frames == [b"1"], "the first")
    server.freeze()
    try:
        wait_until(lambda: follower.errors, "an error")
    finally:
        server.thaw()
    writer.append("news", b"2")
    wait_until(lambda: follower.frames == [b"1", b"2"], "all")
    follower.stop()


# -- answers that are lost


def wanted(
    frame: bytes, terms: Terms = PLAIN, log: str = "abcd1234", token: str = "0123456789ab"
) -> logs.Append:
    return logs.Append("news", frame, terms, Bounds(), log, token)


@pytest.fixture
def db(postgresql_url: str) -> Iterator[Connection]:
    with open_connection(parse(postgresql_url)) as db:
        yield db


def test_a_try_whose_answer_is_lost_is_not_stored_twice(db: Connection) -> None:
    first = logs.append(db, wanted(b"once"), False)
    for _ in range(3):
        assert logs.append(db, wanted(b"once"), True) == first
    assert frames(logs.read(db, "news", 0, 10, 1000)) == [b"once"]


def test_a_first_try_that_comes_after_the_second_is_not_stored(db: Connection) -> None:
    second = logs.append(db, wanted(b"once"), True)
    with pytest.raises(psycopg.errors.RaiseException, match="a later try"):
        logs.append(db, wanted(b"once"), False)
    with pytest.raises(psycopg.errors.RaiseException, match="a later try"):
        logs.append(db, wanted(b"once", Terms(ttl=60)), False)
    assert logs.append(db, wanted(b"once"), True) == second
    assert frames(logs.read(db, "news", 0, 10, 1000)) == [b"once"]


def test_an_end_whose_answer_is_lost_is_stored_once(db: Connection) -> None:
    last = wanted(b"bye", Terms(end=True))
    first = logs.append(db, last, False)
    assert logs.append(db, last, True) == first
    assert frames(logs.read(db, "news", 0, 10, 1000)) == [b"bye", b"\0end"]
    with pytest.raises(ChannelEnded):
        logs.append(db, wanted(b"bye", Terms(end=True), token="f" * 12), True)


def test_a_deletion_whose_answer_is_lost_deletes_nothing_that_came_later(db: Connection) -> None:
    logs.append(db, wanted(b"old"), False)
    logs.delete(db, "news", "abcd1234")
    logs.append(db, wanted(b"new", log="ffff0000"), False)
    logs.delete(db, "news", "abcd1234")
    assert frames(logs.read(db, "news", 0, 10, 1000)) == [b"new"]


def test_an_answer_that_is_given_up_is_nobody_elses(postgresql_url: str) -> None:
    db = open_connection(parse(postgresql_url))
    db.allow(0.05)
    with pytest.raises(psycopg.OperationalError, match="does not answer"):
        db.execute("SELECT 7, pg_sleep(60)")
    assert db.closed


# -- what an operator has to mend


@pytest.mark.long
def test_a_read_only_server_is_an_error_that_passes(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    broker.append("news", b"1")
    read_only = "ALTER DATABASE {} SET default_transaction_read_only = {}"
    name = postgresql_url.rpartition("/")[2]
    with psycopg.connect(postgresql_url, autocommit=True) as db:
        db.execute(read_only.format(name, "on"))
        end_sessions(postgresql_url)
    for call in (lambda: broker.append("news", b"2"), broker.ping):
        with pytest.raises(BrokerError, match="takes no events") as raised:
            call()
        assert not raised.value.lasting
    # The events that there are can be read.
    assert broker.read("news", 0, 1, 100).last == 1
    with psycopg.connect(postgresql_url, autocommit=True) as db:
        db.execute("SET default_transaction_read_only = off")
        db.execute(read_only.format(name, "off"))
    end_sessions(postgresql_url)
    assert broker.append("news", b"2").number == 2


def test_a_wrong_password_lasts_and_is_not_shown(start_postgresql: Start, opened: Open) -> None:
    server = start_postgresql()
    url = server.make_database()
    server.execute("postgres", "CREATE ROLE app LOGIN SUPERUSER PASSWORD 'right'")
    rules = Path(server.folder) / "data" / "pg_hba.conf"
    rules.write_text("host all app 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    server.execute("postgres", "SELECT pg_reload_conf()")
    mine = url.replace("postgres@", "app:{}@")
    right = opened(mine.format("right"))
    wait_until(lambda: right.append("news", b"x"), "an event")
    for password in (":wrong-one", ""):
        broker = opened(url.replace("postgres@", f"app{password}@"))
        words = "password authentication failed|no password supplied"
        with pytest.raises(BrokerError, match=words) as raised:
            broker.append("news", b"x")
        assert raised.value.lasting
        assert "wrong-one" not in str(raised.value)


def test_a_database_that_is_not_there_lasts(
    postgresql_server: PostgresqlServer, opened: Open
) -> None:
    with pytest.raises(BrokerError, match="does not exist") as raised:
        opened(postgresql_server.url("nowhere")).ping()
    assert raised.value.lasting


def test_too_many_connections_pass(
    postgresql_server: PostgresqlServer, postgresql_url: str, opened: Open
) -> None:
    postgresql_server.execute("postgres", "CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    with pytest.raises(BrokerError, match="too many connections") as raised:
        opened(postgresql_url.replace("postgres@", "few@")).ping()
    assert not raised.value.lasting
    postgresql_server.execute("postgres", "DROP ROLE few")


@pytest.mark.parametrize(
    ("error", "lasts", "words"),
    [
        (server_errors.DiskFull("could not extend file"), False, "make room"),
        (server_errors.OutOfMemory("out of memory"), False, ""),
        (server_errors.AdminShutdown("terminating connection"), False, ""),
        (server_errors.CannotConnectNow("the system is starting up"), False, ""),
        (server_errors.DeadlockDetected("deadlock"), False, ""),
        (server_errors.IoError("could not read"), False, ""),
        (server_errors.UndefinedTable("no relation"), True, "ssestream migrate"),
        (server_errors.UndefinedFunction("no function"), True, "ssestream migrate"),
        (server_errors.InsufficientPrivilege("permission denied"), True, "rights"),
        (server_errors.InvalidSqlStatementName("no statement"), True, "notify_url"),
        (server_errors.DuplicatePreparedStatement("already"), True, "notify_url"),
        (psycopg.OperationalError("connection refused"), False, ""),
        (psycopg.OperationalError("no pg_hba.conf entry for host"), True, ""),
        (OSError("no route to host"), False, ""),
        (MemoryError(), False, ""),
    ],
)
def test_each_error_is_one_that_passes_or_lasts(
    error: BaseException, lasts: bool, words: str
) -> None:
    assert is_lasting(error) == lasts
    assert words in cure_of(error)
    assert not is_of_channel(error)
    if not isinstance(error, MemoryError):
        assert may_pass(error) != lasts
