"""One broker and the streams of this process: how they end, and what a failed one leaves."""

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssestream import Channels, MessageError, SseStream
from ssestream.brokers.broker import Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels import leases, watchers
from tests.kit.following import Client, Following, data_of, publish
from tests.kit.insides import broker_of, exchange_of, listener_of, over
from tests.kit.sink import Sink
from tests.kit.states import nothing_remains
from tests.kit.visit import until

Make = Callable[..., Channels]


def held(folder: Path) -> set[Any]:
    """This process's open files below *folder*, and its TCP connections."""
    process = psutil.Process()
    files = {each.path for each in process.open_files() if each.path.startswith(str(folder))}
    return files | {(each.laddr, each.raddr) for each in process.net_connections("tcp")}


def test_close_ends_the_streams_the_listener_and_the_connections(
    make: Make, tmp_path: Path
) -> None:
    channels, other = make(), make()
    before = held(tmp_path)
    publish(channels, "news", 2)
    with (
        Client(Following(channels, "news", latest=2)) as client,
        Client(Following(channels, "news", "sports")),
    ):
        client.take(2)
        until(lambda: channels.state == "listening", "the listener")
        assert broker_of(channels).shared == bool(held(tmp_path) - before)
        channels.close()
        assert channels.state == "idle"
        assert not listener_of(channels).is_running
        assert data_of(client.all()) == ["0", "1"]
    nothing_remains(channels)
    until(lambda: not held(tmp_path) - before, "the connections to be closed")
    # It opens again, for whoever asks.
    assert len(channels.history("news")) == 2
    with Client(Following(channels, "news", latest=1)) as client:
        publish(channels, "news", 2, 3)
        assert data_of(client.take(2)) == ["1", "2"]
    other.close()
    other.close()


def test_after_close_nothing_of_a_counted_stream_or_of_on_empty_uses_the_broker(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    channels = make()
    there = make() if broker_of(channels).shared else channels
    assert there.channel("room").watchers() == 0
    before = held(tmp_path)
    called: list[str] = []
    channels.channel("room").on_empty(called.append, grace=0)
    with Client(Following(channels, "room", counted=True)):
        until(lambda: there.channel("room").watchers() == 1, "it to be counted")
        channels.close()
        assert there.channel("room").watchers() == 0
    until(lambda: not exchange_of(channels).watchers.is_running, "the looks to end")
    until(lambda: not held(tmp_path) - before, "the connections to be closed")
    # The function waits again with the next stream. A look during the close may have called it.
    before_next = len(called)
    with Client(Following(channels, "room", counted=True)):
        until(lambda: there.channel("room").watchers() == 1, "it to be counted")
    until(lambda: len(called) > before_next, "the call")
    channels.channel("room").off_empty(called.append)


class Slow(MemoryBroker):
    """A broker that notes how many reads run when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.looks = 0
        self.at_close: list[int] = []

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        self.reads += 1
        self.looks += 1
        time.sleep(0.02)
        try:
            return super().read(channel, after, limit, max_bytes)
        finally:
            self.reads -= 1

    def close(self) -> None:
        self.at_close.append(self.reads)
        super().close()


@pytest.mark.parametrize("room", [leases, watchers])
def test_close_waits_for_a_look_that_runs(room: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BEAT", 0.0)
    broker = Slow()
    channels = over(broker)
    broker.append("job", b"data: 1\n\n", Terms(lease=60))
    if room is watchers:
        channels.channel("job").on_empty(print)
    with Client(Following(channels, "job", since="start")) as client:
        client.take(1)
        seen = broker.looks
        until(lambda: broker.looks > seen + 3, "some looks")
        channels.close()
    assert broker.at_close == [0]


def test_close_of_unused_channels_does_nothing() -> None:
    Channels().close()
    Channels("redis://127.0.0.1:1/0").close()


class Interrupted(MemoryBroker):
    """A broker in which something ends the reads of the channel "slow", such as a timeout."""

    error: type[BaseException] | None = None

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        if self.error is not None and channel == "slow":
            raise self.error
        return super().read(channel, after, limit, max_bytes)


@pytest.mark.long_except("GreenletExit-options0", "Timeout-options1")
@pytest.mark.parametrize("options", [{}, {"latest": 3}, {"since": "start"}])
def test_a_subscription_that_is_interrupted_leaves_nothing(
    raised: type[BaseException], options: dict[str, Any]
) -> None:
    broker = Interrupted()
    channels = over(broker)
    publish(channels, "slow", 3)
    broker.error = raised
    sse_stream = SseStream()
    with pytest.raises(raised):
        channels.subscribe(sse_stream, "news", "slow", counted=True, **options)
    assert channels.statistics() == {}
    assert channels.channel("news").watchers() == 0
    sse_stream.destroy()
    gone = weakref.ref(sse_stream)
    del sse_stream

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    until(is_gone, "the stream to be gone")


def test_a_stream_goes_on_after_a_subscription_that_is_interrupted(
    raised: type[BaseException],
) -> None:
    broker = Interrupted()
    channels = over(broker)
    sse_stream, sink = SseStream(), Sink()
    sse_stream.pipe(sink)
    channels.subscribe(sse_stream, "news")
    broker.error = raised
    with pytest.raises(raised):
        channels.subscribe(sse_stream, "slow")
    broker.error = None
    publish(channels, "slow", 1)
    publish(channels, "news", 1, 2)
    until(lambda: b"data: 1\n" in b"".join(sink.got), "the event")
    channels.subscribe(sse_stream, "slow", latest=1)
    until(lambda: b"data: 0\n" in b"".join(sink.got), "the event")
    sse_stream.destroy()
    nothing_remains(channels)


def test_a_stream_that_has_gone_over_to_other_channels_is_still_theirs() -> None:
    left, followed = Channels(), Channels()
    stream = SseStream()
    stream.pipe(Sink())
    left.subscribe(stream, "news")
    left.unsubscribe(stream)
    followed.subscribe(stream, "sports")
    left.unsubscribe(stream)
    with pytest.raises(MessageError, match="'id' 'own' beside channels"):
        stream.write({"data": "x", "id": "own"})
    stream.end()
