"""Who ends the logs whose producers have died."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from ssestream import Channels
from ssestream.brokers.broker import BrokerError, ChannelError, Position, Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels import leases
from ssestream.channels.leases import Leases, end_lapsed, last_words
from tests.kit.following import Client, Following
from tests.kit.insides import exchange_of, over
from tests.kit.promptness import in_one_try
from tests.kit.visit import until


class Counting(MemoryBroker):
    """A broker that can be away, and counts the looks at a log."""

    is_away = False
    looks = 0

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        if self.is_away:
            raise BrokerError("away")
        self.looks += channel == "job" and limit == 0
        return super().read(channel, after, limit, max_bytes)


@pytest.fixture
def broker() -> Counting:
    return Counting()


@pytest.fixture
def channels(broker: Counting) -> Iterator[Channels]:
    channels = over(broker)
    yield channels
    channels.close()


def leased(broker: MemoryBroker, lease: float) -> Position:
    return broker.append("job", b"data: 1\n\n", Terms(lease=lease))


def test_a_channel_without_a_lease_costs_nothing(channels: Channels, broker: Counting) -> None:
    with Client(Following(channels, "job", since="start")) as client:
        channels.publish("job", {"data": 1})
        client.take(1)
        assert not exchange_of(channels).listener.watches_leases


def test_a_lease_is_looked_at_when_it_may_have_run_out(
    channels: Channels, broker: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)

    def live_and_die() -> tuple[bool, str]:
        of = leased(broker, 0.5)
        with Client(Following(channels, "job", since="start")) as client:
            client.take(1)
            for _ in range(5):
                gevent.sleep(0.2)
                if not broker.renew("job", of, 0.5):
                    broker.delete("job")
                    return False, "lost too soon"
            client.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.sock.recv(100)
            client.sock.settimeout(60)
            assert client.all()[-1]["event"] == "lost"
        return True, "lost in time"

    # A test that has no turn for so long renews no lease.
    in_one_try(live_and_die)
    until(lambda: not exchange_of(channels).listener.watches_leases, "the looks to end")


def test_nobody_looks_at_a_lease_whose_streams_have_left(
    channels: Channels, broker: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "UNFOLLOWED", 0.1)
    leased(broker, 60)
    with Client(Following(channels, "job", since="start")) as client:
        client.take(1)
        assert exchange_of(channels).listener.watches_leases
    until(lambda: not exchange_of(channels).listener.watches_leases, "the looks to end")


def test_nobody_looks_at_a_lease_after_close(
    channels: Channels, broker: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    leased(broker, 60)
    with Client(Following(channels, "job", since="start")) as client:
        client.take(1)
        assert exchange_of(channels).listener.watches_leases
        channels.close()
    looks = broker.looks
    until(lambda: not exchange_of(channels).listener.watches_leases, "the looks to end")
    assert broker.looks == looks
    with Client(Following(channels, "job", since="start")) as client:
        client.take(1)
        assert exchange_of(channels).listener.watches_leases


def test_a_broker_that_was_away_ends_nothing(
    channels: Channels, broker: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "PARDON", 1.0)

    def be_away() -> tuple[bool, str]:
        of = leased(broker, 0.6)
        with Client(Following(channels, "job", since="start")) as client:
            client.take(1)
            broker.is_away = True
            gevent.sleep(0.8)
            broker.is_away = False
            gevent.sleep(0.3)
            # Its producer was cut off, too.
            is_kept = broker.renew("job", of, 1.5)
            if is_kept:
                gevent.sleep(1.0)
                is_kept = broker.read("job", 0, 0, 0).ended == 0
            # It dies after all.
            assert client.all()[-1]["event"] == "lost"
        broker.delete("job")
        return is_kept, "lost too soon"

    # A test that has no turn for so long renews no lease.
    in_one_try(be_away)


@pytest.mark.parametrize(
    "error", [ChannelError("damaged", "damaged"), ValueError("damaged")], ids=["broker's", "other"]
)
def test_a_lease_that_cannot_be_looked_at_holds_up_no_other(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Damaged(MemoryBroker):
        is_damaged = False

        def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
            if channel == "damaged" and self.is_damaged:
                raise error
            return super().read(channel, after, limit, max_bytes)

    monkeypatch.setattr(leases, "BEAT", 0.05)
    broker = Damaged()
    channels = over(broker)
    for name in ("damaged", "job"):
        broker.append(name, b"data: 1\n\n", Terms(lease=0.5))
    with Client(Following(channels, "damaged", "job", since="start")) as client:
        client.take(2)
        broker.is_damaged = True
        assert client.take(3)[-1]["event"] == "lost"
    channels.close()
    logged = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    is_known = isinstance(error, ChannelError)
    failed = "channels: the lease of 'damaged' could not be looked at"
    assert set(logged) == (set() if is_known else {failed})


def test_only_a_lapsed_lease_ends_its_log(broker: Counting) -> None:
    of = leased(broker, 60)
    assert not end_lapsed(broker, "job", of, None)
    broker.renew("job", of, 0.01)
    until(lambda: (broker.read("job", 0, 0, 0).lease or 0) < 0, "the lease to run out")
    assert end_lapsed(broker, "job", of, b"data: bye\n\n")
    assert not end_lapsed(broker, "job", of, b"data: bye\n\n")
    ends = [each.frame for each in broker.read("job", 0, 9, 999).entries]
    assert ends == [b"data: 1\n\n", b"data: bye\n\n", b"\0end lost"]


def test_a_log_without_last_words_gets_the_usual_ones(broker: Counting) -> None:
    assert last_words(broker, "job") == (b"", b"event: lost\ndata: \n\n")
    broker.append("producer:job", b"token\ndata: bye\n\n")
    assert last_words(broker, "job") == (b"token", b"data: bye\n\n")
    broker.append("producer:job", b"other\n")
    assert last_words(broker, "job") == (b"other", None)


def test_the_runs_make_the_last_frames_of_their_logs(broker: Counting) -> None:
    made: list[Any] = []

    def lost() -> bytes:
        made.append(1)
        return b"data: a run\n\n"

    tails = exchange_of(over(broker)).listener.tails
    looks = Leases(broker, tails, {"job": lost})
    leased(broker, 0.01)
    looks.note("job", broker.read("job", 0, 0, 0))
    until(lambda: broker.read("job", 0, 0, 0).ended, "the end")
    assert broker.read("job", 1, 1, 99).entries[0].frame == b"data: a run\n\n"
    until(lambda: not looks.is_running, "the looks to end")
    assert made == [1]
