"""Ids for clients that were not sent the last entries."""

from collections.abc import Callable

import pytest

from ssestream import Channels, SseStream
from ssestream.channels import id_blocks
from tests.kit.following import Client, Following, all_live, data_of, publish
from tests.kit.insides import broker_of, heard
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
