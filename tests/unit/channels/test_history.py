"""Reading back what a log keeps."""

from collections.abc import Callable
from typing import Any

import pytest

from ssestream import Channels
from ssestream.brokers.broker import CONTROL
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels.history import before_last, read_back
from tests.kit.following import Client, Following, data_of, numbers, publish
from tests.kit.insides import broker_of
from tests.kit.visit import on_threads_and_greenlets

Make = Callable[..., Channels]


def test_history_gives_the_last_messages_as_a_browser_would_see_them(channels: Channels) -> None:
    ids = publish(channels, "news", 600)
    assert channels.history("news", 2) == [
        {"id": ids[598], "data": "598"},
        {"id": ids[599], "data": "599"},
    ]
    assert data_of(channels.history("news")) == numbers(600)
    assert channels.history("news", 0) == []
    assert channels.history("nothing") == []


def test_history_counts_messages_and_no_words(channels: Channels) -> None:
    publish(channels, "news", 5)
    for key in range(5):
        channels.cut("news", key)
        channels.close_channel("news")
    publish(channels, "news", 5, 7)
    channels.close_channel("news")
    assert data_of(channels.history("news", 4)) == numbers(3, 7)
    assert data_of(channels.history("news", 100)) == numbers(7)


@on_threads_and_greenlets
def test_a_page_made_of_the_history_goes_on_without_a_hole(channels: Channels) -> None:
    publish(channels, "news", 5)
    page = channels.history("news", 3)
    publish(channels, "news", 5, 8)
    with Client(Following(channels, "news", since=page[-1]["id"])) as client:
        publish(channels, "news", 8, 10)
        assert data_of(page) + data_of(client.take(5)) == numbers(2, 10)


class Counting(MemoryBroker):
    """One that counts how often, and how many entries at most, it was read."""

    reads = most = 0

    def read(self, *args: Any) -> Any:
        piece = super().read(*args)
        self.reads += 1
        self.most = max(self.most, len(piece.entries))
        return piece


def test_few_reads_pass_over_thousands_of_control_frames() -> None:
    broker = Counting()
    for number in range(3):
        broker.append("news", b"data: %d\n\n" % number)
    for _ in range(9_000):
        broker.append("news", CONTROL + b"cut 'ann'")
    assert data_of(read_back(broker, "news", 2)) == numbers(1, 3)
    assert broker.reads < 60
    assert broker.most <= 256
    state = broker.read("news", 0, 0, 0)
    before = before_last(broker, "news", state, 2)
    assert before is not None
    assert before.number == 1
    # With too few reads it is not known.
    broker.reads = 0
    assert before_last(broker, "news", state, 2, reads=4) is None
    assert broker.reads == 4


@pytest.mark.parametrize(
    ("count", "number"), [(1, 6), (2, 2), (3, 1), (4, 0), (100, 0)], ids=lambda each: str(each)
)
def test_the_last_messages_are_counted_without_control_frames(
    channels: Channels, count: int, number: int
) -> None:
    publish(channels, "news", 3)
    for _ in range(3):
        channels.cut("news", "ann")
    publish(channels, "news", 3, 4)
    channels.close_channel("news")
    broker = broker_of(channels)
    state = broker.read("news", 0, 0, 0)
    # Later messages are not among them.
    publish(channels, "news", 4, 5)
    before = before_last(broker, "news", state, count)
    assert before is not None
    assert (before.log, before.number) == (state.log, number)


def test_the_place_before_no_message_is_the_end(channels: Channels) -> None:
    broker = broker_of(channels)
    empty = broker.read("news", 0, 0, 0)
    assert before_last(broker, "news", empty, 3) == empty.end
    channels.cut("news", "ann")
    state = broker.read("news", 0, 0, 0)
    assert before_last(broker, "news", state, 3) == state.end
