"""A client's positions in channels that its view does not follow yet, or no more."""

from collections.abc import Callable

import flask
import pytest

from ssestream import Channels, ServerResponse, SseStream
from ssestream.channels import exchange
from ssestream.channels.carried import NOTHING, rest_of
from ssestream.channels.ids import fits, parse_id
from tests.kit.following import Client, Following, all_live, data_of, numbers, publish
from tests.kit.states import nothing_remains, place_of
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


class Calls(flask.Flask):
    """An app whose view follows *names* by a call for each, and does *between* before the others.

    *between* is called with the client's stream.
    """

    def __init__(
        self,
        channels: Channels,
        *names: str,
        between: Callable[[SseStream], object] = lambda sse_stream: None,
    ) -> None:
        super().__init__(__name__)

        @self.get("/")
        def page() -> ServerResponse:
            res, sse_stream = ServerResponse(), SseStream(flask.request, send_timeout=None)
            sse_stream.pipe(res)
            channels.subscribe(sse_stream, names[0])
            between(sse_stream)
            for name in names[1:]:
                channels.subscribe(sse_stream, name)
            return res


def names_in(event_id: str) -> list[str]:
    return sorted(parse_id(event_id) or ())


@on_threads_and_greenlets
@pytest.mark.parametrize("first", ["news", "sports"])
def test_one_that_leaves_between_two_calls_loses_nothing(channels: Channels, first: str) -> None:
    second = "sports" if first == "news" else "news"
    publish(channels, "news", 1)
    publish(channels, "sports", 1)
    with Client(Following(channels, "news", "sports")) as client:
        place = place_of(client)
    # The client has left the view before it follows the second channel.
    with Client(Following(channels, first), last_id=place) as client:
        publish(channels, first, 1, 3)
        assert data_of(client.take(2)) == numbers(1, 3)
        assert [names_in(each) for each in client._ids] == [["news", "sports"]] * len(client._ids)
        place = client.last_id
    publish(channels, second, 3, 4)
    with Client(Calls(channels, first, second), last_id=place) as client:
        assert data_of(client.take(1)) == ["3"]
        publish(channels, first, 4, 5)
        assert data_of(client.take(2)) == ["3", "4"]
        assert names_in(client.last_id) == ["news", "sports"]


def test_events_between_two_calls_have_the_positions_of_both(channels: Channels) -> None:
    publish(channels, "news", 1)
    publish(channels, "sports", 1)
    with Client(Following(channels, "news", "sports")) as client:
        place = place_of(client)

    def between(sse_stream: SseStream) -> None:
        if sse_stream.last_event_id is not None:
            publish(channels, "news", 1, 2)
            until(lambda: channels.statistics()["news"].delivered == 1, "the event to be given")

    with Client(Calls(channels, "news", "sports", between=between), last_id=place) as client:
        publish(channels, "sports", 2, 3)
        assert data_of(client.take(2)) == ["1", "2"]
        assert all(names_in(each) == ["news", "sports"] for each in client._ids)


def test_the_place_of_a_page_is_carried_too(channels: Channels) -> None:
    publish(channels, "news", 1)
    publish(channels, "sports", 1)
    with Client(Following(channels, "news", "sports")) as client:
        place = place_of(client)
    with Client(Following(channels, "news", since=place)) as client:
        assert names_in(place_of(client)) == ["news", "sports"]


@on_threads_and_greenlets
def test_the_end_of_one_channel_is_not_the_end_of_those_of_another_call(channels: Channels) -> None:
    app = Calls(channels, "job", "news")
    publish(channels, "job", 1)
    publish(channels, "news", 1)
    with Client(Following(channels, "job", "news")) as client:
        place_of(client)
        channels.end("job")
        publish(channels, "news", 1, 2)
        client.take(1)
        until(lambda: client.has_id() and ".2." in client.last_id.split(",")[0], "the end to pass")
        place = client.last_id
    publish(channels, "news", 2, 3)
    with Client(app, last_id=place) as client:
        assert data_of(client.take(1)) == ["2"]
        place = client.last_id
        channels.end("news", {"data": 3})
        assert data_of(client.all()) == ["2", "3"]
        place = client.last_id
    answer = app.test_client().get("/", headers={"Last-Event-ID": place})
    assert answer.status_code == 204
    nothing_remains(channels)


@on_threads_and_greenlets
def test_a_channel_that_the_view_follows_no_more_leaves_the_ids(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(channels, "news", 1)
    publish(channels, "old", 1)
    with Client(Following(channels, "news", "old")) as client:
        place = place_of(client)
    monkeypatch.setattr(exchange, "CARRIED", 0.05)
    count = 0
    with Client(Following(channels, "news"), last_id=place) as client:

        def is_short() -> bool:
            nonlocal count
            publish(channels, "news", count, count + 1)
            count += 1
            client.take(count)
            return names_in(client.last_id) == ["news"]

        until(is_short, "an id without the other channel")
        assert data_of(client.messages) == numbers(count)
        all_live(channels)


@on_threads_and_greenlets
def test_a_stream_ends_with_its_channels_though_the_view_follows_another_no_more(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(channels, "job", 1)
    publish(channels, "old", 1)
    with Client(Following(channels, "job", "old")) as client:
        place = place_of(client)
    channels.end("job")
    monkeypatch.setattr(exchange, "CARRIED", 0.05)
    app = Following(channels, "job")
    with Client(app, last_id=place) as client:
        assert client.all() == []
        assert names_in(client.last_id) == ["job"]
        place = client.last_id
    answer = app.test_client().get("/", headers={"Last-Event-ID": place})
    assert answer.status_code == 204
    nothing_remains(channels)


def test_a_channel_that_is_left_is_carried_no_more(channels: Channels) -> None:
    publish(channels, "news", 1)
    publish(channels, "sports", 1)
    with Client(Following(channels, "news", "sports")) as client:
        place = place_of(client)
    app = Following(channels, "news")
    with Client(app, last_id=place) as client:
        channels.unsubscribe(app.streams[0], "sports")
        publish(channels, "news", 1, 2)
        client.take(1)
        assert names_in(client.last_id) == ["news"]


def test_no_more_is_carried_than_an_id_has_room_for() -> None:
    position = next(iter((parse_id("a=b.1") or {}).values()))
    many = {f"channel{number}": position for number in range(1000)}
    fitting = {name: many[name] for name in list(many)[:10]}
    assert fits(fitting)
    assert rest_of(fitting, ["channel0"]) == {name: many[name] for name in list(many)[1:10]}
    assert rest_of(fitting, list(fitting)) is NOTHING
    assert not fits(many)
    assert rest_of(fitting, list(many)[10:]) is NOTHING
