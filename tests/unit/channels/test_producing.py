"""The producer of a channel while a block runs, and how the channel ends with it."""

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from ssestream import BrokerError, Channel, ChannelEnded, Channels
from ssestream.brokers.broker import PLAIN, Position, Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels import producing
from ssestream.channels.leases import end_lapsed
from tests.kit.brokers import everything, left_behind
from tests.kit.failing import RAISED, failing
from tests.kit.following import Client, Following, data_of, numbers
from tests.kit.insides import broker_of, over
from tests.kit.promptness import at_best, in_one_try
from tests.kit.servers import PATIENCE
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each producer says only once that it goes on, as if its process were killed then."""
    monkeypatch.setattr(producing, "RENEWALS", 0.001)


def events_of(messages: list[dict[str, Any]]) -> list[Any]:
    return [each.get("event") for each in messages]


def has_words(channels: Channels) -> bool:
    """Whether the last message of a lost producer is kept."""
    return broker_of(channels).read("producer:job", 0, 0, 0).last > 0


def lease_of(channels: Channels) -> float | None:
    lease: float | None = broker_of(channels).read("job", 0, 0, 0).lease
    return lease


@on_threads_and_greenlets
def test_a_block_that_is_done_ends_its_channel(channels: Channels) -> None:
    with Client(Following(channels, "job", since="start")) as client:
        with channels.channel("job").producer(ttl=600) as job:
            assert 500 < (lease_of(channels) or 0) <= 600
            assert has_words(channels)
            for n in range(3):
                job.publish({"data": n})
                channels.publish("other", {"data": n})
        messages = client.all()
    assert data_of(messages) == [*numbers(3), ""]
    assert events_of(messages) == [None, None, None, "done"]
    assert lease_of(channels) is None
    until(lambda: not has_words(channels), "its last message to be gone")
    channels.publish("other", {"data": 3})


@on_threads_and_greenlets
def test_an_exception_in_a_block_is_told_as_failed(channels: Channels) -> None:
    def block() -> None:
        with channels.channel("job").producer() as job:
            job.publish({"data": 0})
            raise KeyError("secret")

    with Client(Following(channels, "job", since="start")) as client:
        with pytest.raises(KeyError, match="secret"):
            block()
        assert events_of(client.all()) == [None, "failed"]
        assert b"secret" not in client.received
    until(lambda: not has_words(channels), "its last message to be gone")


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, gevent.GreenletExit])
def test_a_block_that_is_broken_off_is_lost(channels: Channels, end: type[BaseException]) -> None:
    with pytest.raises(end), channels.channel("job").producer():
        raise end
    assert events_of(channels.history("job")) == ["lost"]


def test_the_end_that_a_block_has_made_stands(channels: Channels) -> None:
    with channels.channel("job").producer():
        assert channels.end("job", {"event": "mine", "data": ""})
    assert events_of(channels.history("job")) == ["mine"]
    with pytest.raises(ChannelEnded), channels.channel("job").producer():
        raise AssertionError("the block must not run")
    with channels.channel("gone").producer() as gone:
        gone.delete()
    assert gone.history() == []


def test_an_app_says_what_the_last_message_is(channels: Channels, log: Callable[[], Any]) -> None:
    def last(status: str, error: BaseException | None) -> dict[str, Any] | None:
        return None if status == "done" else {"event": status, "data": str(error)}

    def fails(status: str, error: BaseException | None) -> dict[str, Any] | None:
        raise LookupError(status)

    with channels.channel("quiet").producer(last=last):
        pass
    assert channels.history("quiet") == []
    with pytest.raises(ChannelEnded):
        channels.publish("quiet", {"data": 1})
    with pytest.raises(RuntimeError), channels.channel("told").producer(last=last):
        raise RuntimeError("out of paper")
    assert data_of(channels.history("told")) == ["out of paper"]
    with channels.channel("usual").producer(last=fails):
        pass
    assert events_of(channels.history("usual")) == ["done"]
    assert log() == [LookupError, LookupError]


@pytest.mark.parametrize("raised", RAISED)
def test_a_last_message_that_fails_is_the_usual_one(
    local: Make, raised: type[BaseException], log: Callable[[], Any]
) -> None:
    job = local().channel("job")
    with job.producer(last=failing(raised)):
        pass
    assert events_of(job.history()) == ["done"]
    # The message for "lost" is made at the beginning.
    assert log() == [raised, raised]


def test_a_block_may_leave_its_channel_open(channels: Channels) -> None:
    channel = channels.channel("job")
    for n in range(2):
        with channel.producer(end=False):
            channel.publish({"data": n})
        assert lease_of(channels) is None
    with pytest.raises(KeyError), channel.producer(end=False):
        raise KeyError
    assert events_of(channel.history()) == [None, None, "failed"]


@pytest.mark.long
def test_the_terms_of_the_handle_hold_for_the_end(make: Make) -> None:
    channels = make(history=5)
    with channels.channel("job", history=20, ttl=2).producer() as job:
        for n in range(15):
            job.publish({"data": n})
        # Its lease keeps the channel, however long that takes.
        assert len(job.history()) == 15
    until(lambda: channels.history("job") == [], "the channel to be gone")


# -- dead producers


@pytest.mark.long_except("redis-threads")
@on_threads_and_greenlets
def test_watchers_of_a_dead_producer_are_told_once_within_5_s(
    channels: Channels, dies: None
) -> None:
    def last(status: str, error: BaseException | None) -> dict[str, Any]:
        return {"event": "sorry", "data": status}

    def death() -> float:
        dead = channels.channel("job").producer(ttl=1, last=last)
        with Client(Following(channels, "job", since="start")) as client:
            dead.__enter__().publish({"data": 0})
            began = time.monotonic()
            assert events_of(client.all()) == [None, "sorry"]
            took = time.monotonic() - began
            assert data_of(client.messages) == ["0", "lost"]
        assert lease_of(channels) is None
        # It lives after all: it cannot publish, and its end is not told.
        with pytest.raises(ChannelEnded):
            channels.publish("job", {"data": 1})
        dead.__exit__(None, None, None)
        assert len(channels.history("job")) == 2
        until(lambda: not has_words(channels), "its last message to be gone")
        channels.delete("job")
        return took

    at_best(death, 1 + 5)


def test_whoever_comes_after_the_death_is_told(channels: Channels, dies: None) -> None:
    channels.channel("job").producer(ttl=0.05).__enter__()
    until(lambda: (lease_of(channels) or 0) < 0, "the lease to run out")
    with Client(Following(channels, "job")) as client:
        assert events_of(client.all()) == ["lost"]


@pytest.mark.long_except("redis")
def test_what_a_dead_producer_leaves_behind_is_freed_in_its_time(
    channels: Channels, url: str, dies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert producing.KEPT == 7 * 86400
    monkeypatch.setattr(producing, "KEPT", 1.0)
    broker = broker_of(channels)

    def death() -> tuple[bool, list[Any]]:
        channels.delete("job")
        channels.channel("job").producer(ttl=0.05).__enter__()
        until(lambda: (lease_of(channels) or 0) < 0, "the lease to run out")
        with Client(Following(channels, "job")) as client:
            assert events_of(client.all()) == ["lost"]
        found = [each.frame for each in everything(broker, "producer:job").entries]
        return len(found) == 1 and b"event: lost\n" in found[0], found

    # A test that has no turn for so long looks too late.
    in_one_try(death)
    until(lambda: not has_words(channels), "its last message to be gone")
    # The end of its channel stays until somebody deletes the channel.
    assert events_of(channels.history("job")) == ["lost"]
    channels.delete("job")

    def freed() -> bool:
        broker.append("other", b"x")
        channels.delete("other")
        return left_behind(broker, url) == 0

    until(freed, "all to be freed")


@pytest.mark.long_except("sqlite")
def test_of_many_processes_that_notice_a_death_one_tells(make: Make, dies: None) -> None:
    several = [make() for _ in range(3)] if broker_of(make()).shared else [make()]
    several[0].channel("job").producer(ttl=1).__enter__()
    clients = [Client(Following(each, "job")) for each in several for _ in range(2)]
    for client in clients:
        assert events_of(client.all()) == ["lost"]
        client.__exit__(None, None, None)
    assert events_of(several[0].history("job")) == ["lost"]


@pytest.mark.long
@on_threads_and_greenlets
def test_a_block_that_goes_on_keeps_its_lease(channels: Channels) -> None:
    names = (f"job{number}" for number in itertools.count())

    def go_on() -> tuple[bool, list[Any]]:
        name = next(names)
        with Client(Following(channels, name, since="start")) as client:
            with contextlib.suppress(ChannelEnded), channels.channel(name).producer(ttl=1.5) as job:
                for n in range(4):
                    gevent.sleep(0.6)
                    job.publish({"data": n})
            events = events_of(client.all())
        return events == [None] * 4 + ["done"], events

    # A producer that has no turn for so long is rightly taken for a dead one.
    in_one_try(go_on)


@pytest.mark.long
@on_threads_and_greenlets
def test_a_block_may_go_on_for_longer_than_its_last_message_is_kept(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producing, "KEPT", 0.3)
    names = (f"job{number}" for number in itertools.count())

    def go_on() -> tuple[bool, list[Any]]:
        name = next(names)
        with contextlib.suppress(ChannelEnded), channels.channel(name).producer(ttl=0.6) as job:
            for n in range(4):
                gevent.sleep(0.4)
                job.publish({"data": n})
                # As a process would that streams the channel.
                broker, piece = broker_of(channels), broker_of(channels).read(name, 0, 0, 0)
                end_lapsed(broker, name, piece.end, None)
        events = events_of(channels.history(name))
        return events == [None] * 4 + ["done"], events

    in_one_try(go_on)


def test_a_later_producer_takes_over(channels: Channels) -> None:
    channel = channels.channel("job")
    first = channel.producer(ttl=60)
    first.__enter__()
    with channel.producer(ttl=60):
        first.__exit__(None, None, None)
        assert (lease_of(channels) or 0) > 0
        channel.publish({"data": "second"})
    assert events_of(channel.history()) == [None, "done"]


class Interrupted(MemoryBroker):
    """Something happens between two calls of the broker: before the call with this number."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left = -1
        self.happens: Callable[[], object] = lambda: None

    def _count(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            self.happens()

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        self._count()
        return super().append(channel, frame, terms)

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        self._count()
        return super().read(channel, after, limit, max_bytes)

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        self._count()
        return super().renew(channel, of, lease)

    def delete(self, channel: str) -> None:
        self._count()
        super().delete(channel)


@pytest.mark.parametrize("end", [False, True])
def test_the_end_of_a_block_undoes_no_later_block_that_begins_at_any_moment_of_it(
    end: bool,
) -> None:
    for moment in range(1, 20):
        broker = Interrupted()
        channels = over(broker)
        channel = channels.channel("job")
        first, later = channel.producer(ttl=60, end=end), channel.producer(ttl=60)
        first.__enter__()
        began: list[Any] = []
        broker.happens = lambda later=later, began=began: began.append(later.__enter__())
        broker.calls_left = moment
        # A block that begins behind the end itself finds that the channel has ended.
        with contextlib.suppress(ChannelEnded):
            first.__exit__(None, None, None)
        if not began:
            assert moment > 2
            break
        assert broker.read("job", 0, 0, 0).ended == 0
        assert 50 < (lease_of(channels) or 0) <= 60
        assert has_words(channels)
        later.__exit__(None, None, None)
        assert events_of(channel.history()) == ["done"]
        with pytest.raises(ChannelEnded):
            channel.publish({"data": 1})
        until(lambda channels=channels: not has_words(channels), "its last message to be gone")


class Held(MemoryBroker):
    """A renewal of the lease waits until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.is_asked = threading.Event(), threading.Event()
        self.is_renewed = threading.Event()

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        if channel == "job" and lease is not None:
            self.is_asked.set()
            assert self.gate.wait(PATIENCE)
        renewed = super().renew(channel, of, lease)
        if lease is not None and channel == "job":
            self.is_renewed.set()
        return renewed


def test_a_renewal_that_is_under_way_at_the_end_leaves_no_lease_behind() -> None:
    broker = Held()
    channels = over(broker)
    producer = channels.channel("job").producer(ttl=0.1, end=False)
    producer.__enter__()
    assert broker.is_asked.wait(PATIENCE)
    leaving = threading.Thread(target=producer.__exit__, args=(None, None, None))
    leaving.start()
    # An end that does not wait for the renewal is over by now.
    leaving.join(0.2)
    broker.gate.set()
    leaving.join(PATIENCE)
    assert broker.is_renewed.wait(PATIENCE)
    until(lambda: not has_words(channels), "its last message to be gone")
    assert lease_of(channels) is None


def test_a_block_ends_its_channel_also_while_others_publish_or_delete_it() -> None:
    broker = Interrupted()
    channel = over(broker).channel("job")
    producer = channel.producer()
    producer.__enter__()
    broker.happens, broker.calls_left = lambda: channel.publish({"data": 1}), 2
    producer.__exit__(None, None, None)
    assert events_of(channel.history()) == [None, "done"]
    channel.delete()
    producer = channel.producer()
    producer.__enter__()

    def begin_anew() -> None:
        channel.delete()
        channel.publish({"data": 2})

    broker.happens, broker.calls_left = begin_anew, 2
    producer.__exit__(None, None, None)
    assert events_of(channel.history()) == [None]


class Away(MemoryBroker):
    is_away = False
    renewed = 0

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        if self.is_away:
            raise BrokerError("away")
        return super().append(channel, frame, terms)

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        if self.is_away:
            raise BrokerError("away")
        self.renewed += 1
        return super().renew(channel, of, lease)


def test_an_end_that_is_not_stored_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broker = Away()
    channels = over(broker)
    with pytest.raises(BrokerError, match="away"), channels.channel("job").producer():
        broker.is_away = True
    with pytest.raises(BrokerError, match="away"), channels.channel("other").producer():
        raise AssertionError("the block must not run")
    broker.is_away = False
    # An exception of the block goes before.

    def fails() -> None:
        with channels.channel("other").producer():
            broker.is_away = True
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert "the end of 'other' was not stored: away" in caplog.text


def test_the_lease_is_renewed_when_the_broker_is_back() -> None:
    broker = Away()
    with over(broker).channel("job").producer(ttl=1):
        broker.is_away = True
        gevent.sleep(0.8)
        broker.is_away = False
        before = broker.renewed
        until(lambda: broker.renewed > before, "the lease to be renewed")


class Gated(MemoryBroker):
    """One that a block enters when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.is_asked = threading.Event(), threading.Event()

    def read(self, *args: Any, **options: Any) -> Any:
        self.is_asked.set()
        assert self.gate.wait(PATIENCE)
        return super().read(*args, **options)


def test_of_two_threads_that_enter_one_producer_one_has_its_block() -> None:
    broker = Gated()
    channel = over(broker).channel("job")
    producer = channel.producer()

    def block() -> None:
        with producer as job:
            job.publish({"data": 0})

    first = threading.Thread(target=block)
    first.start()
    assert broker.is_asked.wait(PATIENCE)
    with pytest.raises(RuntimeError, match="make another one"), producer:
        raise AssertionError("the block must not run")
    broker.gate.set()
    first.join(PATIENCE)
    assert events_of(channel.history()) == [None, "done"]


def test_a_producer_whose_broker_was_away_may_be_entered_again() -> None:
    broker = Away()
    channel = over(broker).channel("job")
    producer = channel.producer()
    broker.is_away = True
    with pytest.raises(BrokerError, match="away"), producer:
        raise AssertionError("the block must not run")
    broker.is_away = False
    with producer:
        pass
    assert events_of(channel.history()) == ["done"]


def test_threads_publish_in_one_block_and_its_end_comes_after_all_of_them(
    channels: Channels,
) -> None:
    def publish(job: Channel, name: str) -> None:
        for n in range(50):
            job.publish({"data": f"{name}{n}"})

    with channels.channel("job", history=500).producer() as job:
        threads = [threading.Thread(target=publish, args=(job, name)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    messages = job.history()
    assert events_of(messages) == [None] * 100 + ["done"]
    for name in "ab":
        of_one = [each for each in data_of(messages) if str(each).startswith(name)]
        assert of_one == [f"{name}{n}" for n in range(50)]


def test_wrong_arguments_are_refused(channels: Channels) -> None:
    channel = channels.channel("job")
    for wrong in (0, -1, float("inf")):
        with pytest.raises(ValueError, match="ttl must be positive"):
            channel.producer(wrong)
    for wrong in (None, "30", True):
        with pytest.raises(TypeError, match="ttl is a number"):
            channel.producer(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="last must be"):
        channel.producer(last="bye")  # type: ignore[arg-type]
    producer = channel.producer()
    with producer:
        pass
    with pytest.raises(RuntimeError, match="make another one"), producer:
        raise AssertionError("the block must not run")


#: Leases of 1 s, after 2 s of work without a wait, and after 2 s of waiting.
_LEASES = """
{patch}
import time
from ssestream import Channels
channels = Channels("memory://")
broker = channels.current_exchange().broker
with channels.channel("job").producer(ttl=1):
    until = time.perf_counter() + 2
    while time.perf_counter() < until:
        pass
    worked = broker.read("job", 0, 0, 0).lease > 0
    time.sleep(2)
    print(worked, broker.read("job", 0, 0, 0).lease > 0)
"""


@pytest.mark.long
@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"])
def test_work_without_a_wait_keeps_the_lease_unless_gevent_has_patched(patch: str) -> None:
    """A thread renews it, or a greenlet, which has no turn."""
    command = [sys.executable, "-c", _LEASES.format(patch=patch)]

    def work() -> tuple[bool, bytes]:
        told = subprocess.run(command, capture_output=True, timeout=200, check=True).stdout
        return told.split() == [b"False" if patch else b"True", b"True"], told

    # A process that stands still for so long renews no lease.
    in_one_try(work)


#: A block in a greenlet, in a process in which gevent has patched waits and not threads.
_BLOCK = """
from gevent import monkey; monkey.patch_all(thread=False)
import gevent
from ssestream import Channels
def produce():
    with Channels().channel("job").producer(ttl=30):
        gevent.sleep(0.1)
    print("over")
gevent.spawn(produce).join()
"""


def test_the_renewal_of_a_lease_holds_up_no_greenlet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BLOCK], capture_output=True, timeout=200, check=True
    )
    assert done.stdout == b"over\n"
