"""The end of each log here, and its figures."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ssestream import Channels, SseStream
from ssestream.brokers.broker import Bounds, Entry, Position, Slice
from ssestream.channels import tail as tails
from ssestream.channels.cursor import Cursor
from ssestream.channels.publication import News
from ssestream.channels.statistics import ChannelStatistics
from ssestream.channels.tail import Tail
from ssestream.wire import encode
from tests.kit.following import Client, Following, publish
from tests.kit.promptness import at_best
from tests.kit.states import nothing_remains
from tests.kit.visit import until

Make = Callable[..., Channels]


def test_statistics_add_up(channels: Channels) -> None:
    ids = publish(channels, "news", 10)
    app = Following(channels, "news", "sports")
    assert channels.statistics() == {}
    with Client(app, last_id=ids[3]) as one:
        one.take(6)
        with Client(app) as other:
            # What comes before that is replayed.
            until(lambda: not channels.statistics()["news"].lagging, "all to be live")
            publish(channels, "news", 10, 13)
            one.take(9)
            other.take(3)
            assert channels.statistics() == {
                "news": ChannelStatistics(
                    subscribers=2, delivered=12, replayed=6, lagging=0, gaps=0, published=3
                ),
                "sports": ChannelStatistics(2, 0, 0, 0, 0, 0),
            }
        until(lambda: channels.channel("news").subscribers == 1, "one to leave")
        assert channels.channel("news").statistics().delivered == 12
    nothing_remains(channels)
    assert channels.channel("news").statistics() == ChannelStatistics(0, 0, 0, 0, 0, 0)


# -- the end of a log


def test_what_an_end_costs_does_not_depend_on_how_many_have_passed_it() -> None:
    """Twenty thousand streams pass the end of one log."""
    subscription = SimpleNamespace(flow=None)
    cursors = [Cursor(subscription, "job", None, None, None) for _ in range(20_000)]
    tail = Tail("job")

    def pass_by() -> float:
        began = time.process_time()
        for cursor in cursors:
            tail.finish(cursor)
        assert all(map(tail.has_finished, cursors))
        for cursor in cursors:
            tail.take_up(cursor)
        assert not any(map(tail.has_finished, cursors))
        return time.process_time() - began

    at_best(pass_by, 2)


# -- the last entries


def advanced(tail: Tail, *numbers: int, log: str = "log", bounds: Bounds | None = None) -> None:
    """Let *tail* hear of the entries *numbers*."""
    entries = [Entry(number, encode({"data": number}), f"{number:06x}") for number in numbers]
    last = numbers[-1]
    check = f"{numbers[0] - 1:06x}" if numbers[0] > 1 else ""
    piece = Slice(log, 1, last, entries, check, f"{last:06x}", bounds or Bounds(1000))
    tail.advance(News(tail.name, piece, tail.position))


def after(tail: Tail, number: int, log: str = "log") -> list[int] | None:
    found = tail.after(Position(log, number))
    return None if found is None else [each.number for each in found]


def begun(number: int = 0) -> Tail:
    tail = Tail("news")
    tail.begin(Position("log", number, f"{number:06x}" if number else ""))
    return tail


def test_it_begins_once_and_moves_with_the_news() -> None:
    tail = begun(4)
    tail.begin(Position("log", 9))
    assert tail.position == Position("log", 4, "000004")
    advanced(tail, 5, 6)
    assert tail.position == Position("log", 6, "000006")


def test_what_it_keeps_is_read_without_the_broker() -> None:
    tail = begun(4)
    advanced(tail, 5, 6)
    advanced(tail, 7)
    assert [after(tail, number) for number in (4, 5, 6, 7)] == [[5, 6, 7], [6, 7], [7], []]
    assert after(tail, 3) is None
    assert after(tail, 8) is None
    assert after(tail, 5, log="other") is None
    assert Tail("news").after(Position("log", 0)) is None


def test_behind_a_hole_it_begins_anew() -> None:
    tail = begun(4)
    advanced(tail, 5)
    advanced(tail, 8, 9)
    assert after(tail, 4) is None
    assert after(tail, 7) == [8, 9]


def test_it_keeps_no_more_than_its_log_and_than_its_own_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tail = begun()
    advanced(tail, *range(1, 11), bounds=Bounds(3))
    assert after(tail, 6) is None
    assert after(tail, 7) == [8, 9, 10]
    monkeypatch.setattr(tails, "RECENT", 2)
    advanced(tail, 11)
    assert [each.number for each in tail.recent] == [10, 11]
    monkeypatch.setattr(tails, "RECENT_BYTES", len(encode({"data": 12})))
    advanced(tail, 12)
    assert [each.number for each in tail.recent] == [12]


def test_it_keeps_nothing_that_is_too_old_for_its_log() -> None:
    tail = begun()
    advanced(tail, 1, 2, bounds=Bounds(1000, 60.0))
    tail.recent[0].came_at -= 61
    assert after(tail, 0) is None
    assert after(tail, 1) == [2]


def test_the_counts_of_those_who_leave_stay(local: Make) -> None:
    channels = local()
    streams: list[Any] = [SseStream() for _ in range(2)]
    for stream in streams:
        channels.subscribe(stream, "news")
    channels.publish("news", {"data": "x"})
    until(lambda: channels.statistics()["news"].delivered == 2, "both to have it")
    streams[0].destroy()
    until(lambda: channels.statistics()["news"].subscribers == 1, "one to leave")
    assert channels.statistics()["news"].delivered == 2
