"""A client always knows where it stands: ids before the first event, and logs with another past."""

import functools
import gc
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest

from ssestream import (
    BrokerError,
    Channels,
    MessageError,
    ServerResponse,
    SseStream,
    StreamError,
    statistics,
)
from ssestream.brokers.memory import MemoryBroker
from ssestream.brokers.sqlite import SqliteBroker
from ssestream.channels import listener
from ssestream.channels.ids import parse_id
from ssestream.wire import Decoder, encode
from tests.kit.brokers import all_closed
from tests.kit.following import Client, Following, all_live, data_of, numbers, publish
from tests.kit.insides import broker_of, over
from tests.kit.redis_server import RedisServer
from tests.kit.servers import Client as Plain
from tests.kit.servers import Server, free_port, wait_until
from tests.kit.sink import Sink
from tests.kit.states import place_of
from tests.kit.visit import Visit, on_threads_and_greenlets, until

Make = Callable[..., Channels]


@pytest.fixture
def make(url: str) -> Iterator[Make]:
    """Make `Channels` of one broker."""
    with all_closed(functools.partial(Channels, url)) as make:
        yield make


# -- before the first event


@on_threads_and_greenlets
@pytest.mark.parametrize("before", [0, 3])
def test_one_that_has_got_nothing_misses_nothing(make: Make, before: int) -> None:
    channels = make()
    publish(channels, "news", before)
    app = Following(channels, "news")
    with Client(app) as client:
        place = place_of(client)
    publish(channels, "news", 10, 13)
    with Client(app, last_id=place) as client:
        assert data_of(client.take(3)) == numbers(10, 13)
    assert app.gaps == []


@on_threads_and_greenlets
def test_it_knows_its_place_in_each_of_several_channels(make: Make) -> None:
    channels = make()
    publish(channels, "news", 2)
    app = Following(channels, "news", "sports", "empty")
    with Client(app) as client:
        place = place_of(client)
    assert list(parse_id(place) or ()) == ["news", "sports", "empty"]
    publish(channels, "empty", 5, 6)
    publish(channels, "news", 6, 7)
    publish(channels, "sports", 7, 8)
    with Client(app, last_id=place) as client:
        assert sorted(data_of(client.take(3))) == numbers(5, 8)
    assert app.gaps == []


@on_threads_and_greenlets
def test_the_latest_are_given_again_to_one_that_left_before_it_got_them(make: Make) -> None:
    channels = make()
    publish(channels, "news", 10)
    with Client(Following(channels, "news", latest=3)) as client:
        client.take(3)
        first = client._ids[0]
    with Client(Following(channels, "news", latest=3), last_id=first) as client:
        assert data_of(client.take(3)) == numbers(7, 10)


@on_threads_and_greenlets
def test_one_that_began_since_an_id_has_that_place(make: Make) -> None:
    channels = make()
    ids = publish(channels, "news", 4)
    with Client(Following(channels, "news", since=ids[-1])) as client:
        assert place_of(client) == ids[-1]


def test_an_id_that_the_client_has_is_not_told_again(make: Make) -> None:
    channels = make()
    ids = publish(channels, "news", 3)
    with Client(Following(channels, "news"), last_id=ids[-1]) as client:
        all_live(channels)
        publish(channels, "news", 3, 4)
        assert data_of(client.take(1)) == ["3"]
        assert len(client._ids) == 1


def test_following_one_more_channel_tells_the_place_in_both(make: Make) -> None:
    channels = make()
    app = Following(channels, "news")
    with Client(app) as client:
        place_of(client)
        channels.subscribe(app.streams[0], "sports")
        until(lambda: client.has_id() and "sports" in client.last_id, "both places")
        place = client.last_id
    publish(channels, "sports", 1)
    with Client(Following(channels, "news", "sports"), last_id=place) as client:
        assert data_of(client.take(1)) == ["0"]


@on_threads_and_greenlets
def test_a_response_that_comes_later_has_the_id(channels: Channels) -> None:
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        first, res = ServerResponse(), ServerResponse()
        stream = SseStream(flask.request)
        stream.pipe(first)
        channels.subscribe(stream, "news", "sports")
        stream.unpipe(first)
        return stream.pipe(res)

    with Client(app) as client:
        place = place_of(client)
        assert len(client._ids) == 1
    publish(channels, "news", 1)
    # Not by the same page: its first response may get the event, and is never sent.
    with Client(Following(channels, "news", "sports"), last_id=place) as client:
        assert data_of(client.take(1)) == ["0"]


def test_a_stream_that_follows_before_it_is_piped_tells_its_id_once(local: Make) -> None:
    channels, sink = local(), Sink()
    stream = SseStream()
    channels.subscribe(stream, "news")
    stream.pipe(sink)
    channels.publish("news", {"data": "x"})
    until(lambda: b"data: x" in b"".join(sink.got), "the event")
    assert b"".join(sink.got).count(b"id: ") == 2
    stream.destroy()


def test_the_clients_of_a_stream_of_many_get_no_id_for_each_new_one(local: Make) -> None:
    channels = local()
    stream, sinks = SseStream(), [Sink(), Sink(), Sink()]
    for sink in sinks:
        stream.pipe(sink)
        if sink is sinks[0]:
            channels.subscribe(stream, "news")
            until(lambda: b"id: " in b"".join(sinks[0].got), "the id")
    channels.publish("news", {"data": "x"})
    until(lambda: all(b"data: x" in b"".join(each.got) for each in sinks), "the event")
    assert [b"".join(each.got).count(b"id: ") for each in sinks] == [2, 1, 1]
    stream.destroy()


class Away(MemoryBroker):
    """One that is away while *away*."""

    away = True

    def read(self, *args: Any) -> Any:
        if self.away:
            raise BrokerError("away")
        return super().read(*args)


@on_threads_and_greenlets
@pytest.mark.parametrize("names", [("news",), ("news", "sports")])
def test_the_place_is_told_once_a_broker_is_back(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "SOONEST", 0.01)
    monkeypatch.setattr(listener, "LATEST", 0.02)
    broker = Away()
    channels = over(broker)
    for number in range(5):
        broker.append("news", encode({"data": number}))
    app = Following(channels, *names)
    late = Following(channels, *names, latest=2)
    with Client(app) as client, Client(late) as reader:
        until(lambda: channels.state == "down", "the listener to see it")
        assert not client.has_id()
        broker.away = False
        place = place_of(client)
        # What was asked for is given when there is something to ask.
        assert data_of(reader.take(2)) == numbers(3, 5)
    publish(channels, "news", 5, 6)
    with Client(app, last_id=place) as client:
        assert data_of(client.take(1)) == ["5"]
    channels.close()


@pytest.mark.long_except("memory", "redis")
def test_one_that_is_refused_knows_its_place_too(make: Make) -> None:
    channels = make()
    app = Following(channels, "news")
    # Another test may have left a stream of its own open.
    gc.collect()
    app.config["SSESTREAM_MAX_STREAMS"] = statistics().open + 1
    with Client(app), Visit(app) as refused:
        refused.read_to_end()
        messages = Decoder().feed(refused.body)
        (place,) = [message["id"] for message in messages if "id" in message]
        assert b":ok" not in refused.body
        assert "retry" in messages[-1]
    publish(channels, "news", 3)
    with Client(app, last_id=place) as client:
        assert data_of(client.take(3)) == numbers(3)


def withheld(message: dict[str, Any]) -> bool:
    return message["data"] == "0"


@pytest.mark.long_except("redis-it follows one more channel")
@pytest.mark.parametrize("then", ["a filter withholds more", "it follows one more channel"])
def test_one_that_is_refused_behind_an_event_keeps_its_place(make: Make, then: str) -> None:
    channels = make(history=10)
    publish(channels, "news", 1)
    app = flask.Flask(__name__)

    def publishes(res: ServerResponse, sse_stream: SseStream) -> None:
        before = res.writable_length
        publish(channels, "news", 1)
        until(lambda: res.writable_length > before, "the event to wait")
        before = res.writable_length
        if then == "a filter withholds more":
            publish(channels, "news", 1, 9)
        else:
            channels.subscribe(sse_stream, "sports")
        until(lambda: res.writable_length > before, "another id to wait")

    moments = [publishes]

    @app.get("/")
    def page() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request, send_timeout=None)
        sse_stream.pipe(res)
        channels.subscribe(sse_stream, "news", filter=withheld)
        if "HTTP_LAST_EVENT_ID" in flask.request.environ and moments:
            moments.pop()(res, sse_stream)
        return res

    with Client(app) as client:
        place = place_of(client)
    gc.collect()
    app.config["SSESTREAM_MAX_STREAMS"] = statistics().open + 1
    with Client(app) as other:
        place_of(other)
        with Visit(app, HTTP_LAST_EVENT_ID=place) as refused:
            refused.read_to_end()
        messages = Decoder().feed(refused.body)
        assert "retry" in messages[-1]
        assert not any("id" in message for message in messages)
    with Client(app, last_id=place) as client:
        assert data_of(client.take(1)) == ["0"]


@pytest.mark.long_except("memory", "sqlite")
def test_one_that_is_refused_knows_its_place_if_its_stream_is_piped_late(make: Make) -> None:
    channels = make()
    publish(channels, "news", 2)
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        sse_stream = SseStream(flask.request, send_timeout=None)
        channels.subscribe(sse_stream, "news", latest=1)
        until(lambda: sse_stream.writable_length == 2, "an id and an event to wait")
        return sse_stream.pipe(ServerResponse())

    gc.collect()
    app.config["SSESTREAM_MAX_STREAMS"] = statistics().open + 1
    with Client(app) as client, Visit(app) as refused:
        refused.read_to_end()
        (place,) = [each["id"] for each in Decoder().feed(refused.body) if "id" in each]
        assert data_of(client.take(1)) == ["1"]
    publish(channels, "news", 2, 3)
    app.config["SSESTREAM_MAX_STREAMS"] = None
    with Visit(app, HTTP_LAST_EVENT_ID=place) as client:
        client.read_until(b"data: 1")
        client.read_until(b"data: 2")


# -- on real servers


@pytest.mark.long_except("SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["gevent", "SseWorker", "gthread"])
def test_one_that_leaves_before_its_first_event_misses_nothing_on_real_servers(
    kind: str, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    folder = tmp_path / "later"
    url = f"sqlite:///{folder}/events.db"
    config = json.dumps({"SSESTREAM_URL": url, "SSESTREAM_HISTORY": 20})
    server = serve(kind, "tests.servers.apps.channels:app", env={"CHANNELS_CONFIG": config})

    def look_in(query: str) -> str:
        """What the client knows that leaves as soon as it has an id."""
        client = Plain(server.port)
        client.get(f"/news?channels={query}")
        if not folder.exists():
            client.read_until(b":ok\n\n")
            # It is told once there is somebody to ask.
            folder.mkdir()
        while (block := re.search(rb"\nid: ([^\n]+)\n\n", client.received)) is None:
            client.received += client.sock.recv(65536)
        client.fin()
        return block[1].decode()

    def comes_back(query: str, place: str, *data: str) -> None:
        client = Plain(server.port)
        client.get(f"/news?channels={query}", f"Last-Event-ID: {place}")
        for each in data:  # in any order, as there is none between channels
            client.read_until(f"data: {each}\n\n".encode())
        client.fin()
        assert sorted(re.findall(r"\ndata: (.*)\n", client.received.decode())) == sorted(data)

    away = look_in("news")
    channels = Channels(url, history=20)
    channels.publish("news", {"data": "1"})
    comes_back("news", away, "1")
    two = look_in("news,empty")
    channels.publish("empty", {"data": "2"})
    comes_back("news,empty", two, "2")
    latest = look_in("news,empty&latest=1")
    comes_back("news,empty&latest=1", latest, "1", "2")
    since = look_in(f"news&since={away}")
    comes_back("news", since, "1")
    # What a filter withholds is no gap, though the log has it no more.
    one = Plain(server.port)
    one.get("/news?channels=news&only=!")
    one.read_until(b"\nid: ")
    for number in range(40):
        last = channels.publish("news", {"data": str(number)})
        if number % 10 == 9:
            one.read_until(f"\nid: {last}\n\n".encode())
    one.fin()
    channels.publish("news", {"data": "at last!"})
    comes_back("news&only=!", last, "at last!")
    channels.close()


ENDS: dict[str, dict[str, Any]] = {
    "its age": {"SSESTREAM_MAX_AGE": 1.0},
    "a refusal": {"SSESTREAM_MAX_STREAMS": 1},
    "a stop": {},
    "one more channel": {},
}
SHORT = "its age"


@pytest.mark.long_except("its age-SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["gevent", "SseWorker", "gthread"])
@pytest.mark.parametrize(
    "end", [SHORT, *(pytest.param(end, marks=pytest.mark.long) for end in ENDS if end != SHORT)]
)
def test_one_that_the_server_ends_before_its_first_event_misses_nothing(
    end: str, kind: str, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    config = {"SSESTREAM_URL": url, "SSESTREAM_HISTORY": 20, "SSESTREAM_MAX_AGE": None, **ENDS[end]}

    def start() -> Server:
        return serve(
            kind, "tests.servers.apps.channels:app", env={"CHANNELS_CONFIG": json.dumps(config)}
        )

    def come(query: str, place: str | None = None) -> Plain:
        headers = [] if place is None else [f"Last-Event-ID: {place}"]
        client = Plain(server.port)
        client.get(f"/news?channels={query}", *headers)
        return client

    def places(client: Plain) -> list[str]:
        return [found.decode() for found in re.findall(rb"\nid: ([^\n]+)\n\n", client.received)]

    server = start()
    if end == "one more channel":
        client = come("news&more=other")
        while not places(client) or "other" not in places(client)[-1]:
            client.received += client.sock.recv(65536)
        client.fin()
    else:
        first = come("news")
        if end == "a refusal":
            first.read_until(b"\nid: ")
            client = come("news")
        else:
            client = first
            client.read_until(b"\nid: ")
        if end == "a stop":
            server.end()
        client.read_to_end()
        assert b"data: " not in client.received
        first.fin()
    place = places(client)[-1]
    if end == "a stop":
        server = start()
    channels = Channels(url, history=20)
    names = ["news", "other"] if end == "one more channel" else ["news"]
    for name in names:
        channels.publish(name, {"data": f"of {name}"})
    until_let_in = functools.partial(come, ",".join(names), place)
    client = until_let_in()
    while not all(f"data: of {name}\n".encode() in client.received for name in names):
        data = client.sock.recv(65536)
        client.received += data
        if not data:  # the server has not seen yet that the first client has left
            assert end == "a refusal"
            client = until_let_in()
    assert b"event: gap" not in client.received
    client.fin()
    channels.close()


# -- a log with another past


def broken(path: str) -> Callable[[], None]:
    """What puts *path* back to how it is now."""
    copy = sqlite3.connect(":memory:")
    with sqlite3.connect(path) as source:
        source.backup(copy)
    source.close()

    def put_back() -> None:
        target = sqlite3.connect(path, timeout=60)
        copy.backup(target)
        target.close()
        copy.close()

    return put_back


@on_threads_and_greenlets
@pytest.mark.parametrize("grown", [0, 3, 5, 9])
def test_a_backup_that_is_put_back_is_a_gap_for_those_who_are_there_and_who_come_back(
    tmp_path: Path, grown: int
) -> None:
    path = f"{tmp_path}/events.db"
    channels = Channels(f"sqlite:///{path}")
    publish(channels, "news", 5)
    put_back = broken(path)
    app = Following(channels, "news", "other")
    with Client(app) as gone:
        place_of(gone)
        publish(channels, "news", 5, 10)
        gone.take(5)
    with Client(app) as client:
        all_live(channels)
        put_back()
        elsewhere = Channels(f"sqlite:///{path}")
        publish(elsewhere, "news", 100, 100 + grown)
        until(lambda: "news" in app.gaps, "the gap of the one who is there")
        expected = numbers(5) + numbers(100, 100 + grown)
        assert data_of(client.take(len(expected))) == expected
        publish(elsewhere, "news", 200, 203)
        assert data_of(client.take(len(expected) + 3))[-3:] == numbers(200, 203)
    with Client(app, last_id=gone.last_id) as client:
        expected += numbers(200, 203)
        assert data_of(client.take(len(expected))) == expected
    assert app.gaps == ["news", "news"]
    elsewhere.close()
    channels.close()


def test_access_that_may_have_been_withdrawn_in_a_lost_end_ends_its_streams(
    tmp_path: Path,
) -> None:
    path = f"{tmp_path}/events.db"
    channels = Channels(f"sqlite:///{path}")
    publish(channels, "news", 2)
    put_back = broken(path)
    publish(channels, "news", 2, 8)
    app = Following(channels, "news", key="user:7")
    other = Following(channels, "news")
    with Client(app) as client, Client(other) as stays:
        all_live(channels)
        put_back()
        elsewhere = Channels(f"sqlite:///{path}")
        # Its number is one that the listener is beyond.
        elsewhere.cut("news", "user:7")
        client.read_to_end()
        publish(elsewhere, "news", 50, 51)
        assert data_of(stays.take(3)) == [*numbers(2), "50"]
    elsewhere.close()
    channels.close()


def test_redis_that_was_killed_with_a_snapshot_behind_is_a_gap(redis_url: str) -> None:
    """As after a failover to a replica that lags: the log is as it was, and grows again."""
    import redis

    client = redis.Redis.from_url(redis_url)
    channels = Channels(redis_url)
    publish(channels, "news", 3)
    copy: Any = client.dump("ssestream:{news}")
    app = Following(channels, "news")
    with Client(app) as gone:
        place_of(gone)
        publish(channels, "news", 3, 6)
        gone.take(3)
    client.restore("ssestream:{news}", 0, copy, replace=True)
    publish(channels, "news", 100, 107)
    with Client(app, last_id=gone.last_id) as back:
        expected = numbers(3) + numbers(100, 107)
        assert data_of(back.take(len(expected))) == expected
    assert app.gaps == ["news"]
    channels.close()
    client.close()


@on_threads_and_greenlets
@pytest.mark.parametrize("grown", [0, 3, 5])
def test_a_real_redis_that_was_killed_behind_its_snapshot_is_a_gap_for_all(
    start_redis: Callable[..., RedisServer], grown: int
) -> None:
    redis = start_redis()
    channels, elsewhere = Channels(redis.url), Channels(redis.url)
    publish(channels, "news", 3)
    app, keyed = Following(channels, "news", "other"), Following(channels, "news", key="user:7")
    with Client(app) as gone:
        place_of(gone)
        redis.client().save()
        publish(channels, "news", 3, 6)
        gone.take(3)
    with Client(app) as client, Client(keyed) as cut:
        all_live(channels)
        redis.kill()
        redis.start()
        publish(elsewhere, "news", 100, 100 + grown)
        # A cut may have been lost with the end of the log.
        cut.read_to_end()
        expected = numbers(3) + numbers(100, 100 + grown)
        assert data_of(client.take(len(expected))) == expected
        publish(elsewhere, "news", 200, 203)
        expected += numbers(200, 203)
        assert data_of(client.take(len(expected))) == expected
    with Client(app, last_id=gone.last_id) as back:
        assert data_of(back.take(len(expected))) == expected
    assert app.gaps == ["news", "news"]
    elsewhere.close()
    channels.close()


@pytest.mark.parametrize("grown", [0, 3, 5])
def test_a_real_redis_that_was_killed_behind_its_snapshot_while_nobody_was_there_is_a_gap(
    start_redis: Callable[..., RedisServer], grown: int
) -> None:
    redis = start_redis()
    channels, elsewhere = Channels(redis.url), Channels(redis.url)
    publish(elsewhere, "news", 3)
    redis.client().save()
    app = Following(channels, "news")
    with Client(app) as gone:
        place_of(gone)
        publish(elsewhere, "news", 3, 6)
        gone.take(3)
    until(lambda: not channels.statistics(), "nobody to follow")
    redis.kill()
    redis.start()
    publish(elsewhere, "news", 100, 100 + grown)
    with Client(app, last_id=gone.last_id) as back, Client(app) as new:
        all_live(channels)
        publish(elsewhere, "news", 200, 203)
        expected = numbers(3) + numbers(100, 100 + grown) + numbers(200, 203)
        assert data_of(back.take(len(expected))) == expected
        assert data_of(new.take(3)) == numbers(200, 203)
    assert app.gaps == ["news"]
    elsewhere.close()
    channels.close()


@pytest.mark.long_except("3-threads")
@on_threads_and_greenlets
@pytest.mark.parametrize("grown", [0, 3, 5])
def test_a_replica_that_lags_and_takes_over_is_a_gap_for_those_who_had_more(
    start_redis: Callable[..., RedisServer], grown: int, caplog: pytest.LogCaptureFixture
) -> None:
    master = start_redis("--repl-diskless-sync-delay", "0")
    # The replica takes the port of its master, and keeps its socket.
    replica = start_redis(
        *("--replicaof", "127.0.0.1", str(master.port)), *("--unixsocket", "redis.sock")
    )
    on_master = Channels(master.url)
    on_replica = Channels(f"unix://{replica.folder}/redis.sock")
    publish(on_master, "news", 3)
    commands = replica.client()
    until(lambda: commands.xlen("ssestream:{news}") == 3, "the replica to have all")
    app, other = Following(on_master, "news"), Following(on_replica, "news")
    keyed = Following(on_master, "news", key="user:7")
    with Client(app) as client, Client(other) as through, Client(keyed) as cut:
        all_live(on_master)
        all_live(on_replica)
        publish(on_master, "news", 3, 4)
        assert data_of(through.take(1)) == ["3"]
        # It goes on as a replica that does not reach its master.
        commands.replicaof("127.0.0.1", str(free_port()))
        publish(on_master, "news", 4, 7)
        client.take(4)
        master.kill()
        commands.replicaof("NO", "ONE")
        commands.config_set("port", str(master.port))
        elsewhere = Channels(master.url)
        publish(elsewhere, "news", 100, 100 + grown)
        cut.read_to_end()
        expected = numbers(3, 7) + numbers(4) + numbers(100, 100 + grown)
        assert data_of(client.take(len(expected))) == expected
        publish(elsewhere, "news", 200, 203)
        expected += numbers(200, 203)
        assert data_of(client.take(len(expected))) == expected
        # A client of the replica has lost nothing.
        new = [*numbers(100, 100 + grown), *numbers(200, 203)]
        assert data_of(through.take(4 + grown)) == ["3", *new]
    assert (app.gaps, other.gaps) == (["news"], [])
    assert "operator" not in caplog.text
    for each in (on_master, on_replica, elsewhere):
        each.close()


def test_a_position_without_a_check_is_taken_on_trust(make: Make) -> None:
    channels = make()
    ids = publish(channels, "news", 3)
    old = ".".join(ids[0].split(".")[:2])
    app = Following(channels, "news")
    with Client(app, last_id=old) as client:
        assert data_of(client.take(2)) == numbers(1, 3)
    assert app.gaps == []


# -- whose id it is


def test_a_stream_follows_the_channels_of_one(tmp_path: Path) -> None:
    one, other = Channels(), Channels(f"sqlite:///{tmp_path}/events.db")
    stream = SseStream()
    one.subscribe(stream, "news")
    with pytest.raises(StreamError, match="another Channels"):
        other.subscribe(stream, "news")
    assert other.statistics() == {}
    one.unsubscribe(stream)
    other.subscribe(stream, "news")
    stream.destroy()
    until(lambda: not other.statistics(), "it to be gone")
    other.close()


@pytest.mark.parametrize("order", ["pipe, pipe", "subscribe, subscribe", "pipe, subscribe"])
def test_one_stream_of_a_response_follows_channels(local: Make, order: str) -> None:
    channels, res = local(), ServerResponse()
    first, second = SseStream(), SseStream()
    if order == "pipe, pipe":
        first.pipe(res)
        second.pipe(res, end=False)
        channels.subscribe(first, "a")
        with pytest.raises(StreamError, match="another stream that is piped into this response"):
            channels.subscribe(second, "b")
    else:
        channels.subscribe(first, "a")
        if order == "pipe, subscribe":
            first.pipe(res)
        channels.subscribe(second, "b")
        if order == "subscribe, subscribe":
            first.pipe(res)
        with pytest.raises(StreamError, match="one stream must follow all channels"):
            second.pipe(res)
        assert not res.writable_ended
        channels.unsubscribe(second)
        # The refusal has changed nothing.
        assert second.pipe(res, end=False) is res
    assert list(channels.statistics()) == ["a"]
    second.write({"data": "without an id"})
    # Once the first follows nothing more, the second may.
    channels.unsubscribe(first)
    channels.subscribe(second, "b")
    with pytest.raises(StreamError):
        channels.subscribe(first, "a")
    first.unpipe(res)
    channels.subscribe(first, "a")
    first.destroy()
    second.destroy()


def test_a_refused_stream_may_follow_in_another_response(local: Make) -> None:
    channels, res = local(), ServerResponse()
    first, second = SseStream(), SseStream()
    first.pipe(res)
    second.pipe(res, end=False)
    channels.subscribe(first, "a")
    for _ in range(2):
        with pytest.raises(StreamError):
            channels.subscribe(second, "a")
    second.unpipe(res)
    second.pipe(ServerResponse())
    channels.subscribe(second, "a")
    assert channels.channel("a").subscribers == 2
    first.destroy()
    second.destroy()


def test_a_refusal_for_too_many_channels_leaves_the_response_to_others(local: Make) -> None:
    channels, res = local(), ServerResponse()
    first, second = SseStream(), SseStream()
    first.pipe(res)
    second.pipe(res, end=False)
    with pytest.raises(ValueError, match="too many"):
        channels.subscribe(first, *(f"{n}" for n in range(1300)))
    channels.subscribe(second, "a")
    first.destroy()
    second.destroy()


@pytest.mark.parametrize("order", ["pipe, subscribe", "subscribe, pipe", "subscribe, pipe other"])
def test_an_id_of_the_apps_own_is_refused_in_the_other_streams_of_a_response(
    local: Make, order: str
) -> None:
    channels, res = local(), ServerResponse()
    following, other = SseStream(), SseStream()
    if order == "subscribe, pipe":
        channels.subscribe(following, "news")
    if order == "subscribe, pipe other":
        following.pipe(res)
        channels.subscribe(following, "news")
    other.pipe(res, end=False)
    if order != "subscribe, pipe other":
        following.pipe(res)
    if order == "pipe, subscribe":
        other.write({"id": 5, "data": "before"})
        channels.subscribe(following, "news")
    for write in (other.write, lambda message: other.push(encode(message))):
        with pytest.raises(MessageError, match="'id'"):
            write({"id": 7, "data": "x"})
    other.write({"data": "id: 7"})
    other.unpipe(res)
    other.write({"id": 7, "data": "x"})
    following.destroy()
    other.destroy()


@pytest.mark.parametrize("way", ["write", "write_message", "end", "push", "push by hand"])
def test_an_id_of_the_apps_own_is_refused_beside_channels(way: str) -> None:
    channels = Channels()
    stream = SseStream()
    stream.write({"id": 5, "data": "before"})
    channels.subscribe(stream, "news")
    given: Any = {"id": 7, "data": "x"}
    if way.startswith("push"):
        given = b"data: x\nid: 7\n\n" if way == "push by hand" else encode(given)
    with pytest.raises(MessageError, match="'id'") as refused:
        getattr(stream, way.split()[0])(given)
    assert refused.value.field == "id"
    # Without one it is welcome.
    stream.write({"event": "snapshot", "data": "id: 9"})
    channels.unsubscribe(stream, "news")
    stream.write({"id": 8, "data": "x"})
    stream.destroy()


# -- which id counts


@pytest.mark.parametrize(
    "query", ["lastEventId={0}&lastEventId={1}", "lastEventId={1}&lastEventId="]
)
def test_of_several_ids_in_a_query_the_newest_counts(query: str) -> None:
    channels = Channels()
    ids = publish(channels, "a+b@c", 4)
    with Client(Following(channels, "a+b@c"), "/?" + query.format(ids[0], ids[2])) as client:
        assert data_of(client.take(1)) == ["3"]


@pytest.mark.parametrize("bad", ["x" * 4097, "\x01", "news=1"])
def test_an_id_that_is_rubbish_is_a_gap(bad: str) -> None:
    channels = Channels()
    publish(channels, "news", 2)
    app = Following(channels, "news")
    with Client(app, last_id=bad) as client:
        assert data_of(client.take(2)) == numbers(2)
    assert app.gaps == ["news"]


def test_since_an_empty_id_is_since_none() -> None:
    channels = Channels()
    publish(channels, "news", 2)
    app = Following(channels, "news", since="")
    with Client(app) as client:
        place_of(client)
    assert app.gaps == []


def test_too_many_channels_are_refused_before_any_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = Channels()
    reads: list[Any] = []
    monkeypatch.setattr(broker_of(channels), "read", lambda *args: reads.append(args))
    with pytest.raises(ValueError, match="too many"):
        channels.subscribe(SseStream(), *(f"{n}" for n in range(1300)))
    assert reads == []


# -- how much a log keeps


def test_a_publisher_trims_nothing_of_others(
    shared_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    much, usual, little = (
        Channels(shared_url, history=50),
        Channels(shared_url),
        Channels(shared_url, history=10),
    )
    publish(much, "news", 50)
    publish(usual, "news", 50, 51)
    assert caplog.text == ""
    publish(little, "news", 51, 53)
    assert caplog.text.count("'news' keeps 50 events") == 1
    assert [each["data"] for each in much.history("news")] == numbers(3, 53)
    little.keep("news", history=10)
    assert [each["data"] for each in much.history("news")] == numbers(43, 53)
    # Whoever asks for more is given more.
    publish(much, "news", 53, 63)
    assert len(usual.history("news")) == 20
    for each in (much, usual, little):
        each.close()


def test_the_age_of_one_channel_is_none_of_anothers(shared_url: str) -> None:
    old, young = Channels(shared_url), Channels(shared_url, history_age=0.05)
    publish(old, "orders", 10)
    publish(young, "ticks", 10)
    wait_until(lambda: not old.history("ticks"), "the ticks to be old")
    publish(young, "ticks", 10, 12)
    publish(young, "orders", 10, 11)
    assert len(young.history("orders")) == 11
    old.keep("orders", history_age=0.05)
    wait_until(lambda: not young.history("orders"), "the orders to be old")
    for each in (old, young):
        each.close()


@pytest.mark.parametrize("way", ["cut", "close"])
def test_what_is_said_to_streams_is_no_history(make: Make, way: str) -> None:
    channels = make(history=20)
    publish(channels, "news", 30)
    ids = [str(each["id"]) for each in channels.history("news")]
    for number in range(100):
        if way == "cut":
            channels.cut("news", f"user:{number}")
        else:
            channels.close_channel("news")
    assert [each["data"] for each in channels.history("news")] == numbers(10, 30)
    app = Following(channels, "news", latest=0)
    with Client(app, last_id=ids[-3]) as client:
        assert data_of(client.take(2)) == numbers(28, 30)
    publish(channels, "news", 30, 35)
    assert [each["data"] for each in channels.history("news")] == numbers(15, 35)
    assert app.gaps == []


def test_a_file_of_the_first_form_is_brought_to_this_one(tmp_path: Path) -> None:
    path = f"{tmp_path}/events.db"
    db = sqlite3.connect(path)
    db.executescript(
        """
        PRAGMA journal_mode = WAL;
        CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        log TEXT NOT NULL, last INTEGER NOT NULL, change INTEGER NOT NULL);
        CREATE INDEX changes ON channels (change);
        CREATE TABLE events (change INTEGER PRIMARY KEY, channel INTEGER NOT NULL,
        number INTEGER NOT NULL, at REAL NOT NULL, frame BLOB NOT NULL);
        CREATE UNIQUE INDEX numbers ON events (channel, number);
        INSERT INTO channels VALUES (1, 'news', 'abcd', 2, 2);
        PRAGMA application_id = 1397966081;
        """
    )
    for number in (1, 2):
        frame = encode({"data": number})
        db.execute(
            "INSERT INTO events VALUES (?, 1, ?, ?, ?)", (number, number, time.time(), frame)
        )
    db.commit()
    db.close()
    channels = Channels(f"sqlite:///{path}", history=2)
    app = Following(channels, "news")
    with Client(app, last_id="news=abcd.1") as client:
        assert data_of(client.take(1)) == ["2"]
        all_live(channels)
        publish(channels, "news", 3, 5)
        assert data_of(client.take(3)) == numbers(2, 5)
    assert [each["data"] for each in channels.history("news")] == numbers(3, 5)
    assert app.gaps == []
    channels.close()
    assert isinstance(broker_of(channels), SqliteBroker)


def test_a_log_keeps_what_it_is_told_to() -> None:
    channels = Channels("memory://")
    publish(channels, "news", 10)
    channels.keep("news", history=4)
    assert [each["data"] for each in channels.history("news")] == numbers(6, 10)
    with pytest.raises(ValueError, match="history must be at least 1"):
        channels.keep("news", history=0)
    with pytest.raises(ValueError, match="name of a channel"):
        channels.keep("no name", history=1)
