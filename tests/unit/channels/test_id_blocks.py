"""Ids for clients that were not sent the last entries."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from ssestream import Channels, SseStream
from ssestream.channels import id_blocks
from ssestream.stream import flow_of
from tests.kit.following import (
    Client,
    Following,
    Watched,
    all_handed_on,
    all_live,
    data_of,
    publish,
)
from tests.kit.insides import broker_of, heard
from tests.kit.programs import run_program
from tests.kit.states import nothing_remains, place_of
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


def withholds(message: dict[str, Any]) -> bool:
    """A filter for what has an exclamation mark."""
    return "!" in str(message["data"])


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
    app = Following(channels, "news", filter=withholds)
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


#: How the server ends a stream of an app that follows "news".
WAYS: dict[str, Callable[[Channels, SseStream], object]] = {
    "age": lambda channels, stream: flow_of(stream).pipes[0].body.retire("age"),
    "shutdown": lambda channels, stream: flow_of(stream).pipes[0].body.retire("shutdown"),
    "failure": lambda channels, stream: flow_of(stream).break_off(None),
    "end": lambda channels, stream: stream.end(),
    "cut": lambda channels, stream: channels.cut("news", "ann"),
    "close_channel": lambda channels, stream: channels.close_channel("news"),
    "close": lambda channels, stream: channels.close(),
}


class Own(Watched):
    """One with a ``push()`` of its own."""

    def push(self, frame: bytes) -> bool:
        return super().push(frame)


def ended_and_back(channels: Channels, app: Following, way: str) -> bool:
    """A client gets one event of each channel, then none of several, then its stream ends. It
    comes back when the log keeps the events of the end, and no more. Whether it got an id last.
    """
    names = sorted(app.names)
    with Client(app) as client:
        all_live(channels)
        for name in names:
            channels.publish(name, {"data": "first!"})
        got = client.take(len(names))
        for name in names:
            publish(channels, name, 8 // len(names))
        all_handed_on(channels)
        WAYS[way](channels, app.streams[0])
        assert data_of(client.all())[len(names) :] in ([], [None])  # none, or a retry alone
        is_told = client.last_id != got[-1]["id"]
    for name in names:
        publish(channels, name, 19)
    with Client(app, last_id=client.last_id) as client:
        for name in names:
            channels.publish(name, {"data": "now!"})
        assert data_of(client.take(len(names))) == ["now!"] * len(names)
    return is_told


@on_threads_and_greenlets
@pytest.mark.parametrize("way", WAYS)
def test_a_client_gets_its_id_before_its_stream_ends(way: str, make: Make) -> None:
    channels = make(history=20)
    app = Following(channels, "news", filter=withholds, key="ann")
    assert ended_and_back(channels, app, way)
    assert app.gaps == []


@on_threads_and_greenlets
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Watched, Own])
@pytest.mark.parametrize("names", ["news", "news,sports"])
def test_so_does_that_of_a_stream_of_any_kind(
    names: str, kind: type[Watched], way: str, local: Make
) -> None:
    channels = local(history=20)
    app = Following(channels, *names.split(","), kind=kind, filter=withholds, key="ann")
    assert ended_and_back(channels, app, way)
    assert app.gaps == []


@pytest.mark.parametrize("way", WAYS)
def test_without_the_blocks_it_gets_none(way: str, local: Make) -> None:
    channels = local(history=20)
    app = Following(channels, "news", stream={"id_blocks": False}, filter=withholds, key="ann")
    assert not ended_and_back(channels, app, way)
    assert app.gaps == ["news"]


@on_threads_and_greenlets
@pytest.mark.parametrize("way", ["cut", "close_channel"])
def test_what_ends_a_stream_is_no_gap_when_its_entry_is_too_old(way: str, make: Make) -> None:
    channels = make()
    app = Following(channels, "news", key="ann")
    with Client(app) as client:
        all_live(channels)
        publish(channels, "news", 1)
        client.take(1)
        WAYS[way](channels, app.streams[0])
        client.all()
    channels.keep("news", history_age=0.01)
    broker = broker_of(channels)
    until(lambda: not broker.read("news", 0, 9, 999).entries, "the entries to be old")
    with Client(app, last_id=client.last_id):
        all_live(channels)
    assert app.gaps == []


def response_of(app: Following) -> Any:
    return flow_of(app.streams[0]).pipes[0].destination


#: Why a client of "news" gets an id without an event.
CAUSES: dict[str, Callable[[Channels, SseStream], object]] = {
    "another channel": lambda channels, stream: channels.subscribe(stream, "sports"),
    "a filter": lambda channels, stream: publish(channels, "news", 10),
    "a gap": lambda channels, stream: channels.clear(),
}


@on_threads_and_greenlets
@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("half", ["data: first half", "data: first half\n"])
def test_an_id_comes_after_an_event_that_is_written_by_hand_in_pieces(
    half: str, cause: str, local: Make
) -> None:
    channels = local(history=20)
    channels.publish("news", {"data": "before"})
    app = Following(channels, "news", filter=withholds)
    with Client(app) as client:
        all_live(channels)
        before = place_of(client)
        response_of(app).write(half)
        client.read_until(half.encode())
        CAUSES[cause](channels, app.streams[0])
        until(lambda: cause != "a gap" or app.gaps, "the gap")
        all_handed_on(channels)
        all_live(channels)
        client.has_id()  # reads what has come
        assert client.last_id == before
        response_of(app).write("data: second half\n\n")
        [message] = client.take(1)
        assert message["data"].startswith("first half")
        assert "id" not in message
        until(lambda: client.has_id() and client.last_id != before, "its new place")


@on_threads_and_greenlets
@pytest.mark.parametrize("way", WAYS)
def test_no_id_completes_half_an_event_when_a_stream_ends(way: str, local: Make) -> None:
    channels = local(history=20)
    app = Following(channels, "news", filter=withholds, key="ann")
    with Client(app) as client:
        all_live(channels)
        before = place_of(client)
        publish(channels, "news", 8)
        all_handed_on(channels)
        response_of(app).write("data: half")
        WAYS[way](channels, app.streams[0])
        assert [message for message in client.all() if "data" in message] == []
        assert client.last_id == before


def test_a_stream_that_leaves_one_of_its_channels_gets_the_id_of_the_others(local: Make) -> None:
    channels = local(history=20)
    app = Following(channels, "news", "sports", filter=withholds)
    with Client(app) as client:
        all_live(channels)
        place_of(client)
        publish(channels, "news", 8)
        all_handed_on(channels)
        channels.unsubscribe(app.streams[0], "sports")
        app.streams[0].end()
        client.all()
    publish(channels, "news", 19)
    with Client(app, last_id=client.last_id) as client:
        channels.publish("news", {"data": "now!"})
        client.take(1)
    assert app.gaps == []


class Ending(SseStream):
    """One that ends instead of its first event."""

    def push(self, frame: bytes) -> bool:
        self.end()
        return super().push(frame)


def test_an_event_that_the_app_has_not_written_gives_no_id() -> None:
    channels = Channels("memory://", history=20)
    stream = Ending()
    channels.subscribe(stream, "news", filter=withholds)
    all_live(channels)
    publish(channels, "news", 3)
    all_handed_on(channels)
    last = channels.publish("news", {"data": "!"})
    until(lambda: stream.writable_ended, "the end")
    assert last.encode() not in b"".join(stream)


class Waiting(Watched):
    """One that waits before it writes an event."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.waits = self.may_write = False

    def push(self, frame: bytes) -> bool:
        self.waits = True
        try:
            until(lambda: self.may_write, "leave to write")
        finally:
            self.waits = False
        return super().push(frame)


@on_threads_and_greenlets
@pytest.mark.parametrize("way", ["age", "end"])
def test_nor_does_an_event_that_the_app_writes_when_the_stream_ends(way: str, local: Make) -> None:
    channels = local(history=20)
    app = Following(channels, "news", kind=Waiting, filter=withholds)
    with Client(app) as client:
        all_live(channels)
        place_of(client)
        publish(channels, "news", 3)
        all_handed_on(channels)
        channels.publish("news", {"data": "waits!"})
        stream = app.streams[0]
        assert isinstance(stream, Waiting)
        until(lambda: stream.waits, "the event")
        WAYS[way](channels, stream)
        assert data_of(client.all()) in ([], [None])
        assert stream.waits
        stream.may_write = True
    with Client(Following(channels, "news"), last_id=client.last_id) as client:
        assert "waits!" in data_of(client.take(4))
    nothing_remains(channels)


class WaitingOnce(Watched):
    """One that waits before it writes the event of the channel "news"."""

    waits = may_write = False

    def push(self, frame: bytes) -> bool:
        if b"waits!" in frame:
            self.waits = True
            until(lambda: self.may_write, "leave to write")
        return super().push(frame)


def keep_their_order(channels: Channels) -> None:
    """A client gets the event of "sports" after that of "news", which the app writes slowly."""
    channels.publish("news", {"data": "waits!"})
    app = Following(channels, "news", "sports", kind=WaitingOnce, latest=1)
    with Client(app) as client:
        until(lambda: app.streams and app.streams[0].waits, "the event")
        # The reader of "news" waits in push(), and the listener has the event of "sports".
        channels.publish("sports", {"data": "comes after"})
        until(lambda: heard(channels, "sports") == 1, "the listener to have it")
        gevent.sleep(0.01)  # enough for an event that is not held back
        client.has_id()  # reads what has come
        assert client.messages == []
        app.streams[0].may_write = True
        assert data_of(client.take(2)) == ["waits!", "comes after"]
        all_live(channels)
        publish(channels, "sports", 1)
        client.take(3)
    nothing_remains(channels)


@on_threads_and_greenlets
def test_no_event_of_another_channel_overtakes_one_that_the_app_writes(local: Make) -> None:
    keep_their_order(local(history=20))


#: Where the listener and the readers are greenlets, too, as in gunicorn's worker.
PATCHED = """
from gevent import monkey; monkey.patch_all()
import gevent
from ssestream import Channels
from tests.unit.channels.test_id_blocks import keep_their_order
gevent.spawn(keep_their_order, Channels("memory://", history=20)).get()
print("well")
"""


def test_the_same_in_the_greenlets_of_a_patched_process() -> None:
    done = run_program(PATCHED)
    assert done.stdout == "well\n", done.stderr


def test_one_that_has_all_ids_gets_none_at_the_end(make: Make) -> None:
    channels = make()
    app = Following(channels, "news", filter=lambda message: True)
    with Client(app) as client:
        place_of(client)
        all_live(channels)
        publish(channels, "news", 1)
        client.take(1)
        all_handed_on(channels)
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
