"""Coming back: what was missed is read from the log, and what is lost is told."""

import threading
from collections.abc import Callable
from typing import Any

import flask
import pytest

from ssestream import Channels, ServerResponse, SseStream
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels.ids import parse_id
from ssestream.wire import Decoder
from tests.kit.following import Client, Following, data_of, numbers, publish
from tests.kit.insides import broker_of, over
from tests.kit.sink import Sink
from tests.kit.states import nothing_remains
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


@on_threads_and_greenlets
@pytest.mark.parametrize("how", ["header", "query", "since"])
def test_a_client_goes_on_after_its_last_event(channels: Channels, how: str) -> None:
    ids = publish(channels, "news", 10)
    app = Following(channels, "news", **({"since": ids[3]} if how == "since" else {}))
    path = f"/?lastEventId={ids[3]}" if how == "query" else "/"
    with Client(app, path, ids[3] if how == "header" else None) as client:
        publish(channels, "news", 10, 12)
        assert data_of(client.take(8)) == numbers(4, 12)
    assert app.gaps == []


@on_threads_and_greenlets
@pytest.mark.parametrize("ends", [False, True])
def test_the_latest_events_are_counted_without_control_frames(
    channels: Channels, ends: bool
) -> None:
    publish(channels, "news", 5)
    with channels.channel("news").producer(end=False):  # begins with a control frame
        publish(channels, "news", 5, 6)
    for _ in range(3):
        channels.cut("news", "ann")
    channels.close_channel("news")
    if ends:
        channels.end("news")
    app = Following(channels, "news", latest=3, key="ann")
    with Client(app) as client:
        assert data_of(client.take(3)) == numbers(3, 6)
        if ends:
            assert len(client.all()) == 3
            return
        publish(channels, "news", 6, 7)
        assert data_of(client.take(4)) == numbers(3, 7)
    assert app.gaps == []


@on_threads_and_greenlets
@pytest.mark.parametrize("how", ["end", "producer"])
def test_the_latest_of_a_channel_that_ended_without_a_message_are_none(
    channels: Channels, how: str
) -> None:
    if how == "end":
        channels.end("job")
    else:
        with channels.channel("job").producer(last=lambda status, error: None):
            pass
    app = Following(channels, "job", latest=3)
    with app.test_client().get("/") as response:
        assert response.status_code == 204


class Held(MemoryBroker):
    """One that answers only the thread that has made it, until *free*; and what was read there."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.limits: list[int] = []
        self._thread = threading.get_ident()

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Any:
        if threading.get_ident() == self._thread:
            self.limits.append(limit)
        else:
            self.free.wait(60)
        return super().read(channel, after, limit, max_bytes)


@pytest.mark.parametrize("latest", [2, 1000])
def test_a_request_reads_little_for_the_latest_and_no_later_event_is_lost(latest: int) -> None:
    broker = Held()
    channels = over(broker)
    publish(channels, "news", 5)
    for _ in range(3_000):
        channels.cut("news", "ann")
    stream, sink = SseStream(), Sink()
    stream.pipe(sink)
    channels.subscribe(stream, "news", latest=latest)
    assert sum(broker.limits) < 100
    assert len(broker.limits) <= 5
    # These come before a reader has found where the stream begins.
    publish(channels, "news", 5, 15)
    broker.free.set()
    wanted = numbers(max(0, 5 - latest), 15)
    until(lambda: b"data: 14" in b"".join(sink.got), "the last event")
    messages = Decoder().feed(b"".join(sink.got))
    assert [each["data"] for each in messages if "data" in each] == wanted
    stream.destroy()


def test_since_goes_before_what_the_client_says(channels: Channels) -> None:
    ids = publish(channels, "news", 4)
    with Client(Following(channels, "news", since=ids[2]), last_id=ids[0]) as client:
        assert data_of(client.take(1)) == ["3"]


@on_threads_and_greenlets
def test_a_client_that_comes_and_goes_misses_nothing(channels: Channels) -> None:
    app = Following(channels, "news", "sports")
    seen, last_id = [], None
    for turn in range(8):
        publish(channels, "news", turn * 10, turn * 10 + 5) if last_id else None
        with Client(app, last_id=last_id) as client:
            if not last_id:
                publish(channels, "news", 0, 5)
            publish(channels, "sports", turn * 10 + 5, turn * 10 + 10)
            seen += [m["data"] for m in client.take(10)]
            last_id = client.last_id
    assert sorted(map(int, seen)) == list(range(80))
    assert app.gaps == []


@on_threads_and_greenlets
def test_an_id_of_several_channels_serves_other_sets_of_them(channels: Channels) -> None:
    app = Following(channels)
    with Client(app, "/?names=a,b") as client:
        publish(channels, "a", 2)
        client.take(2)
        publish(channels, "b", 2)
        client.take(4)
        last_id = client.last_id
    for name in "abc":
        channels.publish(name, {"data": name})
    with Client(app, "/?names=b", last_id) as client:
        assert data_of(client.take(1)) == ["b"]
    # It begins now in a channel that it did not know.
    with Client(app, "/?names=c,b,a", last_id) as client:
        assert sorted(data_of(client.take(2))) == ["a", "b"]
        channels.publish("c", {"data": "later"})
        assert data_of(client.take(3))[2] == "later"
    assert app.gaps == []


def test_a_channel_that_begins_after_the_client_is_replayed_from_its_first_event(
    channels: Channels,
) -> None:
    app = Following(channels, "a", "b")
    with Client(app) as client:
        publish(channels, "a", 1)
        client.take(1)
        last_id = client.last_id
    publish(channels, "b", 1, 3)
    with Client(app, last_id=last_id) as client:
        assert data_of(client.take(2)) == ["1", "2"]
    assert app.gaps == []


def test_another_process_goes_on_where_one_has_ended(make: Make) -> None:
    one = make()
    ids = publish(one, "news", 3)
    other = make()
    app = Following(other, "news")
    if not broker_of(one).shared:  # what is in memory is of one process, and told to be lost
        publish(other, "news", 1)
        with Client(app, last_id=ids[0]) as client:
            client.take(1)
        assert app.gaps == ["news"]
        return
    with Client(app, last_id=ids[0]) as client:
        publish(one, "news", 3, 5)
        assert data_of(client.take(4)) == numbers(1, 5)


def snapshot(name: str) -> str:
    return f"all of {name}"


@on_threads_and_greenlets
def test_one_who_was_away_for_too_long_is_told_of_the_gap(make: Make) -> None:
    channels = make(history=5)
    ids = publish(channels, "news", 20)
    app = Following(channels, "news", on_gap=snapshot)
    with Client(app, last_id=ids[3]) as client:
        messages = client.take(6)
        publish(channels, "news", 20, 22)
        messages = client.take(8)
        assert messages[0] == {"event": "snapshot", "data": "all of news"}
        assert data_of(messages[1:]) == numbers(15, 22)
        assert channels.channel("news").statistics().gaps == 1
    assert app.gaps == ["news"]


@on_threads_and_greenlets
def test_a_gap_is_told_once_though_the_log_moves_on_meanwhile(make: Make) -> None:
    channels = make(history=5)
    ids = publish(channels, "news", 20)

    def slowly(name: str) -> str:
        publish(channels, "news", 20, 24)
        return snapshot(name)

    app = Following(channels, "news", on_gap=slowly)
    with Client(app, last_id=ids[3]) as client:
        assert data_of(client.take(6)) == ["all of news", *numbers(19, 24)]
    assert app.gaps == ["news"]


def test_a_gap_is_told_again_when_more_is_lost_than_a_snapshot_may_have(local: Make) -> None:
    channels = local(history=5)
    ids = publish(channels, "news", 20)

    def slowly(name: str) -> str:
        if len(app.gaps) == 1:
            publish(channels, "news", 20, 30)
        return snapshot(name)

    app = Following(channels, "news", on_gap=slowly)
    with Client(app, last_id=ids[3]) as client:
        assert data_of(client.take(7)) == ["all of news"] * 2 + numbers(25, 30)
    assert app.gaps == ["news"] * 2
    assert channels.channel("news").statistics().gaps in (0, 2)


@on_threads_and_greenlets
def test_one_who_missed_just_what_is_kept_is_told_of_no_gap(make: Make) -> None:
    channels = make(history=5)
    ids = publish(channels, "news", 20)
    app = Following(channels, "news", on_gap=snapshot)
    with Client(app, last_id=ids[14]) as client:
        assert data_of(client.take(5)) == numbers(15, 20)
    assert app.gaps == []


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside others"])
def test_events_that_are_too_old_are_a_gap(make: Make, others: bool) -> None:
    channels = make(history_age=0.15)
    app = Following(channels, "news", on_gap=snapshot)
    with Client(app) as other:
        if not others:
            other.fin()
            nothing_remains(channels)
        ids = publish(channels, "news", 5)
        until(lambda: channels.history("news") == [], "them to be old")
        # This event takes the old ones out of the log. It is kept, because on a busy machine it
        # would be too old before the clients come.
        publish(channels, "news", 5, 6)
        channels.keep("news", history_age=60.0)
        with Client(app, last_id=ids[1]) as client:
            assert data_of(client.take(2)) == ["all of news", "5"]
        with Client(app, last_id=ids[4]) as client:
            assert data_of(client.take(1)) == ["5"]
    assert app.gaps == ["news"]


HOSTILE = {
    "another log": "news=deadbeef.3",
    "rubbish": "rubbish",
    "a number": "171717171717171717",
    "beyond the log": "news={log}.999999999999999999",
    "a number too large": "news={log}.9999999999999999999999999",
    "a negative number": "news={log}.-1",
    "not a number": "news={log}.1e3",
    "digits of another script": "news={log}.٣",
    "no log": "news=.3",
    "many commas": "," * 4000,
    "unicode": "naïve=☃.1",
    "quotes": "\"'<script>alert(1)</script>",
    "percents": "%00%0a%0d",
    "ours, and more": "news={log}.1;drop table events",
}


@on_threads_and_greenlets
@pytest.mark.parametrize("what", HOSTILE)
def test_an_id_that_is_none_of_ours_is_a_gap_and_never_echoed(local: Make, what: str) -> None:
    channels = local()
    log = parse_id(publish(channels, "news", 3)[0])["news"].log
    hostile = HOSTILE[what].format(log=log)
    app = Following(channels, "news", on_gap=snapshot)
    with Client(app, last_id=hostile) as client:
        publish(channels, "news", 3, 4)
        assert data_of(client.take(5)) == ["all of news", *numbers(4)]
        assert hostile.encode() not in client.received
    assert app.gaps == ["news"]


@pytest.mark.parametrize("hostile", ["a\0b", "x" * 100_000, "," * 100_000, "\ud800", "\n"])
def test_since_may_be_anything_at_all(channels: Channels, hostile: str) -> None:
    publish(channels, "news", 3)
    app = Following(channels, "news", on_gap=snapshot, since=hostile)
    with Client(app) as client:
        assert data_of(client.take(4)) == ["all of news", *numbers(3)]
    assert app.gaps == ["news"]


def test_an_id_of_several_is_a_gap_just_where_it_is_wrong(channels: Channels) -> None:
    a, b = publish(channels, "a", 2), publish(channels, "b", 2)
    app = Following(channels, "a", "b", "c", on_gap=snapshot)
    del b
    with Client(app, last_id=f"{a[0]},b=deadbeef.7") as client:
        messages = client.take(4)
        assert sorted(data_of(messages)) == ["0", "1", "1", "all of b"]
        assert b"deadbeef" not in client.received
        assert data_of(messages).index("all of b") < data_of(messages).index("0")
    assert app.gaps == ["b"]


def test_rubbish_is_a_gap_in_every_channel(channels: Channels) -> None:
    app = Following(channels, "a", "b", "c", on_gap=snapshot)
    publish(channels, "a", 1)
    with Client(app, last_id="rubbish") as client:
        client.take(4)
        publish(channels, "c", 1, 2)
        assert data_of(client.take(5))[4] == "1"
    assert sorted(app.gaps) == ["a", "b", "c"]


def test_one_who_left_before_the_gap_was_told_is_told_when_it_is_back(local: Make) -> None:
    """What comes of another channel meanwhile has an id that says so."""
    channels = local()
    publish(channels, "a", 2)
    until_then = threading.Event()
    held: list[str] = []

    def slowly(name: str) -> str:
        held.append(name)
        until_then.wait(60)
        return snapshot(name)

    app = Following(channels, on_gap=slowly)
    with Client(app, "/?names=a", "rubbish") as client:
        until(lambda: held, "the handler to run")
        channels.subscribe(app.streams[0], "b", since=publish(channels, "b", 1)[0])
        publish(channels, "b", 1, 2)
        assert data_of(client.take(1)) == ["1"]
        last_id = client.last_id
    until_then.set()
    with Client(app, "/?names=a,b", last_id) as client:
        assert data_of(client.take(3)) == ["all of a", "0", "1"]


def test_a_gap_needs_no_handler(channels: Channels) -> None:
    publish(channels, "news", 2)
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        sse_stream = SseStream(flask.request)
        channels.subscribe(sse_stream, "news")
        return sse_stream.pipe(ServerResponse())

    with Client(app, last_id="rubbish") as client:
        assert data_of(client.take(2)) == numbers(2)


def test_a_gap_handler_may_fail_or_end_the_stream(local: Make) -> None:
    channels = local()
    publish(channels, "news", 2)

    def fail(name: str) -> str:
        raise RuntimeError("no snapshot today")

    with Client(Following(channels, "news", on_gap=fail), last_id="rubbish") as client:
        assert data_of(client.take(2)) == numbers(2)
    app = Following(channels, "news")
    app.gaps = Ending(app)  # type: ignore[assignment]
    with Client(app, last_id="rubbish") as client:
        assert client.all() == []
    nothing_remains(channels)


class Ending(list[str]):
    def __init__(self, app: Following) -> None:
        self._app = app

    def append(self, name: str) -> None:
        self._app.streams[-1].end()
