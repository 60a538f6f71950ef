"""Work that waits, and starts again."""

import threading
from collections.abc import Callable

import gevent
import pytest
from gevent import GreenletExit

from ssestream import Channels, SseStream
from ssestream.channels.tasks import spawn, start_again
from ssestream.runtime.loop import current_loop
from tests.kit.failing import Threads, greenlets_of, greenlets_only
from tests.kit.following import Client, Following, data_of, numbers
from tests.kit.sink import Sink
from tests.kit.visit import until

Make = Callable[..., Channels]


@pytest.fixture
def channels(local: Make) -> Channels:
    return local()


def test_a_listener_that_is_killed_is_replaced(channels: Channels) -> None:
    def play() -> None:
        with Client(Following(channels, "news")) as client:
            for number in range(3):
                channels.publish("news", {"data": number})
                client.take(number + 1)
                gevent.killall(greenlets_of("_listen"))
            channels.publish("news", {"data": 3})
            assert data_of(client.take(4)) == numbers(0, 4)

    gevent.spawn(greenlets_only(play)).get()


def test_a_listener_and_a_reader_that_got_no_thread_are_started_when_there_is_one(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(monkeypatch)
    ids = [channels.publish("news", {"data": number}) for number in range(3)]
    current_loop()
    sink = Sink()

    sse_stream = SseStream()
    sse_stream.pipe(sink)
    threads.to_be_had = False
    channels.subscribe(sse_stream, "news", since=ids[0])
    until(lambda: threads.refused >= 2, "a listener and a reader to be refused")
    assert not any(b"data" in frame for frame in sink.got)
    threads.to_be_had = True
    until(lambda: b"data: 2" in b"".join(sink.got), "what it has missed")
    channels.publish("news", {"data": 3})
    until(lambda: b"data: 3" in b"".join(sink.got), "what came then")


def test_it_is_a_greenlet_where_gevent_has_patched_waits_and_else_a_thread() -> None:
    seen: list[object] = []
    spawn(lambda: seen.append(threading.get_ident()))
    until(lambda: seen, "the thread")

    def play() -> None:
        spawn(lambda: seen.append(gevent.getcurrent()))
        until(lambda: len(seen) == 2, "the greenlet")

    gevent.spawn(greenlets_only(play)).get()
    assert seen[0] != threading.get_ident()
    assert isinstance(seen[1], gevent.Greenlet)


def test_what_was_stopped_is_told_and_starts_again(caplog: pytest.LogCaptureFixture) -> None:
    started = threading.Event()
    start_again(started.set, gevent.Timeout())
    assert started.wait(60)
    assert "was stopped, and starts again" in caplog.text
    # The greenlet that was killed ends.
    with pytest.raises(GreenletExit):
        start_again(started.set, GreenletExit())
