"""The broker of PostgreSQL: its URLs, its tables, and how it hears of news.

What it removes is in ``test_postgresql_removal``, and what happens while the server is away in
``test_postgresql_outages``.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from ssestream import BrokerError, Channels
from ssestream.brokers.broker import Bounds, ChannelError, Terms
from ssestream.brokers.postgresql import PostgresqlBroker, listener, logs
from ssestream.brokers.postgresql.migration import VERSION, migrate, statements
from ssestream.brokers.postgresql.target import parse
from tests.kit.brokers import (
    NEVER,
    Actor,
    Elsewhere,
    all_closed,
    follow,
    frames,
    next_news,
)
from tests.kit.postgresql_server import PostgresqlServer, change
from tests.kit.promptness import in_one_try
from tests.kit.servers import wait_until

Open = Callable[..., PostgresqlBroker]


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


# -- URLs


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host",
        "postgres://user@host:5433/app",
        "postgresql+psycopg://user:p%23%2F%3F%40@host/app?sslmode=require",
        "postgresql:///app?host=/run/postgresql",
        "postgresql://host/app?max_connections=20",
        "postgresql://host/app?notify_url=postgresql%3A%2F%2Fother%3A5432%2Fapp",
        "postgresql://one,other/app?target_session_attrs=read-write",
    ],
)
def test_a_good_url_is_taken_and_connects_to_nothing(url: str) -> None:
    Channels(url).close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:s#ecret@host/app", "it has a #"),
        ("postgresql://u:s/ecret@host/app", "an @ after the host"),
        ("postgresql://u:s?ecret@host/app", "an @ after the host"),
        ("postgresql://u:s@ecret@host/app", "more than one @"),
        ("postgresql://u:s ecret@host/app", "a space"),
        ("postgresql://u:s%ecret@host/app", "its encoding is wrong"),
        ("postgresql://u:secret@host/app?colour=red", "colour"),
        ("postgresql://u:secret@host/app?sslmode", "an option without a value"),
        ("postgresql://u:secret@host/app?max_connections=0", "max_connections must be an int"),
        ("postgresql://u:secret@host/app?notify_url=redis%3A%2F%2Fh", "notify_url: the scheme"),
        ("postgresql+psycopg2://u:secret@host/app", "the scheme must be postgresql"),
    ],
)
def test_a_wrong_url_is_refused_at_once_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        Channels(url)
    assert "ecret" not in str(raised.value)


def test_a_url_for_listening_is_that_of_one_connection_only() -> None:
    target = parse("postgresql://pooler:6432/app?notify_url=postgresql%3A%2F%2Fserver%2Fapp")
    assert (target.options["host"], target.listening["host"]) == ("pooler", "server")
    assert target.has_pooler
    assert not parse("postgresql://server/app").has_pooler


def test_without_psycopg_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from ssestream import Channels\n"
        "try: Channels('postgresql://host')\n"
        "except ValueError as error: sys.stdout.write(str(error))\n"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert said.stdout.endswith(b"pip install ssestream[postgresql]")


def test_nothing_of_psycopg_is_imported_before_it_is_used() -> None:
    program = "import sys, ssestream.__main__; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- tables


def test_missing_tables_are_an_error_that_names_the_command(
    postgresql_server: PostgresqlServer, opened: Open
) -> None:
    url = postgresql_server.make_empty_database()
    broker = opened(url)
    for call in (
        lambda: broker.append("news", b"x"),
        lambda: broker.read("news", 0, 1, 1),
        broker.ping,
        broker.wait,
    ):
        with pytest.raises(BrokerError, match="python -m ssestream migrate") as raised:
            call()
        assert raised.value.lasting
    # Without a new start.
    assert migrate(url)
    assert broker.append("news", b"x").number == 1
    broker.close()
    postgresql_server.drop_database(url)


@pytest.mark.parametrize(
    ("version", "words"),
    [(VERSION - 1, "python -m ssestream migrate"), (VERSION + 1, "knows version 1: install")],
)
def test_tables_of_another_version_are_an_error(
    version: int, words: str, postgresql_url: str, opened: Open
) -> None:
    change(postgresql_url, f"UPDATE ssestream.version SET version = {version}")
    with pytest.raises(BrokerError, match=words) as raised:
        opened(postgresql_url).append("news", b"x")
    assert raised.value.lasting
    with pytest.raises(BrokerError, match=words):
        migrate(postgresql_url)


def test_many_make_the_tables_at_once_and_one_does(postgresql_server: PostgresqlServer) -> None:
    url = postgresql_server.make_empty_database()
    made = [Elsewhere(migrate, url) for _ in range(5)]
    assert sorted(each.result() for each in made) == [False] * 4 + [True]
    postgresql_server.drop_database(url)


def test_the_printed_sql_makes_the_tables_and_names_the_rights_that_are_enough(
    postgresql_server: PostgresqlServer, postgresql_programs: Path, opened: Open
) -> None:
    url = postgresql_server.make_empty_database()
    printed = statements()
    psql = [str(postgresql_programs / "psql"), "-v", "ON_ERROR_STOP=1", "-q", url]
    subprocess.run(psql, input=printed.encode(), check=True)
    change(url, "CREATE ROLE app LOGIN")
    rights = [line.removeprefix("--   ") for line in printed.splitlines() if "GRANT" in line]
    assert len(rights) == 2
    broker = opened(url.replace("postgres@", "app@"))
    with pytest.raises(BrokerError, match=r"permission denied.*migrate --print") as raised:
        broker.append("news", b"x")
    assert raised.value.lasting
    change(url, *rights)
    at = broker.append("news", b"x", Terms(ttl=60, lease=60))
    assert broker.renew("news", at, 60)
    broker.keep("news", Bounds(5, 60))
    follow(broker, {"news": NEVER})
    assert next_news(broker)["news"].last == 1
    broker.delete("news")
    broker.ping()
    broker.close()
    postgresql_server.drop_database(url)
    postgresql_server.execute("postgres", "DROP ROLE app")


# -- what is kept


def test_a_clock_that_is_set_back_makes_no_entry_young(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url, history_age=60)
    broker.append("news", b"1")
    change(postgresql_url, "UPDATE ssestream.channels SET at = at + 3600")
    broker.append("news", b"2")
    with psycopg.connect(postgresql_url) as db:
        ats = [row[0] for row in db.execute("SELECT at FROM ssestream.events ORDER BY number")]
    assert ats[1] - ats[0] > 3000


# -- one channel that is damaged


def test_a_damaged_log_is_an_error_of_its_channel_only(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    for name in ("bad", "good"):
        for n in range(5):
            broker.append(name, b"%d" % n)
    change(
        postgresql_url,
        "DELETE FROM ssestream.events WHERE number = 3 AND channel ="
        " (SELECT id FROM ssestream.channels WHERE name = 'bad')",
    )
    with pytest.raises(ChannelError, match="entry 3 is missing"):
        broker.read("bad", 0, 10, 1000)
    follow(broker, {"bad": NEVER, "good": NEVER})
    found: dict[str, Any] = {}
    while len(found) < 2:
        found |= broker.wait()
    assert isinstance(found["bad"], ChannelError)
    assert frames(found["good"]) == [b"%d" % n for n in range(5)]


# -- hearing


def test_an_event_whose_notification_is_lost_comes_a_little_later(
    postgresql_url: str, opened: Open
) -> None:
    broker = opened(postgresql_url)
    at = broker.append("news", b"1")
    follow(broker, {f"user/{n}": NEVER for n in range(600)} | {"news": at})
    waiter = Elsewhere(next_news, broker)
    # As an append whose session is ended before it notifies.
    change(
        postgresql_url,
        "SELECT ssestream.append('news', '2', false, NULL, NULL, 'abcd', 'abcdef', false, NULL,"
        " false, NULL)",
    )
    assert frames(waiter.result()["news"]) == [b"2"]


def test_notifications_of_others_do_no_harm(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    at = broker.append("news", b"1")
    follow(broker, {"news": at})
    waiter = Elsewhere(next_news, broker)
    for payload in ("", "news", "\u00e9 news", "a b  c", "x" * 7999):
        change(postgresql_url, f"NOTIFY ssestream, '{payload}'")
    broker.append("news", b"2")
    assert frames(waiter.result()["news"]) == [b"2"]


def test_a_wake_up_does_not_ask_about_every_channel(
    postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = opened(postgresql_url), opened(postgresql_url)
    follow(reader, {f"user/{n}": NEVER for n in range(3000)})
    monkeypatch.setattr(listener, "LOOK", 3600.0)
    asked: list[int] = []
    ask = logs.news

    def count(db: Any, positions: Any, *args: Any) -> Any:
        asked.append(len(positions))
        return ask(db, positions, *args)

    monkeypatch.setattr(logs, "news", count)
    reader.wake()
    reader.wait()
    while sum(asked) < 3000:
        reader.wake()
        reader.wait()
    asked.clear()
    waiter = Elsewhere(next_news, reader)
    writer.append("user/77", b"x")
    assert waiter.result().keys() == {"user/77"}
    assert asked == [1]


def test_an_idle_listener_looks_at_a_part_of_its_channels_in_each_second(
    postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = opened(postgresql_url)
    follow(broker, {f"user/{n}": NEVER for n in range(2000)})
    monkeypatch.setattr(listener, "LOOK", 0.05)
    asked: list[int] = []
    ask = logs.news

    def count(db: Any, positions: Any, *args: Any) -> Any:
        asked.append(len(positions))
        return ask(db, positions, *args)

    monkeypatch.setattr(logs, "news", count)
    waiter = Elsewhere(next_news, broker)
    wait_until(lambda: len(asked) > 12, "some looks")
    assert max(asked) <= listener.PER_LOOK
    broker.append("user/7", b"x")
    waiter.result()


@pytest.mark.long
def test_an_idle_wait_costs_next_to_nothing(
    postgresql_url: str, actor: Callable[..., Actor]
) -> None:
    waiter = actor(postgresql_url, "wait", *(f"user/{n}" for n in range(2000)))
    assert waiter.next("waits")
    with psycopg.connect(postgresql_url, autocommit=True) as db:
        session = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'ssestream'"
            " AND datname = current_database()"
        )

        def sessions() -> list[Any]:
            return db.execute(session).fetchall()

        wait_until(lambda: len(sessions()) == 2, "the process to listen")
        # The process, and those of the server for its two connections.
        pids = [waiter.process.pid, *(pid for (pid,) in sessions())]
        processes = [psutil.Process(pid) for pid in pids]

        def spent() -> tuple[int, float]:
            switches = sum(each.num_ctx_switches().voluntary for each in processes)
            return switches, sum(sum(each.cpu_times()[:2]) for each in processes)

        def be_idle() -> tuple[bool, tuple[int, float]]:
            switches, seconds = spent()
            time.sleep(1.5)
            switches, seconds = (a - b for a, b in zip(spent(), (switches, seconds), strict=True))
            return switches <= 30 and seconds <= 0.05, (switches, seconds)

        # A sleep that a busy machine makes long has more of both.
        in_one_try(be_idle)


def test_one_connection_listens_and_callers_share_the_others(
    postgresql_url: str, opened: Open
) -> None:
    broker = opened(f"{postgresql_url}?max_connections=3")
    follow(broker, {"other": NEVER})
    waiter = Elsewhere(next_news, broker)
    start, numbers = threading.Barrier(30), []

    def call() -> None:
        start.wait()
        numbers.append(broker.append("news", b"one").number)

    for each in [Elsewhere(call) for _ in range(30)]:
        each.result()
    assert sorted(numbers) == list(range(1, 31))
    with psycopg.connect(postgresql_url) as db:
        rows = db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ssestream'"
            " AND datname = current_database()"
        ).fetchall()
    assert rows[0][0] <= 4
    broker.append("other", b"x")
    waiter.result()


# -- forks and ends


def test_a_child_leaves_the_connections_of_its_parent_alone(
    postgresql_url: str, actor: Callable[..., Actor]
) -> None:
    told = actor(postgresql_url, "fork", "news").tells()
    assert [each["who"] for each in told].count("parent") == 3
    # The parent's sessions went on: nobody has sent the server their end.
    assert told[-1]["frames"][-1] == "after"


def test_a_process_that_ends_leaves_nothing_to_the_collector(postgresql_url: str) -> None:
    program = (
        "import sys; from ssestream.brokers import open_broker\n"
        "broker = open_broker(sys.argv[1])\n"
        "broker.append('news', b'x')\n"
        "broker.wake(); broker.wait()\n"
        "broker = None\n"
        "broker = open_broker(sys.argv[1])\n"
        "broker.append('news', b'x')\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, postgresql_url]
    ended = subprocess.run(command, check=True, capture_output=True)
    assert ended.stderr == b""


def test_nothing_is_left_of_a_closed_one(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    broker.append("news", b"x")
    broker.wake()
    broker.wait()
    broker.close()

    def sessions() -> int:
        with psycopg.connect(postgresql_url) as db:
            rows = db.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ssestream'"
                " AND datname = current_database()"
            ).fetchall()
        return int(rows[0][0])

    wait_until(lambda: sessions() == 0, "the sessions to end")
    assert broker.append("news", b"y").number == 2


def test_a_patched_process_goes_on_while_an_append_waits(postgresql_url: str) -> None:
    # psycopg was imported before the patch, and would hold up all greenlets.
    program = (
        "import sys, psycopg\n"
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent\n"
        "from ssestream.brokers import open_broker\n"
        "broker = open_broker(sys.argv[1])\n"
        "broker.append('news', b'1')\n"
        "holder = psycopg.connect(sys.argv[1])\n"
        "holder.execute('SELECT FROM ssestream.channels FOR UPDATE')\n"
        "waiter = gevent.spawn(broker.append, 'news', b'2')\n"
        "for _ in range(100):\n"
        "    gevent.sleep(0.001)\n"
        "assert not waiter.ready()\n"
        "holder.rollback()\n"
        "holder.close()\n"
        "assert waiter.get().number == 2\n"
        "broker.close()\n"
    )
    command = [sys.executable, "-c", program, postgresql_url]
    # It would wait for itself.
    subprocess.run(command, check=True, timeout=60)
