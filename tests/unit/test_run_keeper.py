"""What a process does for the runs that it produces or streams."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from ssestream import Channels, Runs
from ssestream.run_log import LEASE, RunLog
from tests.kit.insides import broker_of
from tests.kit.states import nothing_remains


@pytest.fixture
def channels() -> Channels:
    return Channels("memory://")


def endless() -> Iterator[dict[str, Any]]:
    while True:
        yield {"data": 1}
        gevent.sleep(0.5)


def test_a_run_that_goes_on_keeps_its_lease(channels: Channels) -> None:
    runs = Runs(channels)
    run = runs.start(iter(gevent.sleep(LEASE + 1.5) for _ in range(1)))
    log = RunLog(broker_of(channels), run.id)
    gevent.sleep(LEASE + 0.5)
    state = log.state()
    assert state is not None
    assert (state.status, state.is_lapsed) == ("running", False)
    runs.stop(run.id)


def test_nothing_remains_of_runs_that_have_ended(channels: Channels) -> None:
    runs = Runs(channels)
    for run in [runs.start(endless()) for _ in range(5)]:
        assert channels.statistics().keys() == {"run-stops"}
        run.stop()
    nothing_remains(channels)
