"""What a process does for the runs that it produces or streams."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from ssestream import BrokerError, Channels, Runs, run_keeper, run_log
from ssestream.brokers.broker import PLAIN, ChannelError, Position, Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from ssestream.run_keeper import STOPS, keepers
from ssestream.run_log import LEASE, RunLog
from ssestream.runtime.weak import snapshot
from tests.kit.insides import broker_of, over
from tests.kit.promptness import in_one_try
from tests.kit.runs import Source
from tests.kit.states import nothing_remains
from tests.kit.visit import as_a_greenlet, until


@pytest.fixture
def channels() -> Channels:
    return Channels("memory://")


def endless() -> Iterator[dict[str, Any]]:
    while True:
        yield {"data": 1}
        gevent.sleep(0.5)


def at_rest() -> Iterator[dict[str, Any]]:
    """It yields nothing: each message would renew the lease, whatever the keeper does."""
    while True:
        gevent.sleep(0.5)
        yield from ()


@pytest.mark.long
def test_a_run_that_goes_on_keeps_its_lease(channels: Channels) -> None:
    runs = Runs(channels)
    run = runs.start(at_rest())
    log = RunLog(broker_of(channels), run.id)
    gevent.sleep(LEASE + 0.5)

    def is_leased() -> bool:
        state = log.state()
        assert state is not None
        assert state.status == "running"
        return not state.is_lapsed

    # A process that stood still has renewed no lease, and renews it as it goes on.
    until(is_leased, "the lease to be renewed")
    runs.stop(run.id)


def test_nothing_remains_of_runs_that_have_ended(channels: Channels) -> None:
    runs = Runs(channels)
    for run in [runs.start(endless()) for _ in range(5)]:
        assert channels.statistics().keys() == {"run-stops"}
        run.stop()
    nothing_remains(channels)


class Damaged(MemoryBroker):
    """It cannot renew the lease of one log."""

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        if channel == "run:damaged":
            raise ChannelError(channel, "damaged")
        return super().renew(channel, of, lease)


@pytest.mark.long
def test_a_run_whose_lease_cannot_be_renewed_takes_no_other_lease() -> None:
    def go_on() -> tuple[bool, Any]:
        runs = Runs(over(Damaged()))
        for id in ("damaged", "sound"):
            runs.start(at_rest(), id=id)
        gevent.sleep(LEASE + 1)
        status = [runs.status(id) for id in ("damaged", "sound")]
        for id in ("damaged", "sound"):
            runs.stop(id)
        return status == ["lost", "running"], status

    # A process that stands still for so long loses its runs.
    in_one_try(go_on)


class Failing(MemoryBroker):
    """It cannot renew the lease of one log, for a reason that may also concern others."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.renewed: list[str] = []

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        self.renewed.append(channel)
        if channel == "run:first":
            raise self.error
        return super().renew(channel, of, lease)


@pytest.mark.parametrize("error", [BrokerError("away"), ValueError("damaged")], ids=repr)
def test_the_first_lease_that_is_not_renewed_takes_no_other_lease(error: Exception) -> None:
    broker = Failing(error)
    runs = Runs(over(broker))
    ids = ["first", "second", "third"]
    for id in ids:
        runs.start(at_rest(), id=id)
    for id in ids:
        until(lambda id=id: broker.renewed.count(f"run:{id}") > 1, f"the lease of {id}")
    for id in ids:
        runs.stop(id)


class Away(MemoryBroker):
    """While it is away, no run can be ended. One log is damaged."""

    def __init__(self) -> None:
        super().__init__()
        self.error: type[BrokerError] | None = None
        self.asked: list[str] = []

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        if terms.end:
            self.asked.append(channel)
            if self.error is not None:
                raise self.error("away")
            if channel == "run:damaged":
                raise ChannelError(channel, "damaged")
        return super().append(channel, frame, terms)


def test_a_process_that_ends_loses_all_runs_but_of_damaged_logs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, others = Away(), snapshot(lambda: keepers)
    runs = Runs(over(broker))
    ids = ["first", "damaged", "last"]
    for id in ids:
        runs.start(at_rest(), id=id)
    (keeper,) = (each for each in snapshot(lambda: keepers) if each not in others)
    broker.error = BrokerError
    keeper.lose_all()
    # A broker that is away is asked once.
    assert len(broker.asked) == 1
    assert "2 other runs were not ended either" in caplog.text
    broker.error = None
    keeper.lose_all()
    assert [runs.status(id) for id in ids] == ["lost", "running", "lost"]
    until(lambda: len(keeper.producers()) == 1, "the sources to be closed")
    for producer in keeper.producers():
        producer.stop()


class Slow(MemoryBroker):
    """The greenlet *slow_for* waits for it as it begins to follow the stops of runs."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_for: gevent.Greenlet | None = None
        self.is_asked = False

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        # The listener of all streams may read the same channel, and nobody interrupts it.
        if channel == STOPS and gevent.getcurrent() is self.slow_for:
            self.is_asked = True
            gevent.sleep(60)
        return super().read(channel, after, limit, max_bytes)

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        # A beat before the interruption would give the run that is interrupted 60 seconds more.
        return channel == "run:interrupted" or super().renew(channel, of, lease)


@pytest.mark.parametrize("meanwhile", [False, True])
@as_a_greenlet
def test_a_run_whose_start_is_interrupted_is_lost_and_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    monkeypatch.setattr(run_log, "LEASE", 0.1)
    # Only what is told closes a source in time.
    monkeypatch.setattr(run_keeper, "BEAT", 60.0)
    broker = Slow()
    channels = over(broker)
    runs = Runs(channels)
    source = at_rest()
    starting = broker.slow_for = gevent.spawn(runs.start, source, id="interrupted")
    until(lambda: broker.is_asked, "the start to wait")
    for module in (run_log, run_keeper):
        monkeypatch.setattr(module, "LEASE", 60.0)
    ids = ["meanwhile", "later"] if meanwhile else ["later"]
    sources = {id: Source() for id in ids}
    if meanwhile:
        runs.start(iter(sources["meanwhile"]), id="meanwhile")
    starting.kill(gevent.Timeout)
    assert list(source) == []
    until(lambda: runs.status("interrupted") == "lost", "the run to be lost")
    runs.start(iter(sources["later"]), id="later")
    for id in ids:
        # The end of a generator that has not begun is not seen.
        sources[id].let_out = 1
        until(lambda id=id: sources[id].drawn == 1, "its source to begin")
        assert Runs(channels).stop(id)
        until(sources[id].closed.is_set, "its source to be closed")
    nothing_remains(channels)
