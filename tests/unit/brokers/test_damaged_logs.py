"""A log that another program has damaged is an error of its channel, and of no other.

Each test damages the log of one channel behind the broker's back. Then each call for this channel
does its work or raises `ChannelError`, and the other channel goes on.
"""

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssestream.brokers import open_broker
from ssestream.brokers.broker import (
    PLAIN,
    Bounds,
    Broker,
    ChannelEnded,
    ChannelError,
    Position,
    Refused,
    Slice,
    Terms,
)
from tests.kit.brokers import NEVER, all_closed, follow, frames
from tests.kit.redis_server import RedisServer

Open = Callable[[str], Broker]

#: All that a log may have beside its entries.
TERMS = Terms(lease=60, ttl=60, bounds=Bounds(100, 1000))


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(open_broker) as opened:
        yield opened


def news_of_both(broker: Broker, positions: dict[str, Position]) -> dict[str, Any]:
    follow(broker, positions)
    found: dict[str, Any] = {}
    while len(found) < 2:
        found |= broker.wait()
    return found


def check(broker: Broker, listening: Broker, damage: Callable[[], object]) -> list[str]:
    """The calls that are an error of the damaged channel."""
    ends = {}
    for name in ("good", "bad"):
        for n in range(3):
            ends[name] = broker.append(name, b"%d" % n, TERMS)
    bad = ends["bad"]
    damage()
    found = news_of_both(listening, dict.fromkeys(ends, NEVER))
    assert frames(found["good"]) == [b"0", b"1", b"2"]
    errors = ["wait"] if isinstance(found["bad"], ChannelError) else []
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: broker.read("bad", 0, 10, 1000),
        "state": lambda: broker.read("bad", 0, 0, 0),
        "append": lambda: broker.append("bad", b"3"),
        "append on terms": lambda: broker.append("bad", b"4", TERMS),
        "end": lambda: broker.append("bad", b"5", Terms(end=True)),
        "renew": lambda: broker.renew("bad", bad, 60),
        "keep": lambda: broker.keep("bad", Bounds(None, 60), 60),
        "keep more": lambda: broker.keep("bad", Bounds(50, None)),
        "delete": lambda: broker.delete("bad"),
    }
    for number, (name, call) in enumerate(calls.items(), 3):
        try:
            call()
        except ChannelError as error:
            errors += [name] * (error.channel == "bad")
        except (ChannelEnded, Refused):
            pass
        at = broker.append("good", b"%d" % number)
        assert at.number == number + 1
        piece = None
        while piece is None:
            piece = listening.wait().get("good")
        assert isinstance(piece, Slice)
        assert frames(piece) == [b"%d" % number]
        assert broker.renew("good", at, 60)
        broker.keep("good", Bounds(100, 1000), 60)
    return errors


# -- SQLite

#: A statement for the row of the channel, and whether this makes the log unreadable.
ROWS = [
    ("ttl = 'x'", True),
    ("ttl = x'00'", True),
    ("expires = 'x'", True),
    ("leased = 'x'", True),
    ("messages = 'x'", True),
    ("messages = 9223372036854775807", False),
    ("history = 'x'", True),
    ("history = 1.5", True),
    ("age = 'x'", True),
    ("ended = 'x'", True),
    ("at = 'x'", True),
    ("token = x'00'", True),
    ("token = CAST(x'ff' AS TEXT)", False),
    ("log = x'00'", True),
    ("log = CAST(x'ff' AS TEXT)", False),
    ("last = 9e999", True),
    ("last = 0", False),
    ("last = 9223372036854775807", False),
    # All channels share the number of the last change.
    ("change = 'x'", False),
    ("change = x'00'", False),
    ("change = 9e999", False),
    ("change = 1e9 + 0.5", False),
    ("change = 9223372036854775807", False),
    ("change = 0", False),
]


def done(url: str, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db, db:
        for each in statements:
            db.execute(each)


@pytest.mark.parametrize(("damage", "is_unreadable"), ROWS)
def test_a_damaged_row_in_sqlite(
    sqlite_url: str, opened: Open, damage: str, is_unreadable: bool
) -> None:
    statement = f"UPDATE channels SET {damage} WHERE name = 'bad'"
    broker, listening = opened(sqlite_url), opened(sqlite_url)
    errors = check(broker, listening, lambda: done(sqlite_url, statement))
    assert ({"wait", "read"} <= set(errors)) == is_unreadable, errors
    # A deletion mends everything.
    assert broker.append("bad", b"1").number == 1
    assert frames(broker.read("bad", 0, 10, 1000)) == [b"1"]


def test_a_log_in_sqlite_that_has_lost_its_row_alone(sqlite_url: str, opened: Open) -> None:
    broker = opened(sqlite_url)
    for name in ("good", "bad"):
        broker.append(name, b"1")
    done(sqlite_url, "DELETE FROM channels WHERE name = 'bad'")
    for name in ("good", "bad"):
        broker.append(name, b"2")
    assert frames(broker.read("good", 0, 10, 1000)) == [b"1", b"2"]
    assert frames(broker.read("bad", 0, 10, 1000)) == [b"2"]


def test_a_name_in_sqlite_that_no_channel_has(sqlite_url: str, opened: Open) -> None:
    broker = opened(sqlite_url)
    for name in ("good", "bad"):
        broker.append(name, b"1")
    done(sqlite_url, "UPDATE channels SET name = x'00ff', expires = 1 WHERE name = 'bad'")
    broker.append("good", b"2")
    assert frames(broker.read("good", 0, 10, 1000)) == [b"1", b"2"]


# -- Redis

KEY = "ssestream:{bad}"
BOUNDS = f"{KEY}:bounds"

#: Values that no field of the hash has.
WRONG = ["10.5", "1e9", "x", "nan", "inf", "-5", "9" * 400, "9" * 5000, b"\xff", " 7", "1-"]

#: The greatest number that Redis has for an entry.
LAST = 2**64 - 1


def wrong(field: str, value: str | bytes, client: Any) -> None:
    client.hset(BOUNDS, field, value)


def foreign(number: str, fields: dict[str, str], client: Any) -> None:
    """Let another program add an entry to the log."""
    log = client.xinfo_stream(KEY)["last-generated-id"].partition(b"-")[0].decode()
    client.xadd(KEY, fields, id=f"{log}-{number}")


ENTRY = {"f": "data: 1\n\n", "t": "1", "k": "abcdefgh", "m": "4"}

#: What is damaged, and whether this makes the log unreadable.
DAMAGES: dict[str, tuple[Callable[[Any], object], bool]] = {
    **{
        f"{field} {value[:9]!r}": (functools.partial(wrong, field, value), field != "ttl")
        for field in ("history", "age", "ended", "leased", "ttl")
        for value in WRONG
    },
    "no history": (lambda client: client.hdel(BOUNDS, "history"), False),
    "no age": (lambda client: client.hdel(BOUNDS, "age"), False),
    "no bounds": (lambda client: client.delete(BOUNDS), False),
    "bounds of another type": (
        lambda client: (client.delete(BOUNDS), client.set(BOUNDS, "x")),
        True,
    ),
    "another type": (lambda client: (client.delete(KEY), client.set(KEY, "x")), True),
    "no fields": (functools.partial(foreign, "4", {"a": "b"}), True),
    "no check": (functools.partial(foreign, "4", {"f": "x", "t": "1"}), True),
    "no time": (functools.partial(foreign, "4", ENTRY | {"t": "x"}), False),
    "a message that is no number": (functools.partial(foreign, "4", ENTRY | {"m": "nan"}), False),
    "the last number": (functools.partial(foreign, str(LAST), ENTRY), True),
}


@pytest.mark.server
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_value_in_redis(redis_server: RedisServer, opened: Open, damage: str) -> None:
    broker, listening = opened(redis_server.url), opened(redis_server.url)
    function, is_unreadable = DAMAGES[damage]
    with contextlib.closing(redis_server.client()) as client:
        errors = check(broker, listening, lambda: function(client))
    assert ({"wait", "read"} <= set(errors)) == is_unreadable, errors


@pytest.mark.server
@pytest.mark.parametrize("terms", [PLAIN, TERMS, Terms(end=True)])
@pytest.mark.parametrize("field", ["history", "age", "ended", "leased", "ttl"])
def test_an_append_to_a_damaged_log_in_redis_stores_nothing(
    redis_server: RedisServer, opened: Open, field: str, terms: Terms
) -> None:
    broker = opened(redis_server.url)
    broker.append("bad", b"1", TERMS)
    with contextlib.closing(redis_server.client()) as client:
        for value in WRONG:
            wrong(field, value, client)
            with pytest.raises(ChannelError, match=f"the log is damaged: {field}"):
                broker.append("bad", b"2", terms)
            assert client.xlen(KEY) == 1


@pytest.mark.server
def test_a_damaged_history_in_redis_is_mended_by_a_new_one(
    redis_server: RedisServer, opened: Open
) -> None:
    broker = opened(redis_server.url)
    broker.append("bad", b"1")
    with contextlib.closing(redis_server.client()) as client:
        wrong("history", "10.5", client)
        wrong("age", "x", client)
    with pytest.raises(ChannelError):
        broker.keep("bad", Bounds(None, 60))
    assert broker.keep("bad", Bounds(50, 60)) == Bounds(50, 60)
    broker.append("bad", b"2")
    assert frames(broker.read("bad", 0, 10, 1000)) == [b"1", b"2"]


# -- PostgreSQL


@pytest.mark.server
@pytest.mark.parametrize(
    "damage",
    ["last = 0", "last = 9223372036854775807", "first = 0", "messages = -5", "age = 'NaN'"],
)
def test_a_damaged_row_in_postgresql(postgresql_url: str, opened: Open, damage: str) -> None:
    from tests.kit.postgresql_server import change

    statement = f"UPDATE ssestream.channels SET {damage} WHERE name = 'bad'"
    broker, listening = opened(postgresql_url), opened(postgresql_url)
    errors = check(broker, listening, lambda: change(postgresql_url, statement))
    assert "append" in errors or not damage.startswith("last"), errors
