"""What a cursor knows of its stream's way through a log."""

import asyncio
import concurrent.futures
import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import gevent
import gevent.event
import pytest
from werkzeug.local import LocalProxy

from ssestream import Channels, SseStream
from ssestream.brokers.broker import Entry, Position
from ssestream.channels.cursor import Cursor
from ssestream.channels.ids import UNKNOWN
from ssestream.channels.publication import CLOSE, Publication, cut_frame
from tests.kit.insides import listener_of

LOG = "a"


def cursor_of(filter: Callable[..., Any] | None = None, key: str | None = None) -> Cursor:
    """The cursor of a stream that has just subscribed to an empty channel."""
    channels = Channels()
    channels.subscribe(SseStream(), "news", filter=filter, key=key)
    tail = listener_of(channels).tails.get("news")
    assert tail is not None
    (cursor,) = tail.cursors
    return cursor


def publications(*frames: bytes, after: int = 0) -> list[Publication]:
    return [
        Publication(LOG, Entry(number, frame)) for number, frame in enumerate(frames, after + 1)
    ]


def events(count: int, after: int = 0) -> list[Publication]:
    return publications(*(b"data: %d\n\n" % number for number in range(count)), after=after)


@pytest.mark.parametrize(
    ("at", "count"),
    [
        (None, 0),
        (Position("another", 7), 0),
        (Position(LOG, 2), 0),
        (Position(LOG, 3), 0),
        (Position(LOG, 5), 2),
        (Position(LOG, 6), 3),
        (Position(LOG, 9), 6),
    ],
)
def test_it_has_passed_what_is_up_to_its_position(at: Position | None, count: int) -> None:
    cursor = cursor_of()
    cursor.go_to(at)
    assert cursor.passed(events(3, after=3)) == count
    assert cursor.passed([]) == 0


def test_a_filter_withholds_events_by_their_number_and_no_control_frame() -> None:
    cursor = cursor_of(filter=lambda message: message["data"] == "1")
    frames = [b"data: 0\n\n", CLOSE, b"data: 1\n\n", b"data: 2\n\n"]
    assert set(cursor.unwanted(publications(*frames, after=10))) == {11, 14}


def test_a_filter_that_fails_withholds(caplog: pytest.LogCaptureFixture) -> None:
    def filter(message: dict[str, Any]) -> bool:
        if message["data"] == "0":
            raise ValueError("cannot tell")
        return True

    cursor = cursor_of(filter=filter)
    assert set(cursor.unwanted(events(2))) == {1}
    assert "cannot tell" in caplog.text
    assert "filter" in caplog.text


async def coroutine() -> bool:
    return True


class Awaitable:
    def __await__(self) -> Iterator[Any]:
        yield


#: Each makes an object that is true, and that says nothing of a message.
UNANSWERED: dict[str, Callable[[], object]] = {
    "coroutine": coroutine,
    "awaitable": Awaitable,
    "asyncio future": lambda: asyncio.Future(loop=Mock()),
    "future": concurrent.futures.Future,
    "greenlet": lambda: gevent.spawn(bool),
    "result of gevent": gevent.event.AsyncResult,
    "generator": lambda: (each for each in [False]),
    "iterator": lambda: map(bool, [0]),
    "function": lambda: lambda message: False,
    "method": lambda: Awaitable().__await__,
    "proxy": lambda: LocalProxy(Awaitable),
}


@pytest.mark.parametrize("make", UNANSWERED.values(), ids=UNANSWERED)
def test_a_filter_that_does_not_answer_withholds(
    make: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    cursor = cursor_of(filter=lambda message: make())
    assert set(cursor.unwanted(events(2))) == {1, 2}
    assert caplog.text.count("TypeError: a filter must return yes or no, and returned a ") == 2


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (re.match("a", "a"), True),
        (None, False),
        ("yes", True),
        (0, False),
        (1, True),
        ({}, False),
        (object(), True),
        (LocalProxy(lambda: 7), True),
        (LocalProxy(lambda: ""), False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_filter_may_answer_with_any_value(answer: object, passes: bool) -> None:
    cursor = cursor_of(filter=lambda message: answer)
    assert (not cursor.unwanted(events(1))) is passes


def test_a_filter_cannot_change_what_others_get() -> None:
    def filter(message: dict[str, Any]) -> bool:
        message["data"] = "changed"
        return True

    cursor, (event,) = cursor_of(filter=filter), events(1)
    assert not cursor.unwanted([event])
    assert event.message() == {"data": "0"}


@pytest.mark.parametrize(
    ("subscribed_at", "is_ended_by"),
    [
        (None, True),
        (Position(LOG, 4), True),
        (Position(LOG, 5), False),
        (Position("another", 5), True),
    ],
)
def test_a_control_frame_from_before_it_came_does_not_end_it(
    subscribed_at: Position | None, is_ended_by: bool
) -> None:
    cursor = cursor_of(key="mine")
    cursor.subscribe_at(subscribed_at)
    mine, theirs = cut_frame("mine"), cut_frame("theirs")
    assert mine is not None
    assert theirs is not None
    for frame in (CLOSE, mine):
        (publication,) = publications(frame, after=4)
        assert cursor.is_ended_by(publication) == is_ended_by
    (other,) = publications(theirs, after=4)
    assert not cursor.is_ended_by(other)
    assert not cursor.is_cut(other)


def test_no_cut_is_for_a_stream_without_a_key() -> None:
    frame = cut_frame("mine")
    assert frame is not None
    cursor = cursor_of()
    (cut,) = publications(frame)
    assert not cursor.is_cut(cut)


def test_it_counts_what_it_got_and_what_it_missed() -> None:
    cursor = cursor_of()
    cursor.count(3, 2)
    cursor.count(1, 0)
    cursor.advance(events(1)[0].place, 5)
    cursor.note_gap(Position(LOG, 8))
    assert (cursor.delivered, cursor.replayed, cursor.gaps) == (9, 2, 1)
    assert cursor.position == Position(LOG, 1)
    assert cursor.snapshot_at == Position(LOG, 8)


def test_one_that_has_lost_its_place_has_no_snapshot_either() -> None:
    cursor = cursor_of()
    cursor.note_gap(Position(LOG, 8))
    cursor.lose_place()
    assert cursor.position == cursor.snapshot_at == UNKNOWN


def test_one_that_is_complicated_stays_where_it_is() -> None:
    cursor = cursor_of()
    cursor.go_to(Position(LOG, 3))
    cursor.simplify()
    assert cursor.simple
    cursor.complicate()
    assert not cursor.simple
    assert cursor.position == Position(LOG, 3)
