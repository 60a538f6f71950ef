"""How many streams of all processes watch a channel, and what is called when the last has left."""

import itertools
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from ssestream import BrokerError, Channels
from ssestream.brokers.broker import PLAIN, Bounds, ChannelError, Position, Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels import watchers
from tests.kit.following import Client, Following
from tests.kit.insides import broker_of, exchange_of, over
from tests.kit.promptness import in_one_try
from tests.kit.redis_server import RedisServer
from tests.kit.states import end_all_of
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


def counted(channels: Channels, *names: str) -> Following:
    return Following(channels, *(names or ("room",)), counted=True)


def counts(channels: Channels, expected: int, name: str = "room") -> None:
    until(lambda: channels.channel(name).watchers() == expected, f"{expected} to be counted")


@pytest.mark.long
@on_threads_and_greenlets
def test_counted_streams_of_all_processes_are_watchers(make: Make) -> None:
    here, there = make(), make()
    if not broker_of(here).shared:
        there = here
    assert here.channel("room").watchers() == 0
    with Client(counted(here)), Client(Following(here, "room")):
        counts(there, 1)
        with Client(counted(there, "room", "other")):
            for each in (here, there):
                counts(each, 2)
                counts(each, 1, "other")
        counts(here, 1)
        counts(here, 0, "other")
    for each in (here, there):
        counts(each, 0)
        until(lambda each=each: not exchange_of(each).watchers.is_running, "the reports to end")


def test_a_stream_that_unsubscribes_is_no_watcher(channels: Channels) -> None:
    app = counted(channels)
    with Client(app):
        counts(channels, 1)
        channels.unsubscribe(app.streams[0])
        assert channels.channel("room").watchers() == 0


def test_what_an_app_publishes_among_the_reports_is_no_report(channels: Channels) -> None:
    """The log of the reports is a channel too, and an app may let its users name channels."""
    left: list[str] = []
    channels.channel("room").on_empty(left.append, grace=0)
    with Client(counted(channels)):
        counts(channels, 1)
        channels.publish("watchers:room", {"data": "hello"})
        for frame in (b"\0watchers", b"\0watchers x -5", b"\0watchers x 1 2", b"\0watchers \xff 1"):
            broker_of(channels).append("watchers:room", frame)
        assert channels.channel("room").watchers() == 1
    until(lambda: left == ["room"], "the room to be empty")
    counts(channels, 0)
    channels.channel("room").off_empty(left.append)


@pytest.mark.long_except("sqlite")
def test_a_process_that_says_no_more_counts_out(channels: Channels) -> None:
    """The log forgets its reports by their age."""
    terms = Terms(bounds=Bounds(1, 1.0), ttl=60)
    broker_of(channels).append("watchers:room", b"\0watchers dead 5", terms)
    assert channels.channel("room").watchers() == 5
    counts(channels, 0)


def test_a_number_that_stays_is_reported_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    monkeypatch.setattr(watchers, "RENEW", 0.2)
    channels = make()
    broker = broker_of(channels)
    with Client(counted(channels)):
        until(lambda: broker.read("watchers:room", 0, 0, 0).last >= 4, "four reports")
        assert channels.channel("room").watchers() == 1


# -- the last one that leaves


@on_threads_and_greenlets
def test_a_function_is_called_each_time_when_the_last_has_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    channels = make()
    producer = make() if broker_of(channels).shared else channels
    called: list[str] = []
    channel = producer.channel("room")
    assert channel.on_empty(called.append, grace=0) == called.append
    app = counted(channels)
    for turn in range(2):
        with Client(app):
            with Client(app):
                counts(producer, 2)
            counts(producer, 1)
            assert len(called) == turn
        until(lambda turn=turn: len(called) == turn + 1, "the call")
    assert called == ["room", "room"]
    channel.off_empty(called.append)
    with Client(app):
        counts(producer, 1)
    counts(producer, 0)
    until(lambda: not exchange_of(producer).watchers.is_running, "nobody to wait for it")
    assert len(called) == 2


def test_a_reload_within_the_grace_calls_nothing(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    called: list[str] = []
    left: list[bool] = []
    channels.channel("room").on_empty(called.append, grace=30)
    channels.channel("room").on_empty(lambda name: left.append(True), grace=0)
    for turn in range(1, 4):
        with Client(counted(channels)):
            counts(channels, 1)
        until(lambda turn=turn: len(left) == turn, "the page to have left")
    assert called == []


def test_a_visit_between_two_looks_is_noticed(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    called: list[str] = []
    channels.channel("room").on_empty(called.append, grace=0)
    with Client(counted(channels)):
        counts(channels, 1)
    until(lambda: called, "the first call")
    for count in (1, 0):
        broker_of(channels).append("watchers:room", b"\0watchers other %d" % count)
    until(lambda: len(called) == 2, "the second call")


def test_a_visit_before_the_first_look_is_noticed(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    late: list[Callable[..., object]] = []
    with monkeypatch.context() as patched:
        patched.setattr(watchers, "spawn", late.append)
        channels.channel("room").on_empty(called.append, grace=0)
        app = counted(channels)
        with Client(app):
            counts(channels, 1)
    (look,) = late
    watchers.spawn(look)
    until(lambda: called == ["room"], "the call")


def test_nothing_is_called_for_those_who_left_before(channels: Channels) -> None:
    for count in (1, 0):
        broker_of(channels).append("watchers:room", b"\0watchers other %d" % count)
    called: list[str] = []
    channels.channel("room").on_empty(called.append, grace=0)
    with Client(counted(channels)):
        counts(channels, 1)
        assert called == []
    until(lambda: called == ["room"], "the call")


def test_a_function_that_fails_is_logged_and_called_again(
    channels: Channels, monkeypatch: pytest.MonkeyPatch, log: Callable[[], list[Any]]
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    channels.channel("room").on_empty(lambda name: {}[name], grace=0)
    for turn in range(1, 3):
        with Client(counted(channels)):
            counts(channels, 1)
        until(lambda turn=turn: log() == [KeyError] * turn, "the failure")


def test_nobody_waits_for_a_channel_that_has_ended(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    called: list[str] = []
    channels.channel("room").on_empty(called.append, grace=0)
    with Client(counted(channels)):
        counts(channels, 1)
        channels.end("room")
    until(lambda: called == ["room"], "the call")
    until(lambda: not exchange_of(channels).watchers.is_running, "the end of the wait")
    # Also if nobody has ever watched it.
    monkeypatch.setattr(watchers, "ASKED", 0.01)
    channels.channel("room").on_empty(called.append)
    until(lambda: not exchange_of(channels).watchers.is_running, "the end of the wait")
    assert called == ["room"]


class Away(MemoryBroker):
    """A broker that can be away, and whose logs are empty when it is back."""

    is_away = False
    tries = 0

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        if self.is_away:
            self.tries += 1
            raise BrokerError("away")
        return super().read(channel, after, limit, max_bytes)


def test_a_broker_that_was_away_makes_nobody_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    monkeypatch.setattr(watchers, "LEASE", 1.0)

    def be_away() -> tuple[bool, list[str]]:
        broker = Away()
        channels = over(broker)
        called: list[str] = []
        channels.channel("room").on_empty(called.append, grace=0)
        broker.append("watchers:room", b"\0watchers other 1")
        gevent.sleep(0.2)
        broker.is_away = True
        until(lambda: broker.tries, "a look")
        broker.clear()
        broker.is_away = False
        # The other process reports again.
        gevent.sleep(0.3)
        broker.append("watchers:room", b"\0watchers other 1")
        gevent.sleep(1.2)
        before = called[:]
        broker.append("watchers:room", b"\0watchers other 0")
        until(lambda: called == [*before, "room"], "the call")
        channels.channel("room").off_empty(called.append)
        return before == [], before

    # A test that has no turn for so long reports too late.
    in_one_try(be_away)


@pytest.mark.long
def test_a_redis_that_restarts_empty_makes_nobody_leave(redis_server: RedisServer) -> None:
    names = (f"room{number}" for number in itertools.count())

    def restart() -> tuple[bool, list[str]]:
        name = next(names)
        here, there = Channels(redis_server.url), Channels(redis_server.url)
        called: list[str] = []
        there.channel(name).on_empty(called.append, grace=2)
        try:
            with Client(counted(here, name)):
                counts(there, 1, name)
                redis_server.stop()
                # Longer than the last report of *here* would count.
                gevent.sleep(watchers.LEASE + 1)
                redis_server.start()
                counts(there, 1, name)
                before = called[:]
            until(lambda: called == [*before, name], "the call")
            assert there.channel(name).watchers() == 0
        finally:
            there.channel(name).off_empty(called.append)
            for each in (here, there):
                end_all_of(each)
        return before == [], before

    # A process that has no turn for so long reports too late.
    in_one_try(restart)


class Damaged(MemoryBroker):
    """It cannot use the reports of one channel."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        if channel == "watchers:damaged":
            raise self.error
        return super().read(channel, after, limit, max_bytes)

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        if channel == "watchers:damaged":
            raise self.error
        return super().append(channel, frame, terms)


@pytest.mark.parametrize(
    "error", [ChannelError("damaged", "damaged"), ValueError("damaged")], ids=["broker's", "other"]
)
def test_a_channel_that_cannot_be_read_holds_up_no_other(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    channels = over(Damaged(error))
    called: list[str] = []
    for name in ("damaged", "room"):
        channels.channel(name).on_empty(called.append, grace=0)
    with Client(counted(channels, "damaged", "room")):
        counts(channels, 1)
    until(lambda: called == ["room"], "the call")
    failed = "channels: the watchers of 'damaged' could not be "
    is_known = isinstance(error, ChannelError)
    expected = set() if is_known else {f"{failed}reported", f"{failed}counted"}

    def logged() -> set[str]:
        return {each.getMessage() for each in caplog.records if each.levelname == "ERROR"}

    # The client may leave, and the function be called, before the first report.
    until(lambda: logged() >= expected, "the errors")
    for name in ("damaged", "room"):
        channels.channel(name).off_empty(called.append)
    assert logged() == expected


def test_wrong_arguments_are_refused(channels: Channels) -> None:
    channel = channels.channel("room")

    async def nobody_awaits(name: str) -> None: ...

    for wrong in (None, nobody_awaits):
        with pytest.raises(TypeError, match="function must be"):
            channel.on_empty(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="grace must be positive"):
        channel.on_empty(print, grace=-1)
    with pytest.raises(TypeError, match="grace is a number"):
        channel.on_empty(print, grace="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="grace is a number"):
        channel.on_empty(print, grace=None)  # type: ignore[arg-type]
