"""What the broker of PostgreSQL removes: all that nobody reads any more, a few rows at a time."""

import itertools
from collections.abc import Callable, Iterator

import psycopg
import pytest

from ssestream.brokers.broker import Bounds, Terms
from ssestream.brokers.postgresql import PostgresqlBroker, broker
from ssestream.brokers.postgresql.deletion import ROUND, SWEPT
from tests.kit.brokers import NEVER, Elsewhere, all_closed, everything, follow, next_news
from tests.kit.postgresql_server import change
from tests.kit.promptness import in_one_try
from tests.kit.servers import wait_until

Open = Callable[..., PostgresqlBroker]


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


def rows_of(url: str, table: str = "events", where: str = "true") -> int:
    with psycopg.connect(url) as db:
        rows = db.execute(f"SELECT count(*) FROM ssestream.{table} WHERE {where}").fetchall()
    return int(rows[0][0])


def fill(url: str, *names: str, count: int = 3000, **columns: str) -> None:
    """Make logs of *count* entries that are an hour old. *columns* are those of the channel."""
    columns = {"history": "10000", **columns}
    for name in names:
        change(
            url,
            f"INSERT INTO ssestream.channels (name, log, last, messages, {', '.join(columns)})"
            f" VALUES ('{name}', 'abcd', {count}, {count}, {', '.join(columns.values())})",
            "INSERT INTO ssestream.events"
            " SELECT id, n, ssestream.seconds() - 3600, n, 'abcdef', 'old'"
            f" FROM ssestream.channels, generate_series(1, {count}) n WHERE name = '{name}'",
        )


def count_removed(url: str) -> Callable[[], list[int]]:
    """Give a function that says how many entries each transaction has removed until then."""
    change(
        url,
        "CREATE TABLE counted (removed bigint, by xid8)",
        "CREATE FUNCTION count_removed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO counted SELECT count(*), pg_current_xact_id() FROM gone;"
        " RETURN NULL; END $$",
        "CREATE TRIGGER counts AFTER DELETE ON ssestream.events REFERENCING OLD TABLE AS gone"
        " FOR EACH STATEMENT EXECUTE FUNCTION count_removed()",
    )

    def removed() -> list[int]:
        with psycopg.connect(url) as db:
            rows = db.execute("SELECT sum(removed) FROM counted GROUP BY by ORDER BY by")
            return [int(row[0]) for row in rows if row[0]]

    return removed


def let_one_come_in_between(url: str) -> Callable[[], int]:
    """Let no transaction but the first remove entries until ``new`` is appended, or waits for that.

    Returns a function that says how many old entries there were when ``new`` came.
    """
    change(
        url,
        "CREATE TABLE found (old bigint)",
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " WHILE (SELECT count(DISTINCT by) FROM counted) > 1"
        " AND NOT EXISTS (SELECT FROM ssestream.events WHERE frame = 'new')"
        " AND NOT EXISTS (SELECT FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()) LOOP"
        " PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot();"
        " END LOOP; RETURN NULL; END $$",
        "CREATE TRIGGER holds AFTER DELETE ON ssestream.events"
        " FOR EACH STATEMENT EXECUTE FUNCTION hold()",
        "CREATE FUNCTION find() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO found SELECT count(*) FROM ssestream.events WHERE frame = 'old';"
        " RETURN NULL; END $$",
        "CREATE TRIGGER finds AFTER INSERT ON ssestream.events"
        " FOR EACH ROW WHEN (NEW.frame = 'new') EXECUTE FUNCTION find()",
    )

    def found() -> int:
        with psycopg.connect(url) as db:
            ((old,),) = db.execute("SELECT old FROM found").fetchall()
        return int(old)

    return found


# -- how much at a time


def test_a_smaller_history_frees_the_rest_in_small_transactions(
    postgresql_url: str, opened: Open
) -> None:
    fill(postgresql_url, "news")
    removed = count_removed(postgresql_url)
    assert opened(postgresql_url).keep("news", Bounds(5)) == Bounds(5)
    assert rows_of(postgresql_url) == 5
    assert removed() == [500] * 5 + [495]


def test_a_lower_age_frees_the_old_in_small_transactions(postgresql_url: str, opened: Open) -> None:
    fill(postgresql_url, "news")
    removed = count_removed(postgresql_url)
    assert opened(postgresql_url).keep("news", Bounds(10_000, 60)) == Bounds(10_000, 60)
    assert rows_of(postgresql_url) == 0
    assert removed() == [500] * 6


def test_old_entries_of_several_logs_are_freed_in_small_transactions(
    postgresql_url: str, opened: Open
) -> None:
    fill(postgresql_url, *(f"user/{n}" for n in range(12)), count=250, age="60")
    removed = count_removed(postgresql_url)
    # The first append of a process also frees what nobody reads.
    opened(postgresql_url).append("other", b"x")
    assert removed() == [SWEPT] * ROUND
    for _ in range(2):
        opened(postgresql_url).append("other", b"x")
    assert max(removed()) == SWEPT
    assert rows_of(postgresql_url, where="frame = 'old'") == 0


def test_old_entries_and_an_expired_log_are_freed_by_separate_transactions(
    postgresql_url: str, opened: Open
) -> None:
    fill(postgresql_url, "news", count=400, age="60")
    fill(postgresql_url, "job", count=400, ttl="60", expires="1")
    removed = count_removed(postgresql_url)
    opened(postgresql_url).append("other", b"x")
    assert removed() == [400, 400]


@pytest.mark.parametrize("how", ["expired", "deleted"])
def test_a_log_that_is_gone_is_freed_in_small_transactions(
    how: str, postgresql_url: str, opened: Open
) -> None:
    columns = {"ttl": "60", "expires": "1"} if how == "expired" else {}
    fill(postgresql_url, "job", **columns)
    removed = count_removed(postgresql_url)
    if how == "deleted":
        opened(postgresql_url).delete("job")
    else:
        for _ in range(2):
            opened(postgresql_url).append("other", b"x")
    assert removed() == [500] * 6
    assert rows_of(postgresql_url, "channels", "name IS DISTINCT FROM 'other'") == 0


@pytest.mark.parametrize("how", ["history", "age", "old", "expired"])
def test_an_append_meanwhile_waits_for_one_small_transaction_at_most(
    how: str, postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = opened(postgresql_url)
    with monkeypatch.context() as patch:
        # It would remove some itself.
        patch.setattr(broker, "LOOK", 3600.0)
        publisher.append("other", b"x")
    columns = {"old": {"age": "60"}, "expired": {"ttl": "60", "expires": "1"}}.get(how, {})
    removed = count_removed(postgresql_url)
    found = let_one_come_in_between(postgresql_url)
    names = (f"news/{number}" for number in itertools.count())

    def meanwhile() -> tuple[bool, int]:
        name, remover = next(names), opened(postgresql_url)
        change(postgresql_url, "TRUNCATE ssestream.events, counted, found")
        fill(postgresql_url, name, **columns)
        if how in ("history", "age"):
            bounds = Bounds(5) if how == "history" else Bounds(10_000, 60)
            work = Elsewhere(remover.keep, name, bounds)
        else:
            work = Elsewhere(remover.append, "other", b"x")
        wait_until(removed, "the first transaction")
        appended = publisher.append(name, b"new")
        assert appended.number == (1 if how == "expired" else 3001)
        work.result()
        assert max(removed()) == SWEPT
        assert everything(publisher, name).last == appended.number
        # It came in between.
        return found() > 1000, found()

    # PostgreSQL gives a row that is free again to whoever asks first. On a busy machine this may
    # be the remover, several times.
    in_one_try(meanwhile)


# -- what it costs


def test_many_small_logs_are_freed_together(postgresql_url: str, opened: Open) -> None:
    publisher = opened(postgresql_url)
    for n in range(100):
        publisher.append(f"job/{n}", b"x", Terms(ttl=3600))
        publisher.append(f"user/{n}", b"x", Terms(bounds=Bounds(10, 3600)))
    change(
        postgresql_url,
        "UPDATE ssestream.channels SET expires = 1 WHERE expires IS NOT NULL",
        "UPDATE ssestream.events SET at = 1",
    )
    opened(postgresql_url).append("other", b"x")
    assert rows_of(postgresql_url) == 1
    assert rows_of(postgresql_url, "channels") == 101


def test_logs_that_live_on_cost_a_look_for_expired_ones_nothing(
    postgresql_url: str, opened: Open
) -> None:
    live = "(name, log, history, ttl, expires) SELECT 'job/' || n, 'abcd', 10, 60, 4e9"
    change(
        postgresql_url,
        f"INSERT INTO ssestream.channels {live} FROM generate_series(1, 10000) n",
        "ANALYZE ssestream.channels",
    )
    with psycopg.connect(postgresql_url) as db:
        assert db.execute("SELECT ssestream.sweep(500)").fetchone() == (False,)
        row = db.execute(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
            " WHERE relname = 'channels'"
        ).fetchone()
    assert row is not None
    assert row[0] < 10


# -- what is freed


@pytest.mark.long
def test_the_table_holds_little_more_than_the_history(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url, 10)
    for n in range(300):
        broker.append("news", b"%d" % n)
        assert rows_of(postgresql_url) < 10 + 17


def test_an_append_removes_a_few_at_most(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    for n in range(100):
        broker.append("news", b"%d" % n)
    change(postgresql_url, "UPDATE ssestream.channels SET history = 10")
    left = []
    for _ in range(5):
        broker.append("news", b"x")
        left.append(rows_of(postgresql_url))
        # Nobody is shown the others.
        assert len(everything(broker, "news").entries) == 10
    assert left == [69, 38, 10, 11, 12]


@pytest.mark.long
def test_what_is_old_is_freed_though_nothing_comes_and_nobody_asks(
    postgresql_url: str, opened: Open
) -> None:
    broker = opened(postgresql_url, history_age=0.05)
    names = [f"user/{n}" for n in range(250)]
    for name in names:
        broker.append(name, b"x")
    follow(broker, {"other": NEVER})
    waiter = Elsewhere(next_news, broker)
    wait_until(lambda: rows_of(postgresql_url) == 0, "the rows to be freed")
    assert [everything(broker, name)[1:4] for name in names] == [(2, 1, [])] * 250
    broker.append("other", b"x")
    waiter.result()


@pytest.mark.long
def test_an_expired_log_is_freed_though_nobody_asks(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    for n in range(30):
        broker.append(f"job/{n}", b"x", Terms(ttl=0.05))
    follow(broker, {"other": NEVER})
    waiter = Elsewhere(next_news, broker)
    wait_until(lambda: rows_of(postgresql_url, "channels") == 0, "the rows to be freed")
    broker.append("other", b"x")
    waiter.result()
