"""Ids for clients that were not sent the last entries."""

from collections.abc import Callable

import pytest

from ssestream import Channels, SseStream
from ssestream.channels import id_blocks
from ssestream.stream import flow_of
from tests.kit.following import Client, Following, all_live, data_of, publish
from tests.kit.insides import broker_of, heard, unsent_to
from tests.kit.states import place_of
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


def test_blocks_with_an_id_can_be_switched_off(make: Make) -> None:
    channels = make()
    app = Following(channels, "news", stream={"id_blocks": False})
    with Client(app) as client:
        all_live(channels)
        publish(channels, "news", 1)
        client.take(1)
        assert len(client._ids) == 1
    app = Following(channels, "news")
    app.config["SSESTREAM_ID_BLOCKS"] = False
    with Client(app) as client:
        all_live(channels)
        publish(channels, "news", 1, 2)
        client.take(1)
        assert len(client._ids) == 1
    with pytest.raises(TypeError, match="id_blocks is a bool, not str"):
        SseStream(id_blocks="no")  # type: ignore[arg-type]


@on_threads_and_greenlets
def test_what_a_filter_withholds_makes_no_gap(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_blocks, "TELL", 0.05)
    channels = make(history=10)
    app = Following(channels, "news", filter=lambda message: "!" in str(message["data"]))
    with Client(app) as client:
        place_of(client)
        all_live(channels)
        for number in range(1, 26):
            last = channels.publish("news", {"data": str(number)})
            until(lambda n=number: heard(channels, "news") == n, "the listener to have it")
        until(lambda: client.has_id() and client.last_id == last, "its place")
        assert client.messages == []
    with Client(app, last_id=client.last_id) as client:
        channels.publish("news", {"data": "now!"})
        assert data_of(client.take(1)) == ["now!"]
    assert app.gaps == []


#: How the server ends a stream.
WAYS: dict[str, Callable[[SseStream], object]] = {
    "age": lambda stream: flow_of(stream).pipes[0].body.retire("age"),
    "shutdown": lambda stream: flow_of(stream).pipes[0].body.retire("shutdown"),
    "failure": lambda stream: flow_of(stream).break_off(None),
    "end": lambda stream: stream.end(),
}


@on_threads_and_greenlets
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("has_blocks", [True, False])
def test_a_client_gets_its_id_before_its_stream_ends(
    has_blocks: bool, way: str, make: Make
) -> None:
    channels = make(history=20)
    app = Following(
        channels,
        "news",
        stream={"id_blocks": has_blocks},
        filter=lambda message: "!" in str(message["data"]),
    )
    with Client(app) as client:
        all_live(channels)
        first = channels.publish("news", {"data": "first!"})
        client.take(1)
        last = publish(channels, "news", 9)[-1]
        until(lambda: unsent_to(channels) == [9], "the withheld events")
        WAYS[way](app.streams[0])
        assert data_of(client.all())[0] == "first!"
        assert client.last_id == (last if has_blocks else first)
    publish(channels, "news", 15)
    with Client(app, last_id=client.last_id) as client:
        channels.publish("news", {"data": "now!"})
        client.take(1)
    assert app.gaps == ([] if has_blocks else ["news"])


class Ending(SseStream):
    """One that ends instead of its first event."""

    def push(self, frame: bytes) -> bool:
        self.end()
        return super().push(frame)


def test_an_event_that_the_app_has_not_written_gives_no_id() -> None:
    channels = Channels("memory://", history=20)
    stream = Ending()
    channels.subscribe(stream, "news", filter=lambda message: "!" in str(message["data"]))
    all_live(channels)
    publish(channels, "news", 3)
    until(lambda: unsent_to(channels) == [3], "the withheld events")
    last = channels.publish("news", {"data": "!"})
    until(lambda: stream.writable_ended, "the end")
    assert last.encode() not in b"".join(stream)


def test_one_that_has_all_ids_gets_none_at_the_end(make: Make) -> None:
    channels = make()
    app = Following(channels, "news", filter=lambda message: True)
    with Client(app) as client:
        place_of(client)
        all_live(channels)
        publish(channels, "news", 1)
        client.take(1)
        until(lambda: unsent_to(channels) == [], "its place to be known")
        app.streams[0].end()
        client.all()
        assert client.received.count(b"id: ") == 2


def test_a_client_that_reads_nothing_is_not_flooded_with_its_places() -> None:
    channels = Channels("memory://", history=2)
    stream = SseStream(high_water_mark=2, max_messages=4)
    channels.subscribe(stream, "news", filter=lambda message: False)
    all_live(channels)
    for number in range(10, 110, 10):
        # While the listener waits for the lock, the log drops all but two of these.
        with broker_of(channels).lock:
            publish(channels, "news", 10)
        until(lambda n=number: heard(channels, "news") == n, "the listener to have them")
        all_live(channels)
    assert channels.statistics()["news"].gaps > 5
    assert not stream.destroyed
    assert stream.writable_length <= 4
    stream.destroy()
