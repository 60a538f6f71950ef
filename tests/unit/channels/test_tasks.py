"""Work that waits, and starts again."""

import threading
from collections.abc import Callable

import gevent
import pytest
from gevent import GreenletExit

from ssestream import Channels, Runs, SseStream
from ssestream.brokers.broker import Terms
from ssestream.channels import watchers
from ssestream.channels.tasks import spawn, start_again
from ssestream.runtime.loop import current_loop
from tests.kit.failing import Loops, Threads, greenlets_of, greenlets_only
from tests.kit.following import Client, Following, data_of, numbers
from tests.kit.insides import broker_of, exchange_of
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


# -- no loop for now: the call fails, leaves nothing behind, and works later


def test_a_stream_that_got_no_loop_follows_later_and_is_told_of_a_lost_producer(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = Loops(monkeypatch)
    broker_of(channels).append("job", b"data: 1\n\n", Terms(lease=0.01))
    sse_stream = SseStream()
    sink = Sink()
    sse_stream.pipe(sink)
    loops.refuse(lambda: channels.subscribe(sse_stream, "job", since="start", counted=True))
    assert not exchange_of(channels).subscriptions
    channels.subscribe(sse_stream, "job", since="start", counted=True)
    until(lambda: b"event: lost" in b"".join(sink.got), "the news of the loss")
    assert b"data: 1" in b"".join(sink.got)


def test_a_function_that_got_no_loop_is_called_once_later(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.02)
    loops = Loops(monkeypatch)
    called: list[str] = []
    channel = channels.channel("room")
    loops.refuse(lambda: channel.on_empty(called.append, grace=0))
    channel.on_empty(called.append, grace=0)
    with Client(Following(channels, "room", counted=True)):
        until(lambda: broker_of(channels).read("watchers:room", 0, 0, 0).last, "the report")
    until(lambda: called, "the call")
    channel.off_empty(called.append)
    until(lambda: not exchange_of(channels).watchers.is_running, "the reports to end")
    assert called == ["room"]


def test_a_producer_that_got_no_loop_has_no_lease_and_gets_one_later(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = Loops(monkeypatch)
    producer = channels.channel("job").producer()
    loops.refuse(producer.__enter__)
    assert broker_of(channels).read("job", 0, 0, 0).last == 0
    with producer as job:
        assert broker_of(channels).read("job", 0, 0, 0).lease
    assert [each["event"] for each in job.history()] == ["done"]


def test_a_run_that_got_no_loop_is_none_and_starts_later(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = Loops(monkeypatch)
    runs = Runs(channels)
    refused = iter([{"data": 1}])
    loops.refuse(lambda: runs.start(refused, id="answer"))
    assert runs.status("answer") is None
    for id in ("answer", "other"):
        runs.start([{"data": 1}], id=id)
        until(lambda id=id: runs.status(id) == "done", "the end")


def test_work_gets_a_thread_only_with_the_loop_that_its_thread_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a hub's greenlet, where gevent has patched nothing, the work gets a plain thread."""
    loops = Loops(monkeypatch)
    done = threading.Event()

    def play() -> None:
        loops.to_be_had = False
        spawn(lambda: done.set() if current_loop() else None)
        until(lambda: loops.refused >= 2, "the loop to be refused twice")
        assert not done.is_set()
        loops.to_be_had = True
        until(done.is_set, "the work")

    gevent.spawn(play).get()
