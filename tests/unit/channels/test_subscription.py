"""A stream and its channels: filters, cuts, and what remains of them at the end."""

import contextlib
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import flask
import gevent
import pytest

from ssestream import (
    BrokerError,
    BufferFull,
    ChannelEnded,
    Channels,
    ServerResponse,
    SseStream,
    StreamDestroyed,
    WriteAfterEnd,
)
from ssestream.channels.ids import parse_id
from tests.kit.following import Client, Following, Watched, all_live, data_of, numbers, publish
from tests.kit.insides import broker_of
from tests.kit.states import nothing_remains, place_of
from tests.kit.visit import Visit, in_greenlet, on_threads_and_greenlets, until

Make = Callable[..., Channels]


def is_collected(gone: "weakref.ref[SseStream]") -> None:
    """Wait until the stream of *gone* is no more."""

    def collected() -> bool:
        gc.collect()
        return gone() is None

    until(collected, "the stream to be collected")


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
        # No order holds between channels: the filter may not have been asked three times yet.
        refused = "TypeError: a filter must return yes or no"
        until(lambda: caplog.text.count(refused) == 3, "the filter to refuse all")
        assert data_of(client.take(1)) == ["to all"]
    assert caplog.text.count(refused) == 3


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
        channels.publish("b", {"data": "meanwhile"})
        channels.subscribe(app.streams[0], "b")
        channels.publish("b", {"data": "again"})
        assert data_of(client.take(3)) == ["b", "meanwhile", "again"]
        channels.unsubscribe(SseStream())
    nothing_remains(channels)


@on_threads_and_greenlets
@pytest.mark.parametrize("options", [{}, {"latest": 3}, {"since": "start"}], ids=str)
def test_a_channel_that_was_left_goes_on_where_the_stream_stood(
    channels: Channels, options: dict[str, Any]
) -> None:
    ids = publish(channels, "news", 3)
    app = Following(channels, "news", "sports")
    with Client(app, last_id=ids[0]) as client:
        publish(channels, "news", 3, 5)
        assert data_of(client.take(4)) == numbers(1, 5)
        for first in (5, 7):
            channels.unsubscribe(app.streams[0], "news")
            publish(channels, "news", first, first + 1)
            channels.subscribe(app.streams[0], "news", **options)
            publish(channels, "news", first + 1, first + 2)
            assert data_of(client.take(first + 1)) == numbers(1, first + 2)
        # The id has the place in it again.
        assert set(parse_id(client.last_id)) == {"news", "sports"}
    assert app.gaps == []


def test_an_id_of_the_app_goes_before_the_place_where_a_channel_was_left(local: Make) -> None:
    channels = local()
    ids = publish(channels, "news", 5)
    app = Following(channels, "news")
    with Client(app, last_id=ids[3]) as client:
        client.take(1)
        channels.unsubscribe(app.streams[0], "news")
        channels.subscribe(app.streams[0], "news", since=ids[1])
        assert data_of(client.take(4)) == ["4", *numbers(2, 5)]


def test_events_that_are_lost_after_a_channel_was_left_are_a_gap(make: Make) -> None:
    channels = make(history=3)
    app = Following(channels, "news")
    with Client(app) as client:
        publish(channels, "news", 1)
        client.take(1)
        channels.unsubscribe(app.streams[0], "news")
        publish(channels, "news", 1, 9)
        channels.subscribe(app.streams[0], "news")
        assert data_of(client.take(4)) == ["0", *numbers(6, 9)]
    assert app.gaps == ["news"]


def test_of_very_many_channels_that_were_left_the_first_is_forgotten(local: Make) -> None:
    channels = local()
    app = Following(channels, "first", "second")
    with Client(app) as client:
        stream = app.streams[0]
        channels.unsubscribe(stream, "first")
        channels.unsubscribe(stream, "second")
        for number in range(999):
            channels.subscribe(stream, f"{number}")
            channels.unsubscribe(stream)
        channels.publish("first", {"data": "forgotten"})
        channels.publish("second", {"data": "kept"})
        channels.subscribe(stream, "first")
        channels.subscribe(stream, "second")
        assert data_of(client.take(1)) == ["kept"]
        channels.publish("first", {"data": "now"})
        assert data_of(client.take(2)) == ["kept", "now"]


@pytest.mark.long_except("sqlite-cut-greenlets")
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
    is_collected(gone)


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


@pytest.mark.long_except("unsubscribe-threads", "subscribe raises-greenlets")
@on_threads_and_greenlets
@pytest.mark.parametrize("how", ["unsubscribe", "unsubscribe by name", "subscribe raises"])
def test_a_stream_of_no_request_that_follows_nothing_is_let_go(local: Make, how: str) -> None:
    channels = local()
    stream = SseStream()
    if how == "subscribe raises":
        with pytest.raises(ValueError, match="too many"):
            channels.subscribe(stream, *(f"{number}{'x' * 90}" for number in range(100)))
    else:
        channels.subscribe(stream, "news", "sports")
        channels.unsubscribe(stream, *(["news", "sports"] if "name" in how else []))
    stream.write({"id": 1, "data": "an id of the app's own"})
    nothing_remains(channels)
    # It may follow channels again.
    channels.subscribe(stream, "news")
    assert channels.statistics()["news"].subscribers == 1
    stream.end()
    stream.destroy()
    nothing_remains(channels)
    stream = SseStream()
    gone = weakref.ref(stream)
    channels.subscribe(stream, "news")
    channels.unsubscribe(stream)
    del stream
    nothing_remains(channels)
    is_collected(gone)


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


class Failing(Watched):
    """A stream with a ``push()`` of the app's own, which raises each of *errors* once."""

    errors: list[Exception] = []

    def push(self, frame: bytes) -> bool:
        if self.errors:
            raise self.errors.pop()
        return super().push(frame)


@on_threads_and_greenlets
@pytest.mark.parametrize("way", ["live", "read from the log"])
@pytest.mark.parametrize(
    "error",
    [
        BrokerError("the broker of another Channels is down"),
        ChannelEnded("another channel"),
        WriteAfterEnd("another stream"),
        StreamDestroyed("another stream"),
        BufferFull("another stream"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_an_apps_own_push_breaks_off_its_stream_alone(
    local: Make, way: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    channels = local()
    publish(channels, "news", 1)
    app = Following(channels, "news", kind=Failing)
    Failing.errors.clear()
    with Client(Following(channels, "news")) as other:
        with Client(app) as client:
            place = place_of(client)
            all_live(channels)
            if way == "live":
                Failing.errors.append(error)
                publish(channels, "news", 1, 2)
                until(lambda: app.streams[0].destroyed, "the stream to be destroyed")
        if way != "live":
            until(lambda: app.streams[0].destroyed, "the client to have left")
            publish(channels, "news", 1, 2)
            Failing.errors.append(error)
            # The stream may be cut before its first byte.
            with Visit(app, HTTP_LAST_EVENT_ID=place):
                until(lambda: len(app.streams) == 2, "the view")
                until(lambda: app.streams[1].destroyed, "the stream to be destroyed")
        assert "'news' could not be handed on" in caplog.text
        assert "the streams stay open meanwhile" not in caplog.text
        publish(channels, "news", 2, 3)
        assert data_of(other.take(2)) == numbers(1, 3)
        with Client(app, last_id=place) as client:
            assert data_of(client.take(2)) == numbers(1, 3)
    assert not Failing.errors


@on_threads_and_greenlets
def test_an_apps_own_push_may_end_its_stream(local: Make, caplog: pytest.LogCaptureFixture) -> None:
    class Ending(Watched):
        def push(self, frame: bytes) -> bool:
            self.end()
            return super().push(frame)

    channels = local()
    with Client(Following(channels, "news", kind=Ending)) as client:
        publish(channels, "news", 2)
        assert client.all() == []
    assert "could not be handed on" not in caplog.text
    nothing_remains(channels)


class Filled(Watched):
    """A stream that another writer fills in the middle of a delivery, when *is_due* is set."""

    is_due = False

    @property
    def writable_need_drain(self) -> bool:
        before = super().writable_need_drain
        if self.is_due:
            self.is_due = False
            with contextlib.suppress(BufferFull):
                while True:
                    self.write({"event": "own", "data": "x" * 60_000})
        return before


@on_threads_and_greenlets
def test_a_stream_that_another_writer_fills_reads_on_when_it_has_room(local: Make) -> None:
    channels = local()
    options = {"overflow": "error", "max_messages": 10, "high_water_mark": 4}

    def every(message: object) -> bool:
        return True

    app = Following(channels, "news", kind=Filled, stream=options, filter=every)
    with Client(app) as client:
        publish(channels, "news", 1)
        client.take(1)
        app.streams[0].is_due = True
        publish(channels, "news", 1, 3)
        until(lambda: not app.streams[0].is_due, "the stream to be filled")

        def events() -> list[str]:
            return [each["data"] for each in client.messages if "event" not in each]

        while len(events()) < 3:
            client.take(len(client.messages) + 1)
        assert events() == numbers(3)
        all_live(channels)
        publish(channels, "news", 3, 4)
        while len(events()) < 4:
            client.take(len(client.messages) + 1)
        assert events() == numbers(4)
        assert app.gaps == []
