"""Many channels with a stream each, which come and go as the broker does."""

import gc
import itertools
import random
import time
import tracemalloc
from typing import Any

import pytest

from ssestream import BrokerError, Channels, SseStream
from ssestream.brokers import open_broker
from ssestream.brokers.broker import News, Slice
from ssestream.channels import listener
from tests.kit.brokers import Elsewhere
from tests.kit.insides import over
from tests.kit.states import idle
from tests.kit.visit import until
from tests.unit.channels.test_listener import Piece

#: Followers that leave and come back before the broker goes or comes again.
COMERS = 20


class Away:
    """Lets reads of *broker* and waits fail, and work again."""

    def __init__(self, broker: Any) -> None:
        self.is_away = False
        #: How often it was away.
        self.outages = 0
        self._broker = broker
        self._read, self._wait = broker.read, broker.wait
        broker.read, broker.wait = self.read, self.wait

    def read(self, *args: Any) -> Slice:
        self._check()
        piece: Slice = self._read(*args)
        return piece

    def wait(self) -> News:
        self._check()
        found: News = self._wait()
        try:
            self._check()
        except BrokerError:
            # An error takes no news away.
            for name, piece in found.items():
                if isinstance(piece, Slice) and piece.after is not None:
                    self._broker.follow(name, piece.after)
            raise
        return found

    def _check(self) -> None:
        if self.is_away:
            raise BrokerError("not now")

    def turn(self) -> None:
        self.is_away = not self.is_away
        self.outages += self.is_away
        self._broker.wake()


class Follower:
    def __init__(self, channels: Channels, name: str) -> None:
        self.name = name
        self.seen: list[str] = []
        self.gaps: list[str] = []
        self._channels = channels
        # Begin before the first event, whenever the first visit is.
        self._last_id = f"{name}=.0"
        self.come()

    def come(self) -> None:
        self._piece = Piece()
        self._piece.allow(10**9)
        self._stream = SseStream()
        self._stream.on("gap", self.gaps.append)
        self._stream.pipe(self._piece)
        self._channels.subscribe(self._stream, self.name, since=self._last_id)

    def leave(self) -> None:
        self._piece.leave()
        self._stream.destroy()
        self.take()

    def take(self) -> int:
        while self._piece.messages:
            message = self._piece.messages.pop(0)
            self._last_id = message["id"]
            if "data" in message:
                self.seen.append(message["data"])
        return len(self.seen)


@pytest.mark.long_except("memory-300-20")
@pytest.mark.parametrize(
    ("kind", "count", "events"),
    [
        ("memory", 300, 20),
        ("sqlite", 300, 8),
        ("postgresql", 300, 4),
        pytest.param("memory", 5000, 3, marks=pytest.mark.long),
        pytest.param("sqlite", 5000, 1, marks=pytest.mark.long),
    ],
)
def test_nothing_is_lost_and_nothing_comes_twice_in_many_channels(
    kind: str,
    count: int,
    events: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "SOONEST", 0.01)
    monkeypatch.setattr(listener, "LATEST", 0.05)
    broker = open_broker(request.getfixturevalue(f"{kind}_url"))
    channels, away = over(broker), Away(broker)
    turns, comers = random.Random(5), random.Random(7)
    names = [f"user/{n}" for n in range(count)]
    followers = [Follower(channels, name) for name in names]

    def publish() -> None:
        for number in range(events):
            for name in turns.sample(names, count):
                channels.publish(name, {"data": number})

    publishing = Elsewhere(publish)
    # Even a quick publisher has met an outage, and clients that leave.
    while not publishing.over or away.outages < 2:
        away.turn()
        for follower in comers.sample(followers, COMERS):
            follower.leave()
            follower.come()
        time.sleep(0.05)
    publishing.result()
    if away.is_away:
        away.turn()
    until(lambda: min(each.take() for each in followers) >= events, "all events")
    assert [each.seen for each in followers] == [[*map(str, range(events))]] * count
    assert [gap for each in followers for gap in each.gaps] == []
    for follower in followers:
        follower.leave()
    idle(channels)
    broker.close()


@pytest.mark.long
# Tracing each allocation is slow, and a busy machine is slower still.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [1000, pytest.param(3000, marks=pytest.mark.long)])
def test_channels_that_come_and_go_leave_nothing_in_the_process(url: str, count: int) -> None:
    channels = Channels(url)
    numbers = itertools.count()
    # The listener goes on.
    one = Follower(channels, "there")

    def come_and_go() -> None:
        followers = [Follower(channels, f"user/{next(numbers)}") for _ in range(100)]
        for each in followers:
            channels.publish(each.name, {"data": 0})
        until(lambda: all(each.take() for each in followers), "the events")
        for each in followers:
            each.leave()
            assert each.seen == ["0"]
            if url == "memory://":  # otherwise, the process has no log
                channels.delete(each.name)

    def counted() -> tuple[int, int]:
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    # What is remembered of a few.
    for _ in range(4):
        come_and_go()
    tracemalloc.start()
    try:
        objects, size = counted()
        for _ in range(count // 100):
            come_and_go()
        until(lambda: channels.statistics().keys() == {"there"}, "all to be gone")
        assert channels.channel(f"user/{next(numbers) - 1}").subscribers == 0
        # The last of them may be waited for, or be a part of the check that goes on.
        until(lambda: counted()[0] < objects + count // 2, "the objects to be gone")
        until(lambda: counted()[1] < size + 150_000 + 40 * count, "the memory to be free", 90)
    finally:
        tracemalloc.stop()
    one.leave()
    idle(channels)
    channels.close()
