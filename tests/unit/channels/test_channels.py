"""What is published in a channel gets to everybody who follows it: in order, and once."""

import json
import re
from collections.abc import Callable
from typing import Any

import flask
import pytest
from werkzeug.local import LocalProxy

from ssestream import Channels, MessageError, ServerResponse, SseStream
from ssestream.channels.ids import parse_id
from ssestream.wire import Decoder
from tests.kit.following import Client, Following, data_of, numbers, publish
from tests.kit.insides import broker_of, exchange_of
from tests.kit.servers import Client as RawClient
from tests.kit.servers import Server, chunks_of
from tests.kit.states import nothing_remains
from tests.kit.visit import on_threads_and_greenlets, until

Make = Callable[..., Channels]


# -- publishing and following


@on_threads_and_greenlets
def test_a_client_gets_what_is_published_after_it_came(channels: Channels) -> None:
    publish(channels, "news", 2)
    with Client(Following(channels, "news")) as client:
        publish(channels, "news", 2, 5)
        assert data_of(client.take(3)) == numbers(2, 5)


@on_threads_and_greenlets
def test_what_was_published_just_before_is_not_sent_to_one_who_begins_now(
    channels: Channels,
) -> None:
    app = Following(channels, "news")
    with Client(app) as first:
        for number in range(30):
            channels.publish("news", {"data": number})
            with Client(app) as client:
                channels.publish("news", {"data": "since"})
                assert data_of(client.take(1)) == ["since"]
        assert len(first.take(60)) == 60


@on_threads_and_greenlets
def test_everything_arrives_in_order_and_once(channels: Channels) -> None:
    app = Following(channels, "news")
    with Client(app) as one, Client(app) as other:
        publish(channels, "news", 900)
        assert data_of(one.take(900)) == numbers(900)
        assert data_of(other.take(900)) == numbers(900)


@on_threads_and_greenlets
def test_publish_returns_the_id_that_the_client_sees(channels: Channels) -> None:
    with Client(Following(channels, "news")) as client:
        ids = publish(channels, "news", 5)
        assert [message["id"] for message in client.take(5)] == ids
        assert len(set(ids)) == 5


def test_every_field_of_a_message_arrives(channels: Channels) -> None:
    with Client(Following(channels, "news")) as client:
        whole = {"comment": "c", "event": "goal", "retry": 7, "data": "a\nb"}
        event_id = channels.publish("news", whole)
        channels.publish("news", {"comment": "only"})
        assert client.take(1) == [{**whole, "id": event_id}]
        assert client.take(2)[1]["comment"] == "only"


def test_data_is_written_by_the_json_provider_of_the_app(local: Make) -> None:
    channels = local()
    app = flask.Flask("other")
    app.json.ensure_ascii = True  # type: ignore[attr-defined]
    with app.app_context():
        channels.publish("news", {"data": {"b": "ü", "a": 1}})
    assert data_of(channels.history("news")) == ['{"b":"ü","a":1}']


@on_threads_and_greenlets
def test_several_channels_come_on_one_stream(channels: Channels) -> None:
    with Client(Following(channels, "news", "sports")) as client:
        publish(channels, "news", 3)
        client.take(3)
        publish(channels, "sports", 3, 5)
        assert data_of(client.take(5)) == numbers(5)
        news, sports = parse_id(client.last_id)["news"], parse_id(client.last_id)["sports"]
        assert (news.number, sports.number) == (3, 2)


@on_threads_and_greenlets
def test_two_subscriptions_of_one_stream_are_one_order(channels: Channels) -> None:
    app = Following(channels, "news")
    with Client(app) as client:
        channels.subscribe(app.streams[0], "sports")
        publish(channels, "news", 1)
        client.take(1)
        publish(channels, "sports", 1, 2)
        assert data_of(client.take(2)) == numbers(2)
        assert set(parse_id(client.last_id)) == {"news", "sports"}


def test_the_same_channel_twice_is_followed_once(channels: Channels) -> None:
    app = Following(channels, "news", "news")
    with Client(app) as client:
        channels.subscribe(app.streams[0], "news")
        publish(channels, "news", 3)
        assert data_of(client.take(3)) == numbers(3)
        assert channels.channel("news").subscribers == 1
        channels.close_channel("news")
        assert len(client.all()) == 3


def test_a_stream_may_follow_before_it_is_piped(channels: Channels) -> None:
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        sse_stream = SseStream(flask.request, max_messages=100)
        channels.subscribe(sse_stream, "news")
        publish(channels, "news", 300)
        until(lambda: sse_stream.writable_length, "the first")
        return sse_stream.pipe(ServerResponse())

    with Client(app) as client:
        assert data_of(client.take(300)) == numbers(300)


def test_a_stream_that_the_server_iterates_follows_too(channels: Channels) -> None:
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> flask.Response:
        sse_stream = SseStream(flask.request)
        channels.subscribe(sse_stream, "news")
        return flask.Response(sse_stream, mimetype="text/event-stream")  # type: ignore[arg-type]

    with Client(app) as client:
        publish(channels, "news", 3)
        assert data_of(client.take(3)) == numbers(3)
    nothing_remains(channels)


# -- what cannot be


@pytest.mark.parametrize("event_id", ["", "7", 0, 7])
def test_an_id_of_ones_own_is_refused(channels: Channels, event_id: Any) -> None:
    with pytest.raises(MessageError, match="'id'") as caught:
        channels.publish("news", {"data": "x", "id": event_id})
    assert caught.value.field == "id"
    assert channels.history("news") == []


@pytest.mark.parametrize(
    "message", [{}, {"dat": 1}, {"event": "a\nb", "data": ""}, {"data": float("nan")}, "x", None]
)
def test_a_bad_message_is_refused_and_nothing_stored(channels: Channels, message: Any) -> None:
    with pytest.raises(MessageError):
        channels.publish("news", message)
    assert channels.history("news") == []
    assert parse_id(channels.publish("news", {"data": "x", "id": None})) is not None


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a=b", "ü", "a\n", "x" * 101, None, 7, b"a"])
def test_a_name_that_no_channel_can_have_is_refused_everywhere(local: Make, name: Any) -> None:
    channels = local()
    wrong = ValueError if isinstance(name, str) else TypeError
    calls: list[Callable[[], object]] = [
        lambda: channels.publish(name, {"data": "x"}),
        lambda: channels.subscribe(SseStream(), "fine", name),
        lambda: channels.history(name),
        lambda: channels.close_channel(name),
        lambda: channels.cut(name, "key"),
        lambda: channels.channel(name),
    ]
    for call in calls:
        with pytest.raises(wrong, match="name of a channel"):
            call()
    assert channels.statistics() == {}
    assert not exchange_of(channels).subscriptions


class Sly(str):
    """A name that is another text in an f-string."""

    def __format__(self, spec: str = "") -> str:
        return "news\n\ndata: forged\n\n"

    def __str__(self) -> str:
        return self


@pytest.mark.parametrize("name", [Sly("news"), LocalProxy(lambda: Sly("news"))])
def test_a_name_adds_nothing_to_the_ids(local: Make, name: Any) -> None:
    channels = local()
    stream = SseStream()
    channels.subscribe(stream, name)
    until(lambda: channels.statistics()["news"].lagging == 0, "it to be live")
    ids = [channels.publish(name, {"data": "x"}), channels.channel(name).publish({"data": "y"})]
    # Behind the block that tells where it stands.
    until(lambda: stream.writable_length == 3, "both messages")
    stream.end()
    got = Decoder().feed(b"".join(stream))
    assert [each for each in got if "data" in each] == channels.history(name)
    assert [each["id"] for each in channels.history("news")] == ids
    assert all(each.startswith("news=") and "\n" not in each for each in ids)


def test_wrong_arguments_are_told(local: Make) -> None:
    channels = local()
    stream: Any = SseStream()
    wrong: list[Callable[[], object]] = [
        lambda: channels.subscribe(stream),
        lambda: channels.subscribe("news", "sports"),  # type: ignore[arg-type]
        lambda: channels.subscribe(stream, "news", since=7),  # type: ignore[arg-type]
        lambda: channels.subscribe(stream, "news", filter="x"),  # type: ignore[arg-type]
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="limit"):
        channels.history("news", -1)
    nothing_remains(channels)


# -- figures


def test_a_handle_does_what_the_channels_do(channels: Channels) -> None:
    news = channels.channel("news")
    stream = SseStream()
    event_id = news.publish({"data": "x"})
    news.subscribe(stream, since=event_id, key="k")
    assert news.subscribers == 1
    assert news.history(1)[0]["id"] == event_id
    news.cut("other")
    news.cut("k")
    nothing_remains(channels)
    stream = SseStream()
    news.subscribe(stream)
    news.close()
    nothing_remains(channels)


# -- real servers


@pytest.mark.long_except("SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_every_worker_gives_what_any_process_publishes(
    serve: Callable[..., Server], sqlite_url: str, kind: str
) -> None:
    config = json.dumps({"SSESTREAM_URL": sqlite_url, "SSESTREAM_HISTORY": 500})
    server = serve(
        kind, "tests.servers.apps.channels:app", env={"CHANNELS_CONFIG": config}, args=("-w", "2")
    )
    channels = Channels(sqlite_url, history=500)
    first = publish(channels, "news", 100)[9]
    clients: list[RawClient] = []
    workers: set[bytes] = set()
    # Who gets a connection is the kernel's to say.
    while len(clients) < 12 or len(workers) < 2:
        clients.append(live(server, first if len(clients) % 2 else None))
        workers.add(re.findall(rb"X-Worker: (\d+)", clients[-1].received)[0])
        assert len(clients) < 500, workers
    publish(channels, "news", 100, 400)
    path = "/publish/news?first=400&count=50&size=1"
    worker = RawClient(server.port).get(path, "Connection: close", method="POST")
    assert worker.read_to_end().endswith(b"published")
    for number, client in enumerate(clients):
        client.read_until(b"data: 449 \n")
        messages = Decoder().feed(b"".join(chunks_of(client.received)))
        found = [int(str(message["data"])) for message in messages if "data" in message]
        assert found == list(range(10 if number % 2 else 100, 450))
    publish(channels, "news", 450, 1000)
    late = live(server, first)
    late.read_until(b"data: 999\n")
    assert late.received.index(b"event: gap\ndata: news\n") < late.received.index(b"data: 500\n")
    channels.close_channel("news")
    for client in [*clients, late]:
        assert client.read_to_end().endswith(b"0\r\n\r\n")
    broker_of(channels).close()


def live(server: Server, last_id: str | None) -> RawClient:
    headers = [f"Last-Event-ID: {last_id}"] if last_id else []
    client = RawClient(server.port).get("/news?channels=news", *headers)
    client.read_until(b":ok\n\n")
    return client


def test_who_is_new_may_have_the_latest_first_and_who_comes_back_has_not() -> None:
    channels = Channels()
    ids = [channels.publish("news", {"data": str(number)}) for number in range(5)]
    told: dict[str, list[str]] = {}
    for name, since in (("new", None), ("back", ids[3])):
        sse_stream, taken = SseStream(), told.setdefault(name, [])
        sse_stream.pipe(Taking(taken))
        channels.subscribe(sse_stream, "news", since=since, latest=2)
    empty = SseStream()
    channels.subscribe(empty, "sports", latest=2)
    until(lambda: len(told["new"]) == 2 and len(told["back"]) == 1, "what they are to have")
    assert told == {"new": ["3", "4"], "back": ["4"]}
    with pytest.raises(ValueError, match="latest is an int from 0 on"):
        channels.subscribe(empty, "news", latest=-1)


class Taking:
    """A destination that keeps the data of each message."""

    def __init__(self, taken: list[str]) -> None:
        self._taken = taken
        self._decoder = Decoder()

    def write(self, chunk: bytes) -> None:
        self._taken += [str(each["data"]) for each in self._decoder.feed(chunk) if "data" in each]
