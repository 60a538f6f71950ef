"""The numbers of the channels of one process."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request

from ssestream import BrokerError, ChannelEnded, Channels, Runs, ServerResponse, SseStream
from ssestream.metrics import Metrics
from ssestream.metrics.channel_numbers import ChannelNumbers, Group
from ssestream.metrics.number import Labels
from tests.kit.failing import RAISED, failing
from tests.kit.following import Following
from tests.kit.servers import PATIENCE
from tests.kit.visit import Visit, until


def first_word(name: str) -> str | None:
    return None if name == "hidden" else name.partition(".")[0]


class Read:
    """The samples of *channels*, by the names of the numbers."""

    def __init__(self, channels: Channels, group: Group | None = first_word) -> None:
        self.numbers = ChannelNumbers(channels, group)

    def __getitem__(self, name: str) -> dict[Labels, float]:
        return {number.name: number for number in self.numbers.read()}[name].samples


def follower_of(channels: Channels) -> Flask:
    app = Flask("app")

    @app.get("/<path:names>")
    def view(names: str) -> ServerResponse:
        sse_stream = SseStream(request)
        channels.subscribe(sse_stream, *names.split("/"))
        return sse_stream.pipe(ServerResponse())

    return app


def test_channels_are_counted_in_the_groups_that_the_app_names() -> None:
    channels = Channels()
    app = follower_of(channels)
    read, everything = Read(channels), Read(channels, None)
    with Visit(app, "/user.1/news/hidden") as one, Visit(app, "/user.2/user.1") as two:
        one.read_until(b":ok")
        two.read_until(b":ok")
        assert read["followed_channels"] == {("user",): 2, ("news",): 1}
        assert read["channel_followers"] == {("user",): 3, ("news",): 1}
        assert read["lagging_followers"] == {("user",): 0, ("news",): 0}
        assert read["lagging_events"] == {("user",): 0, ("news",): 0}
        assert read["greatest_lag_seconds"] == {("user",): 0, ("news",): 0}
        assert everything["channel_followers"] == {("all",): 5}


def test_the_state_of_the_broker_is_one_of_three() -> None:
    channels = Channels()
    read = Read(channels)
    channels.publish("news", {"data": "1"})
    idle = {("idle",): 1, ("listening",): 0, ("down",): 0}
    assert read["broker_states"] == idle
    with Visit(follower_of(channels), "/news") as visit:
        visit.read_until(b":ok")
        until(lambda: channels.state == "listening", "the listener")
        assert read["broker_states"] == {("idle",): 0, ("listening",): 1, ("down",): 0}
        assert read["processes_without_broker"] == {(): 0}


def test_a_broker_that_is_down_is_told_and_what_it_does_not_store() -> None:
    channels = Channels("sqlite:////nowhere/at/all/events.db")
    read = Read(channels)
    with Visit(follower_of(channels), "/news") as visit:
        visit.read_until(b":ok")
        until(lambda: channels.state == "down", "the failure")
        assert read["processes_without_broker"] == {(): 1}
        assert read["broker_states"] == {("idle",): 0, ("listening",): 0, ("down",): 1}
        with pytest.raises(BrokerError):
            channels.publish("news", {"data": "1"})
        assert read["failed_publications"] == {("news",): 1}
        assert read["publish_seconds"] == {}


@pytest.fixture(params=["memory://", "sqlite:///{}"])
def channels(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Channels]:
    made = Channels(request.param.format(tmp_path / "events.db"))
    yield made
    made.close()


def test_each_message_is_timed_in_its_group_and_no_control_frame(channels: Channels) -> None:
    read = Read(channels)
    for number in range(3):
        channels.publish("user.1", {"data": str(number)})
    channels.publish("hidden", {"data": "secret"})
    channels.close_channel("user.1")
    channels.end("news", {"data": "the last"})
    channels.end("user.1")
    with pytest.raises(ChannelEnded):
        channels.publish("news", {"data": "too late"})
    with channels.channel("job.1").producer() as job:
        job.publish({"data": "half"})
    samples = read["publish_seconds"]
    # A producer has a last message.
    counts = {labels[0]: value for labels, value in samples.items() if labels[1] == "+Inf"}
    assert counts == {"user": 3, "news": 1, "job": 2}
    assert 0 < samples[("user", "sum")] < PATIENCE
    # A rate needs the zero before the first.
    assert read["failed_publications"] == {("user",): 0, ("news",): 0, ("job",): 0}


def test_the_messages_of_a_run_are_timed() -> None:
    channels = Channels()
    read = Read(channels, lambda name: name.partition(":")[0])
    runs = Runs(channels)
    runs.start(({"data": str(number)} for number in range(5)), id="answer")
    until(lambda: runs.status("answer") == "done", "the end of the run")
    # Its end is a message, too.
    assert read["publish_seconds"][("run", "+Inf")] == 6


def test_the_counts_of_a_channel_stay_when_nobody_follows_it() -> None:
    channels = Channels(history=2)
    read = Read(channels)
    channels.publish("news", {"data": "0"})
    (first,) = channels.history("news")
    for number in range(1, 5):
        channels.publish("news", {"data": str(number)})
    app = Following(channels, "news")
    for visits in (1, 2):
        # The log keeps two of the four that this client has missed.
        with Visit(app, HTTP_LAST_EVENT_ID=str(first["id"])) as visit:
            visit.read_until(b"data: 4")
            until(lambda: channels.statistics()["news"].delivered == 2, "both to be counted")
            assert read["gaps"] == {("news",): visits}
            assert read["replayed_events"] == {("news",): 2 * visits}
        until(lambda: "news" not in channels.statistics(), "the departure")
        assert read["gaps"] == {("news",): visits}
        assert read["replayed_events"] == read["delivered_events"] == {("news",): 2 * visits}
        assert read["followed_channels"] == {}


def test_a_stream_that_is_behind_has_a_lag_in_events_and_in_seconds() -> None:
    channels = Channels()
    read = Read(channels)
    app = Following(channels, "news")
    with Visit(app, send_buffer=4096) as slow, Visit(app) as quick:
        slow.read_until(b":ok\n\n")
        quick.read_until(b":ok\n\n")
        until(lambda: channels.statistics()["news"].lagging == 0, "both to be live")
        line = "x" * 4000
        for number in range(200):
            channels.publish("news", {"data": f"{number} {line}"})
        quick.read_until(b"199 xxx")
        until(lambda: read["lagging_followers"] == {("news",): 1}, "one to be behind")
        behind = read["lagging_events"][("news",)]
        assert 50 < behind < 200
        lag = read["greatest_lag_seconds"][("news",)]
        until(lambda: read["greatest_lag_seconds"][("news",)] > lag > 0, "the lag to grow")
        slow.read_until(b"199 xxx")
        until(lambda: read["lagging_followers"] == {("news",): 0}, "it to be live")
        assert read["lagging_events"] == {("news",): 0}
        assert read["greatest_lag_seconds"] == {("news",): 0}


async def later() -> str:
    return "user"


@pytest.mark.parametrize(
    "group",
    [*map(failing, [KeyError, *RAISED]), lambda name: later(), lambda name: object()],
    ids=["KeyError", *(each.__name__ for each in RAISED), "coroutine", "object"],
)
def test_a_group_that_fails_is_told_once_and_harms_nobody(
    group: Any, caplog: pytest.LogCaptureFixture
) -> None:
    channels = Channels()
    read = Read(channels, group)
    with Visit(follower_of(channels), "/news") as visit:
        visit.read_until(b":ok")
        channels.publish("news", {"data": "1"})
        channels.publish("news", {"data": "2"})
        visit.read_until(b"data: 2")
        assert read["channel_followers"] == {}
        assert read["publish_seconds"] == {}
    until(lambda: not channels.statistics(), "the departure")
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [each.getMessage() for each in errors] == [
        "metrics: the group of the channel 'news' is not known"
    ]


def test_nothing_is_timed_before_somebody_counts() -> None:
    channels = Channels("memory://")
    broker = channels.current_exchange().broker
    assert "append" not in vars(broker)
    Metrics(channels=channels)
    assert "append" in vars(broker)


def test_threads_publish_at_once_and_each_message_counts() -> None:
    channels = Channels()
    read = Read(channels)

    def publish() -> None:
        for _ in range(100):
            channels.publish("news", {"data": "1"})

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert read["publish_seconds"][("news", "+Inf")] == 400


def test_each_broker_of_the_apps_of_one_channels_is_counted(tmp_path: Path) -> None:
    channels = Channels()
    read = Read(channels)
    apps = [Flask("one"), Flask("two")]
    for number, app in enumerate(apps):
        app.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/{number}.db"
        channels.init_app(app)
        with app.app_context():
            channels.publish("news", {"data": "1"})
    # Outside of all apps, where no single broker is meant.
    assert read["publish_seconds"][("news", "+Inf")] == 2
    assert read["broker_states"][("idle",)] == 2
    channels.close()
