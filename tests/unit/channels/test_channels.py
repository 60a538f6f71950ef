"""What is published in a channel gets to everybody who follows it: in order, and once."""

import functools
import gc
import json
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import gevent
import psutil
import pytest
from flask.json.provider import DefaultJSONProvider
from werkzeug.local import LocalProxy

from ssestream import Channels, MessageError, ServerResponse, SseStream
from ssestream.brokers.broker import Position
from ssestream.channels.ids import format_id, parse_id
from ssestream.channels.tail import ChannelStatistics
from ssestream.runtime.forking import process
from ssestream.wire import Decoder
from tests.kit.brokers import all_closed
from tests.kit.following import Client, Following, data_of, numbers, publish
from tests.kit.insides import broker_of, exchange_of, listener_of
from tests.kit.servers import Client as RawClient
from tests.kit.servers import Server, chunks_of
from tests.kit.states import end_all_of, idle
from tests.kit.visit import Visit, in_greenlet, on_threads_and_greenlets, until

Make = Callable[..., Channels]


@pytest.fixture
def make(url: str) -> Iterator[Make]:
    """Make `Channels` of each kind of broker, which know of each other."""
    with all_closed(functools.partial(Channels, url), end_all_of) as make:
        yield make


@pytest.fixture
def channels(make: Make) -> Channels:
    return make()


@pytest.fixture
def local() -> Iterator[Make]:
    """The same in memory alone: for what the broker has no part in."""
    with all_closed(functools.partial(Channels, "memory://"), end_all_of) as make:
        yield make


def nothing_remains(channels: Channels) -> None:
    until(lambda: channels.statistics() == {}, "the last to leave")
    until(lambda: channels.state == "idle", "the listener to end")
    # The stream's own thread or greenlet takes its subscription out, after the last event.
    until(lambda: not exchange_of(channels).subscriptions, "the subscriptions to be gone")
    idle(channels)
    assert not listener_of(channels).tails


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


# -- coming back


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


# -- gaps


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
        with Client(app, last_id=ids[1]) as client:
            publish(channels, "news", 5, 6)
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
    "twice the same": "news={log}.1,news={log}.2",
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
        until_then.wait(20)
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


def test_more_channels_than_an_id_has_room_for_are_refused(local: Make) -> None:
    channels = local()
    names = [f"{number:0100}" for number in range(40)]
    stream = SseStream()
    with pytest.raises(ValueError, match="40 channels are too many"):
        channels.subscribe(stream, *names)
    channels.subscribe(stream, *names[:20])
    with pytest.raises(ValueError, match="too many"):
        channels.subscribe(stream, *names[20:])
    assert len(channels.statistics()) == 20
    stream.destroy()
    nothing_remains(channels)


def test_the_id_of_as_many_as_may_be_is_one_that_a_request_may_have(local: Make) -> None:
    channels = local()
    names: list[str] = []
    stream = SseStream()
    with pytest.raises(ValueError, match="too many"):  # noqa: PT012
        for number in range(1000):
            channels.subscribe(stream, f"{number:030}")
            names.append(f"{number:030}")
    stream.destroy()
    # As long as one can ever get.
    text = format_id({name: Position("f" * 32, 10**18 - 1) for name in names})
    assert len(text) <= 4096
    assert len(parse_id(text) or ()) == len(names)


# -- history


def test_history_gives_the_last_messages_as_a_browser_would_see_them(channels: Channels) -> None:
    ids = publish(channels, "news", 600)
    assert channels.history("news", 2) == [
        {"id": ids[598], "data": "598"},
        {"id": ids[599], "data": "599"},
    ]
    assert data_of(channels.history("news")) == numbers(600)
    assert channels.history("news", 0) == []
    assert channels.history("nothing") == []


def test_history_counts_messages_and_no_words(channels: Channels) -> None:
    publish(channels, "news", 5)
    for key in range(5):
        channels.cut("news", key)
        channels.close_channel("news")
    publish(channels, "news", 5, 7)
    channels.close_channel("news")
    assert data_of(channels.history("news", 4)) == numbers(3, 7)
    assert data_of(channels.history("news", 100)) == numbers(7)


@on_threads_and_greenlets
def test_a_page_made_of_the_history_goes_on_without_a_hole(channels: Channels) -> None:
    publish(channels, "news", 5)
    page = channels.history("news", 3)
    publish(channels, "news", 5, 8)
    with Client(Following(channels, "news", since=page[-1]["id"])) as client:
        publish(channels, "news", 8, 10)
        assert data_of(page) + data_of(client.take(5)) == numbers(2, 10)


# -- filters


@on_threads_and_greenlets
def test_each_stream_has_its_own_filter(channels: Channels) -> None:
    ids = publish(channels, "news", 4)

    def wanted(rest: int) -> Callable[[dict[str, Any]], bool]:
        return lambda message: int(message["data"]) % 2 == rest

    even = Following(channels, "news", filter=wanted(0))
    odd = Following(channels, "news", filter=wanted(1))
    with Client(even, last_id=ids[0]) as one, Client(odd, last_id=ids[0]) as other:
        publish(channels, "news", 4, 8)
        assert data_of(one.take(3)) == ["2", "4", "6"]
        assert data_of(other.take(4)) == ["1", "3", "5", "7"]
        assert one.last_id == one.messages[-1]["id"]


def test_a_filter_sees_the_message_as_a_browser_would(channels: Channels) -> None:
    seen = []
    with Client(Following(channels, "news", filter=lambda m: seen.append(m) or True)) as client:
        channels.publish("news", {"event": "e", "retry": 5, "data": {"a": [1, None]}})
        client.take(1)
    assert seen == [{"event": "e", "retry": 5, "data": '{"a":[1,null]}'}]


def test_a_filter_cannot_change_what_others_are_given(local: Make) -> None:
    channels = local()
    app = Following(channels, "news", filter=lambda m: m.pop("data") == "0" or True)
    with Client(app) as one, Client(app) as other:
        publish(channels, "news", 1)
        assert data_of(one.take(1)) == data_of(other.take(1)) == ["0"]
        assert data_of(channels.history("news")) == ["0"]


def test_a_filter_that_fails_is_logged_and_withholds_the_message(
    channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    def wanted(message: dict[str, Any]) -> bool:
        return 1 // int(message["data"]) >= 0

    with Client(Following(channels, "news", filter=wanted)) as client:
        publish(channels, "news", 3)
        assert data_of(client.take(2)) == ["1", "2"]
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError]


def test_a_filter_that_hands_out_a_coroutine_withholds_the_message(
    local: Make, caplog: pytest.LogCaptureFixture
) -> None:
    channels = local()

    async def nobody(message: dict[str, Any]) -> bool:
        return False

    app = Following(channels, "news", filter=lambda message: nobody(message))
    with Client(app) as client:
        publish(channels, "news", 3)
        channels.subscribe(app.streams[0], "open")
        channels.publish("open", {"data": "to all"})
        assert data_of(client.take(1)) == ["to all"]
    assert caplog.text.count("TypeError: a filter must return yes or no") == 3


def test_the_filter_of_one_channel_of_a_stream_is_not_that_of_another(local: Make) -> None:
    channels = local()
    app = Following(channels, "open")
    with Client(app) as client:
        channels.subscribe(app.streams[0], "secret", filter=lambda message: False, key="k")
        publish(channels, "secret", 3)
        publish(channels, "open", 3, 5)
        assert data_of(client.take(2)) == ["3", "4"]
        # The other way round it is not cut from what it was not given the key for.
        channels.cut("open", "k")
        publish(channels, "open", 5, 6)
        assert data_of(client.take(3))[2] == "5"


def test_filters_of_several_channels_may_run_at_once(local: Make) -> None:
    channels = local()

    def wanted(message: dict[str, Any]) -> bool:
        time.sleep(0.0005)
        return True

    ids = publish(channels, "b", 101)
    app = Following(channels, "a", "b", filter=wanted)
    with Client(app, last_id=ids[0]) as client:
        publish(channels, "a", 100)
        assert len(client.take(200)) == 200


# -- ending others


@on_threads_and_greenlets
def test_cut_ends_those_with_the_key_and_nobody_else(make: Make) -> None:
    one, other = make(), make()
    if not broker_of(one).shared:
        other = one
    with (
        Client(Following(one, "news", key=("user", 1))) as cut_here,
        Client(Following(other, "news", key=("user", 1))) as cut_there,
        Client(Following(other, "news", key=("user", 2))) as another,
        Client(Following(other, "news")) as keyless,
        Client(Following(other, "sports", key=("user", 1))) as elsewhere,
    ):
        one.publish("news", {"data": "before"})
        one.cut("news", ("user", 1))
        one.publish("news", {"data": "after"})
        assert data_of(cut_here.all()) == data_of(cut_there.all()) == ["before"]
        assert data_of(another.take(2)) == data_of(keyless.take(2)) == ["before", "after"]
        one.publish("sports", {"data": "still"})
        assert data_of(elsewhere.take(1)) == ["still"]


@on_threads_and_greenlets
def test_who_comes_after_a_cut_is_not_ended_by_it(channels: Channels) -> None:
    ids = publish(channels, "news", 2)
    app = Following(channels, "news", key="k")
    for turn in range(20):
        with Client(app) as first:
            channels.cut("news", "k")
            channels.close_channel("news")
            with Client(app) as again, Client(app, last_id=ids[0]) as replaying:
                publish(channels, "news", 2, 3)
                assert data_of(again.take(1)) == ["2"]
                assert data_of(replaying.take(2 + turn)) == ["1", *["2"] * (turn + 1)]
            assert first.all() == []


@on_threads_and_greenlets
@pytest.mark.parametrize("had_events", [False, True])
def test_access_that_is_revoked_while_the_view_checks_it_ends_the_stream(
    make: Make, had_events: bool
) -> None:
    """As the page on channels says: subscribe, then check; take the right away, then cut."""
    here, elsewhere = make(), make()
    if not broker_of(here).shared:
        elsewhere = here
    if had_events:
        publish(elsewhere, "news", 3)
    readers = {"7"}
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        res = ServerResponse()
        sse_stream = SseStream(flask.request)
        sse_stream.pipe(res)
        here.subscribe(sse_stream, "news", key="7")
        if "7" not in readers:
            flask.abort(403)
        readers.discard("7")
        elsewhere.cut("news", "7")
        return res

    with Client(app) as client:
        assert client.all() == []
    # It comes back, and is refused; nothing follows any more.
    with Visit(app, "/") as again:
        again.read_to_end()
        assert b" 403 " in again.received.partition(b"\r\n")[0]
        assert b"text/event-stream" not in again.received
    until(lambda: here.statistics() == {}, "nobody to follow")


def test_a_cut_reaches_one_who_is_far_behind_at_once(make: Make) -> None:
    channels = make(history=10)
    app = Following(channels, "news", key="k", stream={"max_messages": 50})
    with Client(app, send_buffer=4096) as slow, Client(app) as fast:
        for number in range(200):
            channels.publish("news", {"data": f"{number:01000}"})
            fast.take(number + 1)
        channels.cut("news", "k")
        publish(channels, "news", 30)
        # It has fallen out of the history, the cut as well.
        until(lambda: channels.statistics() == {}, "all to be cut")
        assert len(slow.all()) < 100
        assert len(fast.all()) == 200


def test_close_channel_ends_all_who_follow_it_with_all_that_came_before(make: Make) -> None:
    one, other = make(), make()
    if not broker_of(one).shared:
        other = one
    apps = [Following(one, "news"), Following(other, "news", "sports")]
    with Client(apps[0]) as here, Client(apps[1]) as there, Client(apps[0]) as slow:
        publish(one, "news", 200)
        one.close_channel("news")
        publish(one, "news", 200, 201)
        for client in (here, there, slow):
            assert data_of(client.all()) == numbers(200)
        last_id = here.last_id
    with Client(apps[0], last_id=last_id) as again:
        assert data_of(again.take(1)) == ["200"]


@on_threads_and_greenlets
def test_whom_the_channels_end_is_told_at_info_with_its_path_and_the_reason(
    channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    ends = [
        (lambda: channels.cut("news", "k"), "cut() took away its access to the channel 'news'"),
        (lambda: channels.close_channel("news"), "close_channel() ended the streams of"),
        (channels.close, "its Channels were closed"),
    ]
    with caplog.at_level(logging.INFO, "ssestream"):
        for end, reason in ends:
            caplog.clear()
            with Client(Following(channels, "news", key="k"), "/?token=secret") as client:
                end()
                client.all()
            (record,) = [each for each in caplog.records if each.levelno == logging.INFO]
            assert f"'/': ended, as {reason}" in record.getMessage()
            assert "secret" not in caplog.text


def test_unsubscribe_ends_what_comes_and_not_the_stream(channels: Channels) -> None:
    app = Following(channels, "a", "b", "c")
    with Client(app) as client:
        channels.unsubscribe(app.streams[0], "a", "unknown")
        publish(channels, "a", 3)
        channels.publish("b", {"data": "b"})
        assert data_of(client.take(1)) == ["b"]
        assert set(parse_id(client.last_id)) == {"b", "c"}
        channels.unsubscribe(app.streams[0])
        assert channels.statistics() == {}
        channels.publish("b", {"data": "no"})
        channels.subscribe(app.streams[0], "b")
        channels.publish("b", {"data": "again"})
        assert data_of(client.take(2)) == ["b", "again"]
        channels.unsubscribe(SseStream())
    nothing_remains(channels)


# -- what remains


@on_threads_and_greenlets
@pytest.mark.parametrize("how", ["client", "end", "destroy", "close_channel", "cut", "unsubscribe"])
def test_of_a_stream_that_is_over_nothing_remains(channels: Channels, how: str) -> None:
    app = Following(channels, "news", "sports", key="k")
    with Client(app) as client:
        publish(channels, "news", 3)
        client.take(3)
        stream = app.streams.pop()
        gone = weakref.ref(stream)
        if how == "end":
            stream.end()
        elif how == "destroy":
            stream.destroy()
        elif how == "close_channel":
            channels.close_channel("sports")
        elif how == "cut":
            channels.cut("news", "k")
        elif how == "unsubscribe":
            channels.unsubscribe(stream)
        del stream
    nothing_remains(channels)

    def collected() -> bool:
        gc.collect()
        return gone() is None

    until(collected, "the stream to be collected")


@on_threads_and_greenlets
@pytest.mark.parametrize("how", ["end", "destroy"])
def test_a_stream_that_is_over_already_follows_nothing(local: Make, how: str) -> None:
    channels = local()
    stream = SseStream()
    getattr(stream, how)()
    channels.subscribe(stream, "news")
    publish(channels, "news", 1)
    nothing_remains(channels)


def test_a_stream_that_nobody_reads_is_let_go_when_it_is_ended(local: Make) -> None:
    channels = local()
    for end in (SseStream.end, lambda stream: channels.close_channel("news")):
        stream = SseStream()
        channels.subscribe(stream, "news")
        end(stream)
        publish(channels, "news", 1)
        nothing_remains(channels)


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_head_request_follows_nothing(channels: Channels, where: str) -> None:
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        if where == "after":
            sse_stream.pipe(res)
        channels.subscribe(sse_stream, "news")
        return sse_stream.pipe(res) if where == "before" else res

    with Visit(app, method="HEAD") as visit:
        assert b"200" in visit.read_to_end()
    nothing_remains(channels)


def test_of_a_view_that_fails_nothing_remains(local: Make) -> None:
    channels = local()
    app = flask.Flask(__name__)

    @app.get("/")
    def page() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        sse_stream.pipe(res)
        channels.subscribe(sse_stream, "news")
        raise RuntimeError("no")

    with Visit(app) as visit:
        assert b"500" in visit.read_to_end()
    nothing_remains(channels)


@on_threads_and_greenlets
def test_many_who_come_and_go_at_once_leave_nothing(channels: Channels) -> None:
    app = Following(channels, "a", "b", "c", "d")
    last_id = publish(channels, "a", 20)[0]

    def visit(number: int) -> None:
        for turn in range(5):
            with Client(app, f"/?names={'abcd'[number % 4]},a", last_id) as client:
                if turn % 2:
                    client.take(19)

    if in_greenlet():
        gevent.joinall([gevent.spawn(visit, n) for n in range(12)], raise_error=True)
    else:
        threads = [threading.Thread(target=visit, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    nothing_remains(channels)
    assert app.gaps == []


# -- configuration


def test_channels_are_configured_by_the_app() -> None:
    app = flask.Flask(__name__)
    app.config.update(SSESTREAM_HISTORY=3, SSESTREAM_HISTORY_AGE=60)
    channels = Channels(app)
    assert app.extensions["ssestream"] is channels
    publish(channels, "news", 10)
    assert len(channels.history("news")) == 3
    assert broker_of(channels).read("news", 0, 0, 0).bounds.age == 60


def test_init_app_takes_what_was_not_given(tmp_path: Path) -> None:
    app = flask.Flask(__name__)
    app.config.update(SSESTREAM_HISTORY=3, SSESTREAM_URL=f"sqlite:///{tmp_path}/events.db")
    channels = Channels(history=2)
    channels.init_app(app)
    publish(channels, "news", 10)
    assert len(channels.history("news")) == 2
    assert (tmp_path / "events.db").exists()
    broker_of(channels).close()


def test_what_is_used_in_an_app_takes_that_from_it_too(tmp_path: Path) -> None:
    app = flask.Flask(__name__)
    app.config.update(SSESTREAM_HISTORY=3, SSESTREAM_URL=f"sqlite:///{tmp_path}/events.db")
    channels = Channels()
    with app.app_context():
        publish(channels, "news", 10)
    assert len(channels.history("news")) == 3
    assert (tmp_path / "events.db").exists()
    broker_of(channels).close()


def test_what_is_published_outside_of_the_app_is_written_as_in_it() -> None:
    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(value: Any) -> Any:
            return "of the app" if value is Ellipsis else DefaultJSONProvider.default(value)

    app = flask.Flask(__name__)
    app.json = Provider(app)
    channels = Channels(app)
    channels.publish("news", {"data": [...]})
    with app.app_context():
        channels.publish("news", {"data": [...]})
    with pytest.raises(MessageError):
        Channels().publish("news", {"data": [...]})
    assert [message["data"] for message in channels.history("news")] == ['["of the app"]'] * 2


def test_nobody_is_cut_by_no_key() -> None:
    with pytest.raises(ValueError, match="key"):
        Channels().cut("news", None)
    with pytest.raises(ValueError, match="key"):
        Channels().cut("news", LocalProxy(lambda: None))


def test_a_key_is_what_a_proxy_stands_for_when_it_is_given(local: Make) -> None:
    channels = local()
    user: list[Any] = [7]
    key: Any = LocalProxy(lambda: user[0])
    with (
        Client(Following(channels, "news", key=key)) as bare,
        Client(Following(channels, "news", key=LocalProxy(lambda: key))) as twice,
        Client(Following(channels, "news", key=("user", key))) as inside,
    ):
        user[0] = None
        with Client(Following(channels, "news", key=key)) as keyless:
            user.clear()  # as a proxy is when its request is over
            channels.cut("news", 7)
            channels.cut("news", ("user", 7))
            for client in (bare, twice, inside):
                assert client.all() == []
            user.append(8)
            with Client(Following(channels, "news", key=8)) as by_proxy:
                channels.cut("news", key)
                assert by_proxy.all() == []
            channels.publish("news", {"data": "still"})
            assert data_of(keyless.take(1)) == ["still"]


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("the session is closed")


@pytest.mark.parametrize("what", ["broken", "by its place", "in a tuple", "proxy"])
def test_a_key_that_could_not_be_known_again_is_refused(local: Make, what: str) -> None:
    channels = local()
    stream = SseStream()
    key: Any = {
        "broken": Broken(),
        "by its place": object(),
        "in a tuple": ("user", object()),
        "proxy": flask.g,
    }[what]
    with pytest.raises(ValueError, match="key must have a repr"):
        channels.subscribe(stream, "news", key=key)
    with pytest.raises(ValueError, match="key must have a repr"):
        channels.cut("news", key)
    assert channels.statistics() == {}


@pytest.mark.parametrize("url", ["rediss+what://u:secret@h/0", "http://u:secret@h", "//u:secret@h"])
def test_a_wrong_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="redis") as raised:
        Channels(url)
    assert "secret" not in str(raised.value)


def test_an_app_that_is_made_twice_keeps_its_channels() -> None:
    channels = Channels()
    for _ in range(2):
        channels.init_app(flask.Flask(__name__))
        publish(channels, "news", 1)
    assert len(channels.history("news")) == 2


def two_apps(tmp_path: Path, *, history: int | None = None) -> tuple[Any, ...]:
    """Channels, and two apps whose brokers differ, or only what they keep."""
    channels, apps = Channels(), []
    for number in (1, 2):
        app = flask.Flask(f"app{number}")
        app.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/{1 if history else number}.db"
        if history and number == 2:
            app.config["SSESTREAM_HISTORY"] = history
        channels.init_app(app)
        apps.append(app)
    return channels, *apps


def test_two_apps_have_each_their_own_broker(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path)
    for app in (one, two, one):
        with app.app_context():
            channels.publish("news", {"data": app.name})
            channels.channel("sports").publish({"data": app.name})
    for app, count in ((one, 2), (two, 1)):
        with app.app_context():
            for name in ("news", "sports"):
                assert [each["data"] for each in channels.history(name)] == [app.name] * count
        other = Channels(app.config["SSESTREAM_URL"])
        assert len(other.history("news")) == count
        other.close()
    channels.close()


def test_the_streams_of_two_apps_follow_each_their_own_broker(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path)
    streams, chunks = {}, {}
    for app in (one, two):
        with app.app_context():
            chunks[app] = []
            streams[app] = piped(chunks[app])
            channels.subscribe(streams[app], "news", key="k")
            until(lambda: channels.state == "listening", "the listener")
            assert channels.statistics()["news"].subscribers == 1
    for app in (one, two):
        with app.app_context():
            channels.publish("news", {"data": app.name})
    for app in (one, two):
        until(lambda app=app: b"data" in b"".join(chunks[app]), "the event")  # type: ignore[misc]
        assert b"".join(chunks[app]).count(b"data: ") == 1
        assert app.name.encode() in b"".join(chunks[app])
    with two.app_context():
        channels.cut("news", "k")
    until(lambda: streams[two].destroyed or streams[two].writable_ended, "the cut")
    assert not streams[one].writable_ended
    # Wherever it is called, as a handler has no context.
    channels.unsubscribe(streams[one])
    with one.app_context():
        assert channels.statistics() == {}
    channels.close()


def piped(chunks: list[bytes]) -> SseStream:
    stream = SseStream()
    stream.pipe(type("Page", (), {"write": staticmethod(chunks.append)})())
    return stream


@pytest.mark.parametrize(
    "call",
    [
        lambda channels: channels.publish("news", {"data": 1}),
        lambda channels: channels.history("news"),
        lambda channels: channels.subscribe(SseStream(), "news"),
        lambda channels: channels.cut("news", "k"),
        lambda channels: channels.close_channel("news"),
        lambda channels: channels.state,
        lambda channels: channels.statistics(),
    ],
)
def test_outside_of_two_apps_with_two_brokers_nothing_is_guessed(
    tmp_path: Path, call: Callable[[Channels], object]
) -> None:
    channels, _one, _two = two_apps(tmp_path)
    with pytest.raises(RuntimeError, match=r"app_context\(\)"):
        call(channels)
    with flask.Flask("another").app_context(), pytest.raises(RuntimeError, match="none of them"):
        call(channels)
    assert not list(tmp_path.iterdir())


def test_two_apps_that_keep_differently_are_two_as_well(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path, history=3)
    for app in (one, two):
        with app.app_context():
            publish(channels, app.name, 10)
            assert len(channels.history(app.name)) == (10 if app is one else 3)
    channels.close()


def test_an_app_that_is_gone_is_none(tmp_path: Path) -> None:
    """As in tests, each of which makes an app with a database of its own."""
    channels = Channels()
    for number in range(3):
        app = flask.Flask(__name__)
        app.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/{number}.db"
        channels.init_app(app)
        channels.publish("news", {"data": number})
        assert [each["data"] for each in channels.history("news")] == [str(number)]
        with app.app_context():
            assert len(channels.history("news")) == 1
        del app
    channels.close()


def test_apps_that_say_nothing_of_these_channels_have_each_their_own_too(tmp_path: Path) -> None:
    channels, apps = Channels(), [flask.Flask(f"app{number}") for number in (1, 2)]
    for number, app in enumerate(apps):
        app.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/{number}.db"
        with app.app_context():
            channels.publish("news", {"data": app.name})
            assert [each["data"] for each in channels.history("news")] == [app.name]
    channels.close()


def test_the_json_of_each_of_two_apps_is_its_own(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path)
    for app in (one, two):
        app.json.default = lambda value, app=app: app.name  # type: ignore[attr-defined]
    for app in (one, two):
        with app.app_context():
            channels.publish("news", {"data": [...]})
            (message,) = channels.history("news")
            assert message["data"] == f'["{app.name}"]'
    channels.close()


# -- the end


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


def test_close_of_unused_channels_does_nothing() -> None:
    Channels().close()
    Channels("redis://127.0.0.1:1/0").close()


def test_clear_empties_the_memory(local: Make) -> None:
    channels = local()
    app = Following(channels, "news", on_gap=lambda name: f"all of {name}")
    with Client(app) as client:
        publish(channels, "news", 2)
        client.take(2)
        channels.clear()
        assert channels.history("news") == []
        publish(channels, "news", 2, 3)
        assert data_of(client.take(4))[2:] == ["all of news", "2"]
    assert app.gaps == ["news"]


def test_clear_is_for_memory_alone(sqlite_url: str) -> None:
    with pytest.raises(RuntimeError, match="memory://"):
        Channels(sqlite_url).clear()


def test_channels_with_subscribers_are_not_configured_anew(local: Make) -> None:
    channels = local()
    channels.subscribe(SseStream(), "news")
    app = flask.Flask(__name__)
    app.config["SSESTREAM_HISTORY"] = 7
    with pytest.raises(RuntimeError, match="subscribers"):
        channels.init_app(app)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SSESTREAM_URL", "http://example.org"),
        ("SSESTREAM_URL", "sqlite://"),
        ("SSESTREAM_URL", "sqlite://relative.db"),
        ("SSESTREAM_URL", ""),
        ("SSESTREAM_URL", 7),
        ("SSESTREAM_HISTORY", "100"),
        ("SSESTREAM_HISTORY", 0),
        ("SSESTREAM_HISTORY", True),
        ("SSESTREAM_HISTORY_AGE", "1h"),
        ("SSESTREAM_HISTORY_AGE", 0),
        ("SSESTREAM_HISTORY_AGE", float("nan")),
    ],
)
def test_a_wrong_configuration_names_its_key(key: str, value: Any) -> None:
    app = flask.Flask(__name__)
    app.config[key] = value
    with pytest.raises((TypeError, ValueError), match=rf"^{key}\b"):
        Channels(app)
    option = key.removeprefix("SSESTREAM_").lower()
    with pytest.raises((TypeError, ValueError)):
        Channels(**{option: value})
    assert "ssestream" not in app.extensions


def test_a_url_may_be_given_and_connects_to_nothing(tmp_path: Path) -> None:
    Channels(f"sqlite:///{tmp_path}/none/events.db")
    Channels("redis://127.0.0.1:1/0")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="url"):
        Channels(7)  # type: ignore[arg-type]


def test_memory_with_several_workers_is_warned_of_once(
    local: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, unsaid: None
) -> None:
    monkeypatch.setattr(process, "is_one_of_several", False)
    app = flask.Flask(__name__)
    for several in (False, True):
        channels = local()
        environ = {"wsgi.multiprocess": several}
        for _ in range(3):
            with app.test_request_context("/", environ_overrides=environ):
                channels.publish("news", {"data": "x"})
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "sqlite:///" in warning.getMessage()


def test_of_two_threads_that_come_first_both_publish_in_one_log() -> None:
    for _ in range(50):
        channels = Channels()
        together = threading.Barrier(4)

        def run(channels: Channels = channels, together: threading.Barrier = together) -> None:
            together.wait()
            channels.publish("news", {"data": "x"})

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(channels.history("news")) == 4


def test_a_child_process_begins_with_no_subscribers(local: Make, tmp_path: Path) -> None:
    channels = Channels(f"sqlite:///{tmp_path}/events.db")
    stream = SseStream()
    channels.subscribe(stream, "news")
    child = os.fork()
    if not child:
        code = 1
        try:
            assert channels.statistics() == {}
            assert channels.state == "idle"
            channels.publish("news", {"data": "from the child"})
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    # Behind the block that tells where it stands.
    until(lambda: stream.writable_length == 2, "what the child has published")
    stream.destroy()
    nothing_remains(channels)
    broker_of(channels).close()


# -- figures


def test_statistics_add_up(channels: Channels) -> None:
    ids = publish(channels, "news", 10)
    app = Following(channels, "news", "sports")
    assert channels.statistics() == {}
    with Client(app, last_id=ids[3]) as one:
        one.take(6)
        with Client(app) as other:
            # What comes before that is replayed.
            until(lambda: not channels.statistics()["news"].lagging, "all to be live")
            publish(channels, "news", 10, 13)
            one.take(9)
            other.take(3)
            assert channels.statistics() == {
                "news": ChannelStatistics(
                    subscribers=2, delivered=12, replayed=6, lagging=0, gaps=0, published=3
                ),
                "sports": ChannelStatistics(2, 0, 0, 0, 0, 0),
            }
        until(lambda: channels.channel("news").subscribers == 1, "one to leave")
        assert channels.channel("news").statistics().delivered == 12
    nothing_remains(channels)
    assert channels.channel("news").statistics() == ChannelStatistics(0, 0, 0, 0, 0, 0)


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
