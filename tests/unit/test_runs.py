"""Runs: producers that outlive their requests, and the watchers of runs."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import flask
import gevent
import pytest

from ssestream import Channels, Run, Runs
from ssestream.brokers.broker import Bounds, Position, Terms
from ssestream.run_log import LEASE, RunLog
from tests.kit.failing import RAISED, failing
from tests.kit.following import Client, data_of, numbers
from tests.kit.insides import broker_of
from tests.kit.promptness import at_best
from tests.kit.runs import Source, app_of, ended
from tests.kit.states import nothing_remains
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


@pytest.fixture
def runs(channels: Channels) -> Runs:
    return Runs(channels)


def status_of(app: flask.Flask, path: str, last_id: str | None = None) -> int:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    return app.test_client().get(path, headers=headers).status_code


@on_threads_and_greenlets
def test_each_watcher_gets_all_of_a_run_and_then_its_end(runs: Runs, channels: Channels) -> None:
    source = Source(5)
    run = runs.start(iter(source), id="answer")
    assert (run.id, run.status) == ("answer", "running")
    app = app_of(runs)
    with Client(app, "/answer") as first:
        source.let_out = 2
        assert data_of(first.take(2)) == numbers(2)
        with Client(app, "/answer") as second:
            source.let_out = 5
            for client in (first, second):
                client.all()
                assert data_of(client.messages) == [*numbers(5), ""]
                assert client.messages[-1]["event"] == "done"
            last_id = second.last_id
    assert run.status == "done"
    with Client(app, "/answer") as late:
        assert data_of(late.all()) == [*numbers(5), ""]
    # EventSource comes back, and is sent away.
    assert status_of(app, "/answer", last_id) == 204
    assert status_of(app, "/other") == 204
    assert runs.status("other") is None
    nothing_remains(channels)


@on_threads_and_greenlets
def test_a_watcher_that_reloads_gets_each_message_once(runs: Runs) -> None:
    source = Source(60)
    runs.start(iter(source), id="answer")
    app = app_of(runs)
    seen: list[str] = []
    last_id = None
    for turn in range(1, 6):
        source.let_out = turn * 10
        with Client(app, "/answer", last_id) as client:
            seen += data_of(client.take(10))
            last_id = client.last_id
    source.let_out = 60
    with Client(app, "/answer", last_id) as client:
        seen += data_of(client.all())
    assert seen == [*numbers(60), ""]


def test_a_run_starts_once(runs: Runs, make: Make, url: str) -> None:
    source = Source(1)
    runs.start(iter(source), id="answer", key="ann")
    other = Runs(make()) if broker_of(make()).shared else runs
    again = Source(1)
    drawn = iter(again)
    assert other.start(drawn, id="answer", key="ann").id == "answer"
    with pytest.raises(ValueError, match="with another key"):
        other.start(iter(Source()), id="answer", key="bob")
    source.let_out = 1
    ended(runs, "answer", "done")
    # Also after its end.
    assert other.start(iter(Source(1)), id="answer", key="ann").status == "done"
    assert again.drawn == 0
    assert list(drawn) == []


class Closable:
    """A source without messages, which counts how often it is closed."""

    closings = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def close(self) -> None:
        self.closings += 1


@on_threads_and_greenlets
def test_a_source_that_starts_no_run_is_closed_once(runs: Runs) -> None:
    runs.start([{"data": 1}], id="answer", key="ada")
    again, other, wrong = Closable(), Closable(), Closable()
    assert runs.start(again, id="answer", key="ada").id == "answer"
    with pytest.raises(ValueError, match="there is a run 'answer' with another key"):
        runs.start(other, id="answer", key="bob")
    with pytest.raises(ValueError, match=r"^id is made of"):
        runs.start(wrong, id="no id")
    assert [each.closings for each in (again, other, wrong)] == [1, 1, 1]


def test_of_threads_that_start_one_id_at_the_same_moment_one_starts_it(runs: Runs) -> None:
    for turn in range(10):
        sources = [Source(1) for _ in range(4)]
        drawn = [iter(each) for each in sources]
        together = threading.Barrier(4)
        found: list[Any] = []

        def start(source: Any, id: str = f"answer{turn}", together: Any = together) -> None:
            together.wait(60)
            found.append(runs.start(source, id=id).id)  # noqa: B023 - it ends with this turn

        threads = [threading.Thread(target=start, args=(each,)) for each in drawn]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [f"answer{turn}"] * 4
        for each in sources:
            each.let_out = 1
        ended(runs, f"answer{turn}", "done")
        assert sum(each.drawn for each in sources) == 1
        until(lambda drawn=drawn: [list(each) for each in drawn] == [[]] * 4, "all to be closed")


@pytest.mark.long_except("redis", "sqlite")
def test_a_watcher_that_never_reads_holds_up_no_run(runs: Runs) -> None:
    """Its part of the run waits in the log, and it gets all of it once it reads."""
    source = Source(400)
    source.let_out = 400
    size = 10_000
    run = runs.start(({**each, "event": "x" * size} for each in source), id="large")
    app = app_of(runs)
    with Client(app, "/large", send_buffer=4096) as stuck:
        with Client(app, "/large") as quick:
            assert len(quick.all()) == 401
        ended(runs, run.id, "done")
        assert len(stuck.received) < 20 * size
        assert data_of(stuck.all()) == [*numbers(400), ""]


def test_a_key_is_asked_for(runs: Runs) -> None:
    runs.start([{"data": 1}], id="answer", key="ann")
    ended(runs, "answer", "done")
    with Client(app_of(runs, key="ann"), "/answer") as client:
        assert data_of(client.all()) == ["1", ""]
    assert status_of(app_of(runs, key="bob"), "/answer") == 204
    with pytest.raises(TypeError, match="repr"):
        runs.start([], key=object())


def test_a_source_that_fails_is_told(runs: Runs, log: Callable[[], list[Any]]) -> None:
    def source() -> Iterator[dict[str, Any]]:
        yield {"data": 1}
        raise KeyError("secret")

    run = runs.start(source())
    ended(runs, run.id, "failed")
    with Client(app_of(runs), f"/{run.id}") as client:
        assert b"secret" not in client.read_to_end()
        assert [each.get("event") for each in client.all()] == [None, "failed"]
    assert log() == [KeyError]


@pytest.mark.parametrize(
    ("bound", "what", "text"),
    [
        ("max_events", 3, "3 events (max_events) or 16777216 bytes (max_bytes)"),
        ("max_bytes", 40, "10000 events (max_events) or 40 bytes (max_bytes)"),
    ],
)
def test_a_run_fails_beyond_its_bounds_and_its_log_line_names_them(
    channels: Channels,
    bound: str,
    what: int,
    text: str,
    log: Callable[[], list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = Runs(channels, **{bound: what})  # type: ignore[arg-type]
    run = runs.start(({"data": "x" * 5} for _ in range(100)), id="answer")
    ended(runs, run.id, "failed")
    with Client(app_of(runs), f"/{run.id}") as client:
        assert [each.get("event") for each in client.all()] == [None] * 3 + ["failed"]
    assert [each.get("event") for each in channels.history("run:answer")][-1] == "failed"
    assert log() == [ValueError]
    assert "the source of the run 'answer' failed\nTraceback" in caplog.text
    assert f"\nValueError: the run 'answer' has more than {text}\n" in caplog.text


@pytest.mark.long_except("redis", "sqlite")
def test_a_run_is_kept_whole_whatever_its_channels_keep(make: Make) -> None:
    runs = Runs(make(history=5))
    # More than a channel keeps if nobody says how much.
    run = runs.start({"data": n} for n in range(1100))
    # A slow disk writes twenty of them a second.
    until(lambda: runs.status(run.id) == "done", "the run to be done", 240)
    with Client(app_of(runs), f"/{run.id}") as client:
        assert data_of(client.all()) == [*numbers(1100), ""]


def test_a_run_takes_event_stream_text(runs: Runs) -> None:
    run = runs.start(["data: 1\n\nda", "ta: 2\n\n", {"data": 3}])
    ended(runs, run.id, "done")
    with Client(app_of(runs), f"/{run.id}") as client:
        assert data_of(client.all()) == ["1", "2", "3", ""]


@pytest.mark.long_except("redis")
def test_a_run_has_an_async_source(channels: Channels) -> None:
    runs = Runs(channels)
    closed: list[bool] = []

    async def source(waits: bool) -> AsyncIterator[dict[str, Any]]:
        try:
            for n in range(50):
                await asyncio.sleep(0.001)
                yield {"data": n}
            if waits:
                await asyncio.sleep(60)
        finally:
            closed.append(True)

    run = runs.start(source(False))
    ended(runs, run.id, "done")
    with Client(app_of(runs), f"/{run.id}") as client:
        assert data_of(client.all()) == [*numbers(50), ""]
    run = runs.start(source(True), id="waits")
    until(lambda: len(channels.history("run:waits")) == 50, "the messages")
    assert run.stop()
    until(lambda: len(closed) == 2, "the source to be closed")
    assert runs.status("waits") == "stopped"
    # There is such a run, so this source is closed undrawn.
    assert runs.start(source(False), id="waits").status == "stopped"


@pytest.mark.long
def test_a_run_is_gone_after_its_ttl_and_its_ids_fit_no_later_run(channels: Channels) -> None:
    runs = Runs(channels, ttl=3)
    runs.start([{"data": 1}, {"data": 2}], id="answer")
    ended(runs, "answer", "done")
    app = app_of(runs)
    with Client(app, "/answer") as client:
        client.take(1)
        last_id = client.messages[0]["id"]
    until(lambda: runs.status("answer") is None, "the run to be gone")
    assert status_of(app, "/answer", last_id) == 204
    runs.start([{"data": n} for n in range(5)], id="answer")
    ended(runs, "answer", "done")
    with Client(app, "/answer", last_id) as client:
        assert data_of(client.all()) == [*numbers(5), ""]


def dead(channels: Channels, id: str = "answer", count: int = 3) -> Position:
    """A run with a producer that has died just now."""
    log = RunLog(broker_of(channels), id)
    begin = log.begin("continue", "", Bounds(100), 600.0)
    for n in range(count):
        terms = Terms(of=begin, lease=LEASE)
        log.broker.append(log.name, b"data: %d\n\n" % n, terms)
    return begin


@pytest.mark.long
def test_who_watches_a_run_whose_producer_dies_is_told_within_5_s(channels: Channels) -> None:
    runs = Runs(channels)
    ids = (f"answer{number}" for number in itertools.count())

    def death() -> float:
        id = next(ids)
        dead(channels, id)
        began = time.monotonic()
        with Client(app_of(runs), f"/{id}") as client:
            assert [each.get("event") for each in client.all()] == [None] * 3 + ["lost"]
        took = time.monotonic() - began
        assert runs.status(id) == "lost"
        return took

    at_best(death, 5)


@pytest.mark.long
def test_of_many_that_notice_a_dead_producer_one_ends_its_run(channels: Channels) -> None:
    dead(channels)
    until(lambda: RunLog(broker_of(channels), "answer").state().is_lapsed, "the lease to run out")
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(Runs(channels).status("answer")))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["lost"] * 5
    assert [each.get("event") for each in channels.history("run:answer")[3:]] == ["lost"]


def test_a_producer_whose_run_was_ended_as_lost_adds_nothing(channels: Channels) -> None:
    runs = Runs(channels)
    source = Source()
    source.let_out = 1
    runs.start(iter(source), id="answer")
    until(lambda: source.drawn == 1, "the source")
    log = RunLog(broker_of(channels), "answer")
    state = log.state()
    assert state is not None
    assert log.end(state.begin, "lost", b"event: lost\ndata: \n\n")
    source.let_out = 5
    until(source.closed.is_set, "the source to be closed")
    assert [each.get("event") for each in channels.history("run:answer")][-1] == "lost"
    assert runs.status("answer") == "lost"


@pytest.mark.long
@on_threads_and_greenlets
def test_a_run_without_watchers_is_stopped_if_it_is_to_be(channels: Channels) -> None:
    runs = Runs(channels, cancel_after=3)
    source = Source()
    runs.start(iter(source), id="answer", on_disconnect="cancel")
    app = app_of(runs)
    with Client(app, "/answer") as client:
        # For longer than it goes on without a watcher.
        for n in range(1, 9):
            gevent.sleep(0.5)
            source.let_out = n
            client.take(n)
        assert not source.closed.is_set()
    until(source.closed.is_set, "the source to be closed")
    ended(runs, "answer", "stopped")


def test_an_app_says_what_the_last_message_is(channels: Channels) -> None:
    runs = Runs(
        channels,
        last=lambda status, error: {"data": "[DONE]"} if status == "done" else None,
    )
    run = runs.start([{"data": 1}])
    ended(runs, run.id, "done")
    with Client(app_of(runs), f"/{run.id}") as client:
        assert data_of(client.all()) == ["1", "[DONE]"]


@on_threads_and_greenlets
@pytest.mark.parametrize("raised", RAISED)
def test_a_run_whose_last_message_fails_has_its_end(
    local: Make, raised: type[BaseException], log: Callable[[], Any]
) -> None:
    runs = Runs(local(), last=failing(raised))
    run = runs.start([{"data": 1}])
    ended(runs, run.id, "done")
    with Client(app_of(runs), f"/{run.id}") as client:
        assert data_of(client.all()) == ["1", ""]
    assert log() == [raised]


def test_wrong_arguments_are_refused(channels: Channels, runs: Runs) -> None:
    for wrong in ("", "x" * 81, "a b", "é"):
        for call in (
            lambda id: runs.start([], id=id),
            lambda id: runs.stream(id, None),
            runs.stop,
            runs.status,
        ):
            with pytest.raises(ValueError, match=r"^id "):
                call(wrong)
    source = iter(Source())
    with pytest.raises(ValueError, match="on_disconnect is"):
        runs.start(source, on_disconnect="go")  # type: ignore[arg-type]
    for text in ("text", {"data": 1}, 5):
        with pytest.raises(TypeError, match="source must be an iterable"):
            runs.start(text)  # type: ignore[arg-type]
    for options in ({"ttl": 0}, {"cancel_after": -1}, {"max_events": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
            Runs(channels, **options)  # type: ignore[arg-type]
    for seconds, what in (("5", "str"), (True, "bool"), (None, "None")):
        with pytest.raises(TypeError, match=rf"^ttl is a number of seconds, not {what}$"):
            Runs(channels, ttl=seconds)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="channels must be"):
        Runs("memory://")  # type: ignore[arg-type]
    run = runs.start([])
    assert isinstance(run, Run)
    ended(runs, run.id, "done")


def test_a_message_with_an_id_fails_the_run(runs: Runs, log: Callable[[], list[Any]]) -> None:
    run = runs.start([{"data": 1, "id": "7"}])
    ended(runs, run.id, "failed")
    assert len(log()) == 1


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (SystemExit, "failed"),
        (KeyboardInterrupt, "failed"),
        (GeneratorExit, "failed"),
        (gevent.GreenletExit, "lost"),
    ],
)
def test_whatever_a_source_raises_its_run_ends_and_others_go_on(
    runs: Runs, raised: type[BaseException], status: str
) -> None:
    def source() -> Iterator[dict[str, Any]]:
        yield {"data": 1}
        raise raised

    run = runs.start(source())
    ended(runs, run.id, status)
    with Client(app_of(runs), f"/{run.id}") as client:
        assert [each.get("event") for each in client.all()] == [None, status]
    following = runs.start([{"data": 1}])
    ended(runs, following.id, "done")


@pytest.mark.long_except("redis")
def test_a_run_may_have_any_id_of_the_allowed_characters(runs: Runs, channels: Channels) -> None:
    ids = ["-", "@", ".", "..", "run:run", "a+b", "A:b_c.d@e-f", "x" * 80]
    app = app_of(runs)
    for number, id in enumerate(ids):
        runs.start([{"data": number}], id=id)
    for number, id in enumerate(ids):
        ended(runs, id, "done")
        with Client(app, f"/{id}") as client:
            assert data_of(client.all()) == [str(number), ""]
            last_id = client.last_id
        assert status_of(app, f"/{id}", last_id) == 204
    # The slash is in no single part of a path.
    assert runs.start([], id="ann/7").id == "ann/7"
    ended(runs, "ann/7", "done")


@pytest.mark.parametrize("last_id", ["rubbish", "0", "-1", "a,b=c.1", "x" * 5000, "\xff"])
def test_a_watcher_whose_last_id_is_none_of_the_run_gets_all_of_it(
    runs: Runs, last_id: str
) -> None:
    runs.start([{"data": n} for n in range(3)], id="answer")
    ended(runs, "answer", "done")
    with Client(app_of(runs), "/answer", last_id) as client:
        assert data_of(client.all()) == [*numbers(3), ""]
