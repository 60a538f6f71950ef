"""Runs while their broker is away, and what is kept of them for how long."""

from collections.abc import Callable
from typing import Any

import flask
import gevent
import pytest

from ssestream import BrokerError, Channels, Runs
from ssestream.brokers.broker import PLAIN, Position, Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from tests.kit.following import Client, data_of, numbers
from tests.kit.insides import over
from tests.kit.runs import Source
from tests.kit.visit import until


class Away(MemoryBroker):
    is_away = False

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        if self.is_away:
            raise BrokerError("away")
        return super().append(channel, frame, terms)

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        if self.is_away:
            raise BrokerError("away")
        return super().read(channel, after, limit, max_bytes)


def app_of(runs: Runs, **options: Any) -> flask.Flask:
    app = flask.Flask(__name__)
    app.testing = True

    @app.get("/<id>")
    def again(id: str) -> Any:
        return runs.stream(id, flask.request, **options)

    return app


def test_a_watcher_that_comes_while_the_broker_is_away_gets_all_of_it_later() -> None:
    broker = Away()
    runs = Runs(over(broker))
    runs.start([{"data": n} for n in range(3)], id="answer", key="ann")
    until(lambda: runs.status("answer") == "done", "the end")
    broker.is_away = True
    with Client(app_of(runs), "/answer") as client:
        broker.is_away = False
        assert data_of(client.all()) == [*numbers(3), ""]
    broker.is_away = True
    # Nobody can say whether the run is this client's.
    with pytest.raises(BrokerError, match="away"):
        app_of(runs, key="bob").test_client().get("/answer")


def test_a_watcher_that_comes_while_the_broker_is_away_keeps_its_run_from_being_stopped() -> None:
    broker = Away()
    channels = over(broker)
    runs = Runs(channels)
    source = Source()
    runs.start(iter(source), id="answer", on_disconnect="cancel")
    broker.is_away = True
    with Client(app_of(runs), "/answer") as client:
        broker.is_away = False
        source.let_out = 1
        assert data_of(client.take(1)) == ["0"]
        assert channels.channel("run:answer").watchers() == 1
    until(lambda: channels.channel("run:answer").watchers() == 0, "the watcher to leave")
    runs.stop("answer")
    until(source.closed.is_set, "the source to be closed")


def test_what_needs_the_broker_says_that_it_is_away() -> None:
    broker = Away()
    runs = Runs(over(broker))
    broker.is_away = True
    source = ({"data": n} for n in range(3))
    with pytest.raises(BrokerError, match="away"):
        runs.start(source, id="answer")
    assert list(source) == []
    for call in (runs.stop, runs.status):
        with pytest.raises(BrokerError, match="away"):
            call("answer")


@pytest.mark.long
def test_a_silent_run_is_kept_for_longer_than_its_ttl_and_the_age_of_a_history(
    make: Callable[..., Channels],
) -> None:
    channels = make(history=5, history_age=0.5)
    runs = Runs(channels, ttl=0.5)

    def source() -> Any:
        yield {"data": 0}
        gevent.sleep(2)
        yield {"data": 1}

    runs.start(source(), id="answer")
    with Client(app_of(runs), "/answer") as client:
        assert data_of(client.take(2)) == ["0", "1"]
        assert [each["data"] for each in channels.history("run:answer")][:1] == ["0"]
    until(lambda: runs.status("answer") is None, "the run to be gone")


@pytest.mark.long_except("redis")
def test_forty_watchers_get_all_of_a_run_once_and_never_before_it_is_stored(
    channels: Channels,
) -> None:
    runs = Runs(channels)

    def source() -> Any:
        for n in range(60):
            gevent.sleep(0.01)
            yield {"data": n}

    runs.start(source(), id="answer")
    app = app_of(runs)
    clients = [Client(app, "/answer") for _ in range(40)]
    got = len(clients[0].take(5))
    assert len(channels.history("run:answer")) >= got
    for client in clients:
        assert data_of(client.all()) == [*numbers(60), ""]
        client.__exit__(None, None, None)
