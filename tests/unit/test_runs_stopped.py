"""Runs that are stopped, in the process that produces them or in another one."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from ssestream import Channels, Runs, run_keeper, run_log
from ssestream.run_log import RunLog
from tests.kit.brokers import all_closed
from tests.kit.following import Client, data_of, numbers
from tests.kit.insides import broker_of
from tests.kit.promptness import at_best
from tests.kit.runs import Source, app_of, ended
from tests.kit.states import end_all_of
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


@pytest.fixture
def runs(channels: Channels) -> Runs:
    return Runs(channels)


@on_threads_and_greenlets
@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_a_stopped_run_closes_its_source_at_once(
    runs: Runs, make: Make, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A keeper that was not told would find it out at its next beat.
    monkeypatch.setattr(run_keeper, "BEAT", 20.0)
    monkeypatch.setattr(run_log, "LEASE", 60.0)
    shared = broker_of(make()).shared
    other = Runs(make()) if shared and place == "elsewhere" else runs
    ids = (f"answer{number}" for number in itertools.count())

    def stop() -> float:
        id, source = next(ids), Source()
        source.let_out = 3
        runs.start(iter(source), id=id)
        until(lambda: source.drawn == 3, "the source")
        with Client(app_of(runs), f"/{id}") as client:
            client.take(3)
            began = time.monotonic()
            assert other.stop(id)
            until(source.closed.is_set, "the source to be closed")
            took = time.monotonic() - began
            assert not other.stop(id)
            assert not runs.stop(id)
            client.all()
            assert [each.get("event") for each in client.messages[3:]] == ["stopped"]
        assert runs.status(id) == "stopped"
        return took

    at_best(stop, 5)
    assert not runs.stop("other")


@on_threads_and_greenlets
@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_a_stop_stops_no_other_run_of_its_process(runs: Runs, make: Make, place: str) -> None:
    shared = broker_of(make()).shared
    other = Runs(make()) if shared and place == "elsewhere" else runs
    sources = {id: Source(5) for id in ("first", "answer", "last")}
    for id, source in sources.items():
        runs.start(iter(source), id=id)
        source.let_out = 3
    until(lambda: [each.drawn for each in sources.values()] == [3] * 3, "the sources")
    assert other.stop("answer")
    until(sources["answer"].closed.is_set, "the source to be closed")
    for id in ("first", "last"):
        assert not sources[id].closed.is_set()
        sources[id].let_out = 5
        ended(runs, id, "done")
        with Client(app_of(runs), f"/{id}") as client:
            assert data_of(client.all()) == [*numbers(5), ""]


def test_a_stop_that_is_heard_late_stops_no_later_run_of_its_id(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only what is told closes a source in time.
    monkeypatch.setattr(run_keeper, "BEAT", 20.0)
    with all_closed(functools.partial(Channels, shared_url), end_all_of) as make:
        channels, elsewhere = make(), make()
        runs, others = Runs(channels), Runs(elsewhere)
        earlier, later, marker = Source(), Source(3), Source()
        earlier.let_out = marker.let_out = 1
        runs.start(iter(earlier), id="answer")
        until(lambda: earlier.drawn == 1, "the source")
        state = RunLog(broker_of(channels), "answer").state()
        assert state is not None
        assert others.stop("answer")
        until(earlier.closed.is_set, "the source to be closed")
        channels.delete("run:answer")
        runs.start(iter(later), id="answer")
        elsewhere.publish(run_keeper.STOPS, {"data": {"id": "answer", "log": state.begin.log}})
        # The stop of another run is heard after that.
        runs.start(iter(marker), id="marker")
        until(lambda: marker.drawn == 1, "the other source")
        assert others.stop("marker")
        until(marker.closed.is_set, "the other source to be closed")
        later.let_out = 3
        ended(runs, "answer", "done")


def test_a_stop_gives_the_last_message_of_the_app(channels: Channels) -> None:
    runs = Runs(channels, last=lambda status, error: {"data": f"{status}, {error}"})
    source = Source()
    source.let_out = 1
    run = runs.start(iter(source))
    until(lambda: source.drawn == 1, "the source")
    assert run.stop()
    with Client(app_of(runs), f"/{run.id}") as client:
        assert data_of(client.all())[-1] == "stopped, None"


def test_a_stop_before_the_start_stops_nothing(runs: Runs) -> None:
    assert not runs.stop("answer")
    run = runs.start([{"data": 1}], id="answer")
    ended(runs, run.id, "done")
    assert not run.stop()
    assert run.status == "done"


@on_threads_and_greenlets
def test_a_source_of_heartbeats_that_never_waits_is_stopped(runs: Runs) -> None:
    begun: list[bool] = []
    closed: list[bool] = []

    def source() -> Iterator[str]:
        try:
            while True:
                begun.append(True)
                yield ":\n"
        finally:
            closed.append(True)

    run = runs.start(source(), id="silent")
    until(lambda: begun, "the source's start")
    assert run.stop()
    until(lambda: closed, "the source's end")
