"""Which way a broadcast takes to each stream, and that each stream gets all by every way."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from gevent.monkey import get_original

from ssestream import Channels, ServerResponse, SseStream
from ssestream.http.output import OutputBuffer
from ssestream.pipe import Pipe
from tests.kit.following import Client, data_of, numbers
from tests.kit.visit import as_a_greenlet, until

#: The numbers in the table of ``fanout``. 1 and 2 are of `SseWorker` alone.
TO_THE_READER, INTO_THE_BUFFER, THROUGH_THE_QUEUE = 3, 4, 5


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ways that were taken."""
    taken: list[int] = []

    def note(owner: type, name: str, way: int, has: Callable[..., bool]) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def noting(self: Any, *args: Any) -> Any:
            result = real(self, *args)
            if has(result, *args):
                taken.append(way)
            return result

        monkeypatch.setattr(owner, name, noting)

    note(OutputBuffer, "hand_to_reader", TO_THE_READER, lambda waker, *_: waker is not None)
    # A block with an id alone counts as no message.
    note(OutputBuffer, "put_if_clear", INTO_THE_BUFFER, lambda put, _, count: put and count > 0)
    note(Pipe, "put", THROUGH_THE_QUEUE, lambda *_: True)
    return taken


class Seeing(SseStream):
    """An app's stream, with a ``push()`` of its own."""

    def push(self, frame: bytes) -> bool:
        return super().push(frame)


class Collected:
    """A destination that is no response."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)


def app_of(channels: Channels, kind: str) -> Flask:
    app = Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        res = ServerResponse()
        sse_stream = (Seeing if kind == "a push of its own" else SseStream)(request)
        sse_stream.pipe(res)
        if kind == "two pipes":
            sse_stream.pipe(Collected())
        names = ("news", "sports") if kind == "two channels" else ("news",)
        only = (lambda message: True) if kind == "a filter" else None
        channels.subscribe(sse_stream, *names, filter=only)
        return res

    return app


def follow(kind: str, ways: list[int]) -> set[int]:
    """The ways that two events take to a client that follows as *kind* says."""
    channels = Channels()
    for name in ("news", "sports"):
        channels.publish(name, {"data": "before"})
    with Client(app_of(channels, kind)) as client:
        until(client.has_id, "its place")
        ways.clear()
        for number in range(2):
            channels.publish("news", {"data": str(number)})
            assert data_of(client.take(number + 1)) == numbers(number + 1)
        return set(ways)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("plain", TO_THE_READER),
        ("a filter", INTO_THE_BUFFER),
        ("two channels", INTO_THE_BUFFER),
        ("a push of its own", INTO_THE_BUFFER),
        ("two pipes", THROUGH_THE_QUEUE),
    ],
)
@pytest.mark.usefixtures("greenlets_listen")
@as_a_greenlet
def test_a_stream_in_a_greenlet_takes_the_shortest_way_that_it_can(
    kind: str, way: int, ways: list[int]
) -> None:
    assert follow(kind, ways) == {way}


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("plain", INTO_THE_BUFFER),
        ("a filter", INTO_THE_BUFFER),
        ("two channels", INTO_THE_BUFFER),
        ("a push of its own", INTO_THE_BUFFER),
        ("two pipes", THROUGH_THE_QUEUE),
    ],
)
def test_a_stream_in_a_thread_is_given_nothing_past_its_buffer(
    kind: str, way: int, ways: list[int]
) -> None:
    assert follow(kind, ways) == {way}


@pytest.mark.usefixtures("greenlets_listen")
@as_a_greenlet
def test_a_destination_that_is_no_response_gets_all_through_the_queue(ways: list[int]) -> None:
    channels = Channels()
    sse_stream, destination = SseStream(), Collected()
    sse_stream.pipe(destination)
    channels.subscribe(sse_stream, "news")
    ways.clear()
    for number in range(3):
        channels.publish("news", {"data": str(number)})
    until(lambda: sum(b"data: " in each for each in destination.frames) == 3, "all events")
    assert set(ways) == {THROUGH_THE_QUEUE}
    sse_stream.end()


@pytest.mark.usefixtures("greenlets_listen")
@as_a_greenlet
def test_what_an_app_writes_goes_past_the_queue_unless_it_has_a_callback(ways: list[int]) -> None:
    streams: list[SseStream] = []
    app = Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        res = ServerResponse()
        streams.append(SseStream(request))
        streams[0].pipe(res)
        return res

    with Client(app) as client:
        ways.clear()
        streams[0].write({"data": "0"})
        streams[0].push(b"data: 1\n\n")
        assert ways == [INTO_THE_BUFFER] * 2
        streams[0].write({"data": "2"}, lambda error: None)
        assert data_of(client.take(3)) == numbers(3)
        assert ways == [INTO_THE_BUFFER] * 2 + [THROUGH_THE_QUEUE]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.usefixtures("greenlets_listen")
@as_a_greenlet
def test_a_thread_that_subscribes_during_a_broadcast_has_the_client_get_an_id_with_both_channels(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = Channels()
    streams: list[SseStream] = []
    app = Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        res = ServerResponse()
        streams.append(SseStream(request))
        streams[-1].pipe(res)
        channels.subscribe(streams[-1], *request.args["names"].split(","))
        return res

    real = OutputBuffer.hand_to_reader

    def hand_to_reader(self: Any, *args: Any) -> Any:
        waker = real(self, *args)
        if waker is not None and len(streams) == 1:
            # Not gevent's thread, which would give way.
            thread = get_original("threading", "Thread")(
                target=channels.subscribe, args=(streams[0], "sports")
            )
            thread.start()
            thread.join()
        return waker

    channels.publish("news", {"data": "before"})
    if known:
        channels.publish("sports", {"data": "before"})
    with Client(app, "/?names=news") as client:
        until(client.has_id, "its place")
        monkeypatch.setattr(OutputBuffer, "hand_to_reader", hand_to_reader)
        channels.publish("news", {"data": "1"})
        assert data_of(client.take(1)) == ["1"]
        with Client(app, "/?names=news,sports") as other:
            until(other.has_id, "its place")
            until(lambda: client.has_id() and client.last_id == other.last_id, "its id")
