"""Control frames, the keys in them, and entries on their way."""

import copy
import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import flask
import pytest
from werkzeug.local import LocalProxy

from ssestream import Channels, Runs, SseStream
from ssestream.brokers.broker import CONTROL, Entry, Position, Slice
from ssestream.channels.publication import (
    CUT,
    SMALL,
    News,
    Publication,
    batches_of,
    cut_frame,
    passed,
    publications_of,
)
from ssestream.wire import Decoder, encode
from tests.kit.following import Client, Following, data_of

Make = Callable[..., Channels]


def test_nobody_is_cut_by_no_key() -> None:
    with pytest.raises(ValueError, match="key"):
        Channels().cut("news", None)
    with pytest.raises(ValueError, match="key"):
        Channels().cut("news", LocalProxy(lambda: None))


def test_a_key_is_what_a_proxy_stands_for_when_it_is_given(local: Make) -> None:
    channels = local()
    user: list[Any] = [7]
    key: Any = LocalProxy(lambda: user[0])
    with (
        Client(Following(channels, "news", key=key)) as bare,
        Client(Following(channels, "news", key=LocalProxy(lambda: key))) as twice,
        Client(Following(channels, "news", key=("user", key))) as inside,
    ):
        user[0] = None
        with Client(Following(channels, "news", key=key)) as keyless:
            user.clear()  # as a proxy is when its request is over
            channels.cut("news", 7)
            channels.cut("news", ("user", 7))
            for client in (bare, twice, inside):
                assert client.all() == []
            user.append(8)
            with Client(Following(channels, "news", key=8)) as by_proxy:
                channels.cut("news", key)
                assert by_proxy.all() == []
            channels.publish("news", {"data": "still"})
            assert data_of(keyless.take(1)) == ["still"]


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("the session is closed")


class User:
    def get_id(self) -> int:
        return 7


class Inherited:
    def __repr__(self) -> str:
        return super().__repr__()


class Transient:
    """As an object of SQLAlchemy that is not stored yet."""

    def __repr__(self) -> str:
        return f"<User (transient {id(self)})>"


@dataclasses.dataclass(frozen=True)
class Grouped:
    user: object


class Role(enum.Enum):
    EDITOR = "looks at 0x7f3a"


class Named(NamedTuple):
    user: object


@pytest.mark.parametrize("key", [Broken(), flask.g], ids=["broken", "proxy"])
def test_a_key_whose_repr_fails_is_refused(local: Make, key: Any) -> None:
    channels = local()
    with pytest.raises(ValueError, match="key must have a repr"):
        channels.subscribe(SseStream(), "news", key=key)
    with pytest.raises(ValueError, match="key must have a repr"):
        channels.cut("news", key)
    assert channels.statistics() == {}


#: A cut with such a key would reach no other process, and often nobody at all.
UNKNOWN_ELSEWHERE: dict[str, Any] = {
    "by its place": object(),
    "in a tuple": ("user", object()),
    "in a tuple of tuples": (("user", Transient()), 7),
    "a method that is not called": User().get_id,
    "a method of C": {}.get,
    "a function": lambda: 7,
    "a class of a class": Inherited(),
    "transient": Transient(),
    "a mock": Mock(),
    "a mock in a tuple": ("user", Mock()),
    "in a dataclass": Grouped(User()),
    "in a named tuple": Named(User()),
    "in a set": frozenset({User()}),
    "a set": frozenset({"a", "b"}),
    "a set in a dataclass": Grouped(frozenset({"a", "b"})),
    "proxy": LocalProxy(User),
}


@pytest.mark.parametrize("key", UNKNOWN_ELSEWHERE.values(), ids=UNKNOWN_ELSEWHERE)
def test_a_key_that_no_other_process_knows_is_refused(local: Make, key: Any) -> None:
    channels = local()
    runs = Runs(channels)
    for call in (
        lambda: channels.subscribe(SseStream(), "news", key=key),
        lambda: channels.cut("news", key),
        lambda: runs.start([], key=key),
    ):
        with pytest.raises(TypeError, match="it is an id, such as a str or an int"):
            call()
    assert channels.statistics() == {}


@pytest.mark.parametrize(
    "key",
    [
        "user:7",
        "<User object at 0x7fa94bb4cf40>",
        'it\'s "at 0x7fa9" and frozenset({',
        "\\' at 0x7f",
        b" at 0x7f",
        7,
        2**70,
        True,
        1.5,
        uuid.UUID(int=2**100),
        datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        decimal.Decimal("1.5"),
        Path("/a at 0x7f"),
        ("user", 7, (None, "' at 0x7f")),
        Role.EDITOR,
        Grouped("' at 0x7f"),
        Named(" at 0x7f"),
        (),
    ],
    ids=repr,
)
def test_a_key_that_every_process_knows_is_taken(local: Make, key: Any) -> None:
    channels = local()
    with Client(Following(channels, "news", key=key)) as client:
        channels.cut("news", copy.deepcopy(key))
        assert client.all() == []


# -- entries on their way


def entry(number: int, data: object = "x", check: str = "") -> Entry:
    return Entry(number, encode({"data": data}), check or f"{number:06x}")


def publications(*numbers: int) -> list[Publication]:
    return publications_of(Slice("log", 1, 9, [entry(number) for number in numbers]))


def test_the_forms_of_an_entry_are_made_once_and_have_its_id() -> None:
    (one,) = publications(3)
    assert one.position == Position("log", 3, "000003")
    assert one.single("news") is one.single("news")
    assert Decoder().feed(one.single("news")) == [{"id": "news=log.3.000003", "data": "x"}]
    message = one.message()
    assert message == {"data": "x"}
    # Each caller gets one of its own.
    message["data"] = "changed"
    assert one.message() == {"data": "x"}


def test_an_entry_that_is_no_message_is_left_out_and_told_once_a_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = [Publication("damaged log", Entry(number, b"garbage")) for number in (1, 2)]
    assert all(each.is_control for each in made)
    assert not any(each.frame == b"garbage" for each in made)
    (record,) = caplog.records
    assert "entry 1 of the log damaged log is not a message" in record.getMessage()


@pytest.mark.parametrize(
    ("at", "count"),
    [
        (Position("log", 4), 0),
        (Position("log", 5, "000005"), 1),
        (Position("log", 7), 3),
        (Position("log", 8), 4),
        # Behind, beyond the log, in another past, in another log.
        (Position("log", 3), None),
        (Position("log", 10), None),
        (Position("log", 5, "ffffff"), None),
        (Position("other", 5), None),
        (Position("", 0), None),
    ],
)
def test_how_many_of_them_a_stream_has_passed(at: Position, count: int | None) -> None:
    assert passed(at, Position("log", 4), publications(5, 6, 7), 9) == count


def test_a_log_that_has_just_begun_has_nothing_before_it() -> None:
    assert passed(Position("", 0), Position("log", 0), publications(1), 1) == 0


def test_small_entries_are_joined_and_keep_their_ends() -> None:
    made = publications(5, 6, 7)
    (batch,) = batches_of("news", Position("log", 4), made)
    assert (batch.before, batch.after, batch.messages) == (Position("log", 4), made[-1].position, 3)
    assert batch.frames == b"".join(each.single("news") for each in made)
    size, _, rest = batch.chunk().partition(b"\r\n")
    assert rest == batch.frames + b"\r\n"
    assert int(size, 16) == len(batch.frames)


def test_batches_are_bounded_and_follow_each_other() -> None:
    entries = [entry(number, "x" * (SMALL // 3)) for number in range(1, 10)]
    made = publications_of(Slice("log", 1, 9, entries))
    batches = batches_of("news", Position("log", 0), made)
    assert len(batches) == 3
    assert [each.before for each in batches[1:]] == [each.after for each in batches[:-1]]
    assert sum(each.messages for each in batches) == 9


@pytest.mark.parametrize("frame", [CONTROL + b"close", encode({"data": "x" * 2 * SMALL})])
def test_one_that_must_go_alone_leaves_no_batch(frame: bytes) -> None:
    entries = [entry(1), Entry(2, frame), entry(3)]
    made = publications_of(Slice("log", 1, 3, entries))
    assert batches_of("news", Position("log", 0), made) == []


def test_news_say_what_they_follow_and_what_was_cut() -> None:
    here = Position("log", 4, "000004")
    word = cut_frame("key")
    assert word is not None
    assert word.startswith(CUT)
    entries = [entry(5), Entry(6, word, "000006"), entry(7)]
    news = News("news", Slice("log", 1, 7, entries, "000004", "000007"), here)
    assert news.before is here
    assert news.end == Position("log", 7, "000007")
    assert [each.number for each in news.cuts] == [6]
    assert news.continues(here)
    assert news.continues(Position("log", 6))
    assert not news.continues(Position("log", 3))
    assert not news.continues(None)
    assert not news.may_miss_cut


def test_news_of_a_log_that_lost_its_end_follow_nothing() -> None:
    here = Position("log", 9, "000009")
    news = News("news", Slice("log", 1, 7, [], "", "000007"), here)
    assert news.has_lost_end
    assert news.may_miss_cut
    assert not news.continues(Position("log", 7))
    assert news.ends_before(here)
    assert not news.ends_before(Position("log", 7))


def test_a_key_is_told_by_its_repr() -> None:
    assert cut_frame(None) is None
    assert cut_frame(7) == CUT + b"7"
    assert cut_frame(("user", 7)) == CUT + b"('user', 7)"
    assert cut_frame("7") != cut_frame(7)
