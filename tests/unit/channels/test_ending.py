"""Channels that end and are deleted, and streams that begin with all that there is."""

import itertools
from collections.abc import Callable

import flask
import pytest

from ssestream import (
    ChannelEnded,
    Channels,
    MessageError,
    ServerResponse,
    SseStream,
)
from tests.kit.following import Client, Following, data_of, numbers, publish
from tests.kit.promptness import in_one_try
from tests.kit.states import nothing_remains
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


def status_of(app: flask.Flask, path: str = "/", last_id: str | None = None) -> int:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    return app.test_client().get(path, headers=headers).status_code


@on_threads_and_greenlets
def test_streams_end_after_the_end_of_their_channel(channels: Channels) -> None:
    with Client(Following(channels, "job")) as client:
        publish(channels, "job", 3)
        assert channels.end("job", {"event": "done", "data": "bye"})
        assert data_of(client.all()) == [*numbers(0, 3), "bye"]
    nothing_remains(channels)


def test_an_ended_channel_takes_no_message_and_ends_once(channels: Channels) -> None:
    publish(channels, "job", 1)
    assert channels.end("job", {"data": "bye"})
    assert not channels.end("job", {"data": "again"})
    assert not channels.channel("job").end()
    with pytest.raises(ChannelEnded, match="'job' has ended"):
        channels.publish("job", {"data": "late"})
    assert [each["data"] for each in channels.history("job")] == ["0", "bye"]
    channels.cut("job", "ann")
    channels.close_channel("job")


def test_a_wrong_last_message_ends_nothing(channels: Channels) -> None:
    with pytest.raises(MessageError):
        channels.end("job", {"data": "x", "id": "7"})
    with pytest.raises(ValueError, match="ttl must be positive"):
        channels.end("job", ttl=0)
    channels.publish("job", {"data": "x"})


@on_threads_and_greenlets
def test_a_late_client_gets_all_and_then_the_end(channels: Channels) -> None:
    publish(channels, "job", 300)
    channels.end("job", {"data": "bye"})
    app = Following(channels, "job")
    for _ in range(2):
        with Client(app) as client:
            assert data_of(client.all()) == [*numbers(0, 300), "bye"]
    with Client(Following(channels, "job", latest=2)) as client:
        assert data_of(client.all()) == ["299", "bye"]
    assert app.gaps == []
    nothing_remains(channels)


@on_threads_and_greenlets
def test_a_client_that_has_all_is_answered_with_204(channels: Channels) -> None:
    ids = publish(channels, "job", 3)
    channels.end("job", {"data": "bye"})
    app = Following(channels, "job")
    with Client(app, last_id=ids[1]) as client:
        assert data_of(client.all()) == ["2", "bye"]
        last = client.messages[-1]["id"]
        end = client.last_id
    assert end != last
    # It may have left before it got the last id of all.
    for last_id in (last, end):
        assert status_of(app, last_id=last_id) == 204
    nothing_remains(channels)


def test_a_client_of_a_channel_that_ended_without_a_message_is_answered_with_204(
    channels: Channels,
) -> None:
    channels.end("job")
    assert status_of(Following(channels, "job")) == 204


def test_a_stream_that_is_piped_after_it_has_subscribed_is_answered_with_204_too(
    channels: Channels,
) -> None:
    channels.end("job")
    app = flask.Flask(__name__)

    @app.get("/")
    def view() -> ServerResponse:
        sse_stream = SseStream(flask.request)
        channels.subscribe(sse_stream, "job")
        return sse_stream.pipe(ServerResponse())

    assert status_of(app) == 204
    nothing_remains(channels)


@on_threads_and_greenlets
def test_a_stream_of_several_channels_ends_after_the_last_of_them(channels: Channels) -> None:
    app = Following(channels, "a", "b")
    with Client(app) as client:
        publish(channels, "a", 1)
        channels.end("a", {"data": "end of a"})
        client.take(2)
        publish(channels, "b", 2)
        assert data_of(client.take(4))[2:] == ["0", "1"]
        last_id = client.last_id
    # It comes back, and goes on with the other.
    with Client(app, last_id=last_id) as client:
        channels.end("b", {"data": "end of b"})
        assert data_of(client.all()) == ["end of b"]
        last_id = client.last_id
    assert status_of(app, last_id=last_id) == 204
    assert app.gaps == []
    nothing_remains(channels)


def test_a_slow_client_gets_all_and_the_end(channels: Channels) -> None:
    app = Following(channels, "job", stream={"max_messages": 20})
    with Client(app) as client:
        publish(channels, "job", 400)
        channels.end("job", {"data": "bye"})
        assert data_of(client.all()) == [*numbers(0, 400), "bye"]
    assert app.gaps == []


def test_a_filter_withholds_the_last_message_and_not_the_end(channels: Channels) -> None:
    app = Following(channels, "job", filter=lambda message: message["data"] != "bye")
    with Client(app) as client:
        publish(channels, "job", 2)
        channels.end("job", {"data": "bye"})
        assert data_of(client.all()) == ["0", "1"]
        last_id = client.last_id
    assert status_of(app, last_id=last_id) == 204


def test_the_end_is_told_when_its_entry_is_too_old(make: Make) -> None:
    channels = make()
    ids = publish(channels, "job", 1)
    channels.end("job", {"data": "bye"})
    channels.keep("job", history_age=0.01)
    until(lambda: not channels.history("job"), "the events to be old")
    app = Following(channels, "job")
    with Client(app, last_id=ids[0]) as client:
        assert client.all() == []
        last_id = client.last_id
    assert app.gaps == ["job"]
    assert status_of(app, last_id=last_id) == 204


# -- since the start


@on_threads_and_greenlets
def test_a_client_begins_at_the_start(channels: Channels) -> None:
    publish(channels, "job", 600)
    app = Following(channels, "job", "none", since="start")
    with Client(app) as client:
        publish(channels, "none", 600, 601)
        client.take(601)
        last_id = client.last_id
        assert sorted(map(int, data_of(client.messages))) == list(range(601))
    publish(channels, "job", 601, 603)
    with Client(app, last_id=last_id) as client:
        assert data_of(client.take(2)) == ["601", "602"]
    assert app.gaps == []


def test_a_client_that_begins_at_the_start_is_told_if_it_is_gone(make: Make) -> None:
    channels = make(history=5)
    publish(channels, "job", 8)
    app = Following(channels, "job", since="start", on_gap=lambda name: f"gap of {name}")
    with Client(app) as client:
        assert data_of(client.take(6)) == ["gap of job", *numbers(3, 8)]
    assert app.gaps == ["job"]


# -- deleted


@on_threads_and_greenlets
def test_a_deleted_channel_begins_anew(channels: Channels) -> None:
    ids = publish(channels, "job", 3)
    channels.end("job")
    channels.delete("job")
    assert channels.history("job") == []
    publish(channels, "job", 10, 15)
    app = Following(channels, "job")
    with Client(app, last_id=ids[2]) as client:
        assert data_of(client.take(5)) == numbers(10, 15)
    assert app.gaps == ["job"]
    channels.channel("job").delete()


def test_a_stream_of_a_deleted_channel_is_told_of_a_gap(channels: Channels) -> None:
    app = Following(channels, "job")
    with Client(app) as client:
        publish(channels, "job", 2)
        client.take(2)
        channels.delete("job")
        publish(channels, "job", 5, 7)
        assert data_of(client.take(4))[2:] == ["5", "6"]
    assert app.gaps == ["job"]


@pytest.mark.long
def test_an_ended_channel_is_gone_after_its_ttl(channels: Channels) -> None:
    names = (f"job{number}" for number in itertools.count())

    def end() -> tuple[bool, int]:
        name = next(names)
        publish(channels, name, 2)
        channels.end(name, {"data": "bye"}, ttl=2)
        kept = len(channels.history(name))
        until(lambda: channels.history(name) == [], "the channel to be gone")
        channels.publish(name, {"data": "new"})
        return kept == 3, kept

    # A test that has no turn for so long looks too late.
    in_one_try(end)


def test_one_channel_may_have_a_history_and_a_ttl_of_its_own(make: Make) -> None:
    channels = make(history=5)
    own = channels.channel("job", history=20, ttl=60)
    for n in range(30):
        own.publish({"data": n})
        channels.publish("news", {"data": n})
    assert (len(own.history()), len(channels.history("news"))) == (20, 5)
    short = channels.channel("short", ttl=0.1)
    short.publish({"data": 1})
    until(lambda: short.history() == [], "the channel to be gone")
    for wrong in ({"history": 0}, {"history_age": -1}, {"ttl": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            channels.channel("job", **wrong)  # type: ignore[arg-type]


def test_keep_gives_a_channel_a_ttl(channels: Channels) -> None:
    publish(channels, "job", 2)
    channels.keep("job", ttl=0.1)
    until(lambda: channels.history("job") == [], "the channel to be gone")
