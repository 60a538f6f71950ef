"""What every public name says to wrong arguments: which error, and in which words."""

import concurrent.futures
import copy
import functools
import pickle
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask, Request
from werkzeug.test import EnvironBuilder

import ssestream
from ssestream import (
    BufferFull,
    Channels,
    ClientDisconnected,
    HeadersSent,
    MessageError,
    Runs,
    ServerResponse,
    Settings,
    SseStream,
    StreamDestroyed,
    StreamError,
    Tickets,
    WriteAfterEnd,
    clear_interval,
    clear_timeout,
    datastar,
    pipeline,
    set_interval,
    set_timeout,
    turbo,
)
from ssestream.incoming import IncomingMessage
from ssestream.metrics import Metrics
from ssestream.same_origin import checked_origins
from ssestream.testing import Clock, stream
from ssestream.top import OpenStreams
from tests.kit.sink import Sink

NAN = float("nan")
INFINITY = float("inf")


class Deaf:
    """A destination whose ``write`` is no function."""

    write = "write"


async def wait_for_it() -> None:
    pass


def nothing(*args: object) -> None:
    pass


async def many() -> AsyncIterator[int]:
    yield 1


class Awaited:
    async def __call__(self, *args: object) -> bool:
        return False

    async def method(self, *args: object) -> bool:
        return False

    later = functools.partialmethod(method, 1)


#: All of them do nothing when they are called.
USELESS: dict[str, Any] = {
    "function": wait_for_it,
    "generator": many,
    "plain generator": lambda *args: (yield),
    "object": Awaited(),
    "method": Awaited().method,
    "bound method of an object": Awaited().__call__,
    "partial": functools.partial(wait_for_it),
    "partial of a partial of an object": functools.partial(functools.partial(Awaited(), 1), 2),
    "partial method": Awaited().later,
}


class Through(SseStream):
    """One whose `push` is what it is given."""

    def __init__(self, push: Any) -> None:
        super().__init__()
        self.push = push  # type: ignore[method-assign]


def req() -> IncomingMessage:
    return IncomingMessage(Request(environ()), ServerResponse())


TAKERS: dict[str, Callable[[Any], object]] = {
    "subscribe": lambda f: Channels().subscribe(SseStream(), "news", filter=f),
    "Channel.subscribe": lambda f: Channels().channel("news").subscribe(SseStream(), filter=f),
    "SseStream.on": lambda f: SseStream().on("drain", f),
    "SseStream.on()": lambda f: SseStream().on("drain")(f),
    "SseStream.once": lambda f: SseStream().once("drain", f),
    "ServerResponse.add_listener": lambda f: ServerResponse().add_listener("close", f),
    "ServerResponse.once()": lambda f: ServerResponse().once("close")(f),
    "call_on_close": lambda f: ServerResponse().call_on_close(f),
    "write": lambda f: SseStream().write({"data": 1}, f),
    "write with an encoding": lambda f: SseStream().write({"data": 1}, "utf8", f),
    "write_message": lambda f: SseStream().write_message({"data": 1}, callback=f),
    "set_timeout": lambda f: set_timeout(f, 1),
    "client_key": lambda f: Settings(client_key=f),
    "pipe": lambda f: SseStream().pipe(SimpleNamespace(write=f)),
    "push": lambda f: Channels().subscribe(Through(f), "news"),
    "set_interval": lambda f: clear_interval(set_interval(f, 1000)),
    "req.on": lambda f: req().on("close", f),
    "req.on()": lambda f: req().on("aborted")(f),
    "req.once": lambda f: req().once("error", f),
    "on_error": lambda f: pipeline([], SseStream(), Sink(), on_error=f),
    "producer": lambda f: Channels().channel("news").producer(last=f),
    "Runs": lambda f: Runs(Channels(), last=f),
}

#: The words by which an error names the argument. Those that are missing are the taker's name.
NAMES = {
    "subscribe": "filter",
    "Channel.subscribe": "filter",
    "SseStream.on": "the handler of 'drain'",
    "SseStream.on()": "the handler of 'drain'",
    "SseStream.once": "the handler of 'drain'",
    "ServerResponse.add_listener": "the handler of 'close'",
    "ServerResponse.once()": "the handler of 'close'",
    "call_on_close": "func",
    "write": "callback",
    "write with an encoding": "callback",
    "write_message": "callback",
    "set_timeout": "callback",
    "set_interval": "callback",
    "pipe": "write() of a destination",
    "push": "push() of a stream",
    "req.on": "the handler of 'close'",
    "req.on()": "the handler of 'aborted'",
    "req.once": "the handler of 'error'",
    "producer": "last",
    "Runs": "last",
}


def environ() -> dict[str, Any]:
    return EnvironBuilder().get_environ()


def sent() -> ServerResponse:
    """A response that is being sent."""
    res = ServerResponse()
    res(environ(), lambda status, headers: None)
    return res


def destroyed_response() -> ServerResponse:
    res = ServerResponse()
    res.destroy()
    return res


def ended_response() -> ServerResponse:
    res = ServerResponse()
    res.end()
    return res


def ended() -> SseStream:
    sse_stream = SseStream()
    sse_stream.end()
    return sse_stream


def destroyed() -> SseStream:
    sse_stream = SseStream()
    sse_stream.destroy()
    return sse_stream


def piped_twice() -> None:
    sse_stream = SseStream()
    sink = Sink()
    sse_stream.pipe(sink)
    sse_stream.pipe(sink)


#: The call, the error, and the words that it must hold.
Row = tuple[Callable[[], object], type[Exception], tuple[str, ...]]

TABLE: dict[str, list[Row]] = {
    "SseStream": [
        (lambda: SseStream("request"), TypeError, ("request", "str")),
        (lambda: SseStream(5), TypeError, ("request", "int")),
        (lambda: SseStream(object()), TypeError, ("request", "object")),
        (lambda: SseStream({}), TypeError, ("request", "environ", "dict")),
        (lambda: SseStream(ServerResponse()), TypeError, ("request", "ServerResponse")),
        (lambda: SseStream(high_water_mark=0), ValueError, ("high_water_mark", "at least 1", "0")),
        (lambda: SseStream(high_water_mark=-1), ValueError, ("high_water_mark", "-1")),
        (lambda: SseStream(high_water_mark="x"), TypeError, ("high_water_mark", "int", "'x'")),
        (lambda: SseStream(high_water_mark=True), TypeError, ("high_water_mark", "True")),
        (lambda: SseStream(high_water_mark=1.5), TypeError, ("high_water_mark", "1.5")),
        (lambda: SseStream(high_water_mark=None), TypeError, ("high_water_mark", "None")),
        (lambda: SseStream(heartbeat=0), ValueError, ("heartbeat", "positive", "0")),
        (lambda: SseStream(heartbeat=-1), ValueError, ("heartbeat", "-1")),
        (lambda: SseStream(heartbeat=NAN), ValueError, ("heartbeat", "nan")),
        (lambda: SseStream(heartbeat=INFINITY), ValueError, ("heartbeat", "finite")),
        (lambda: SseStream(heartbeat="x"), TypeError, ("heartbeat", "seconds", "str")),
        (lambda: SseStream(heartbeat=True), TypeError, ("heartbeat", "bool")),
        (lambda: SseStream(heartbeat=timedelta(1)), TypeError, ("heartbeat", "timedelta")),
    ],
    "write": [
        (lambda: SseStream().write("text"), MessageError, ("mapping", "str")),
        (lambda: SseStream().write(None), MessageError, ("mapping", "None")),
        (lambda: SseStream().write({}), MessageError, ("nothing in it",)),
        (lambda: SseStream().write({"dada": 1}), MessageError, ("'dada'", "'data'")),
        (lambda: SseStream().write({"event": "a\nb"}), MessageError, ("'event'", "line feed")),
        (lambda: SseStream().write({"retry": -1}), MessageError, ("'retry'", "negative")),
        (lambda: SseStream().write({"data": 1}, "latin-1"), ValueError, ("UTF-8", "latin-1")),
        (lambda: SseStream().write({"data": 1}, 5), ValueError, ("encoding", "5")),
        (lambda: SseStream().write({"data": 1}, None, "x"), TypeError, ("callback", "str")),
        (lambda: SseStream().write({"data": 1}, "utf-8", 5), TypeError, ("callback", "int")),
        (lambda: ended().write({"data": 1}), WriteAfterEnd, ("write()", "end()")),
        (lambda: SseStream().write_message("text"), MessageError, ("mapping", "str")),
        (lambda: SseStream().write_message({"data": 1}, "hex"), ValueError, ("UTF-8", "hex")),
        (lambda: ended().write_message({"data": 1}), WriteAfterEnd, ("end()",)),
    ],
    "push": [
        (lambda: SseStream().push("data: 1\n\n"), TypeError, ("frame", "bytes", "str")),
        (lambda: SseStream().push({"data": 1}), TypeError, ("frame", "dict")),
        (lambda: SseStream().push(None), TypeError, ("frame", "NoneType")),
        (lambda: ended().push(b"data: 1\n\n"), WriteAfterEnd, ("end()",)),
    ],
    "end": [
        (lambda: SseStream().end("text"), MessageError, ("mapping", "str")),
        (lambda: SseStream().end({}), MessageError, ("nothing in it",)),
        (lambda: ended().end({"data": 1}), WriteAfterEnd, ("end()",)),
    ],
    "destroy": [
        (lambda: SseStream().destroy("why"), TypeError, ("error", "exception", "str")),
        (lambda: SseStream().destroy(ValueError), TypeError, ("error", "exception", "type")),
        (lambda: ServerResponse().destroy("why"), TypeError, ("error", "exception", "str")),
    ],
    "pipe": [
        (lambda: SseStream().pipe(None), TypeError, ("write()", "NoneType")),
        (lambda: SseStream().pipe([]), TypeError, ("write()", "list")),
        (lambda: SseStream().pipe(Deaf()), TypeError, ("write()", "Deaf")),
        (lambda: SseStream().pipe(sent()), HeadersSent, ("headers were sent",)),
        (lambda: SseStream().pipe(destroyed_response()), StreamDestroyed, ("closed",)),
        (lambda: SseStream().pipe(ended_response()), StreamError, ("ended",)),
        (lambda: destroyed().pipe(Sink()), StreamDestroyed, ("over",)),
        (piped_twice, StreamError, ("already",)),
    ],
    "ServerResponse": [
        (lambda: ServerResponse(99), ValueError, ("status", "99")),
        (lambda: ServerResponse(100), ValueError, ("status", "100")),
        (lambda: ServerResponse(600), ValueError, ("status", "600")),
        (lambda: ServerResponse(0), ValueError, ("status", "0")),
        (lambda: ServerResponse(-200), ValueError, ("status", "-200")),
        (lambda: ServerResponse("abc"), ValueError, ("status", "abc")),
        (lambda: ServerResponse(""), ValueError, ("status",)),
        (lambda: ServerResponse("200 OK\r\nX-Bad: 1"), ValueError, ("status",)),
        (lambda: ServerResponse(None), TypeError, ("status", "NoneType")),
        (lambda: ServerResponse(True), TypeError, ("status", "bool")),
        (lambda: ServerResponse(200.0), TypeError, ("status", "float")),
        (lambda: ServerResponse("\u0662\u0660\u0660"), ValueError, ("status",)),
        (lambda: ServerResponse(200, {"X-One": None}), TypeError, ("'X-One'", "None")),
        (lambda: ServerResponse(high_water_mark=0), ValueError, ("high_water_mark", "0")),
        (lambda: ServerResponse(high_water_mark=-1), ValueError, ("high_water_mark", "-1")),
        (lambda: ServerResponse(high_water_mark="x"), TypeError, ("high_water_mark", "'x'")),
        (lambda: ServerResponse(high_water_mark=True), TypeError, ("high_water_mark", "True")),
    ],
    "write_head": [
        (lambda: ServerResponse().write_head(99), ValueError, ("status", "99")),
        (lambda: ServerResponse().write_head("abc"), ValueError, ("status", "abc")),
        (lambda: ServerResponse().write_head(None), TypeError, ("status", "NoneType")),
        (lambda: ServerResponse().write_head({"X-One": "1"}), TypeError, ("status", "dict")),
        (lambda: ServerResponse().write_head(200, {"X-One": 1.5}), TypeError, ("'X-One'", "1.5")),
        (lambda: ServerResponse().write_head(200, {"X-One": "a\nb"}), ValueError, ()),
        (lambda: ServerResponse().write_head(200, "X-One: 1"), (TypeError, ValueError), ()),
        (lambda: sent().write_head(200), HeadersSent, ("write_head()",)),
    ],
    "header": [
        (lambda: ServerResponse().header("X-One", "a\nb"), ValueError, ()),
        (lambda: ServerResponse().header("X-One", "a\r\nX-Two: b"), ValueError, ()),
        (lambda: ServerResponse().header("X-One", ["a", "b\r"]), ValueError, ()),
        (lambda: ServerResponse().header("X-One", None), TypeError, ("'X-One'", "None")),
        (lambda: ServerResponse().header("X-One"), TypeError, ("'X-One'", "None")),
        (lambda: ServerResponse().header("X-One", 1.5), TypeError, ("'X-One'", "1.5")),
        (lambda: ServerResponse().header("X-One", True), TypeError, ("'X-One'", "True")),
        (lambda: ServerResponse().header("X-One", b"1"), TypeError, ("'X-One'", "b'1'")),
        (lambda: ServerResponse().header("X-One", ["a", None]), TypeError, ("'X-One'", "None")),
        (lambda: ServerResponse().header("", "1"), TypeError, ("name", "''")),
        (lambda: ServerResponse().header(5, "1"), TypeError, ("name", "5")),
        (lambda: ServerResponse().header("X One", "1"), ValueError, ("name", "'X One'")),
        (lambda: ServerResponse().header("X-One\r\nX-Two", "1"), ValueError, ("name",)),
        (lambda: ServerResponse().header("X-One:", "1"), ValueError, ("name", "'X-One:'")),
        (lambda: ServerResponse().header({"X One": "1"}), ValueError, ("name", "'X One'")),
        (lambda: ServerResponse().header("X-\u00e9\u4f60", "1"), ValueError, ("name",)),
        (lambda: ServerResponse().header("X-One", "\u4f60"), ValueError, ("X-One",)),
        (lambda: sent().header("X-One", "1"), HeadersSent, ("header('X-One', ...)",)),
    ],
    "write of a response": [
        (lambda: ServerResponse().write(None), TypeError, ("chunk", "NoneType")),
        (lambda: ServerResponse().write(5), TypeError, ("chunk", "int")),
        (lambda: ServerResponse().write({"data": 1}), TypeError, ("chunk", "dict")),
        (lambda: ServerResponse().end(5), TypeError, ("chunk", "int")),
        (lambda: ended_response().write("late"), WriteAfterEnd, ("write()", "end()")),
        (lambda: ended_response().end("late"), WriteAfterEnd, ("end()",)),
    ],
    "pipeline": [
        (lambda: pipeline("text", SseStream(), Sink()), TypeError, ("source", "str")),
        (lambda: pipeline(b"octets", SseStream(), Sink()), TypeError, ("source", "bytes")),
        (lambda: pipeline({"data": 1}, SseStream(), Sink()), TypeError, ("source", "dict")),
        (lambda: pipeline(None, SseStream(), Sink()), TypeError, ("source", "NoneType")),
        (lambda: pipeline(5, SseStream(), Sink()), TypeError, ("source", "int")),
        (lambda: pipeline(nothing, SseStream(), Sink()), TypeError, ("source", "function")),
        (lambda: pipeline([], ServerResponse(), SseStream()), TypeError, ("sse_stream", "Server")),
        (lambda: pipeline([], None, Sink()), TypeError, ("sse_stream", "NoneType")),
        (lambda: pipeline([], SseStream(), 5), TypeError, ("write()", "int")),
        (lambda: pipeline([], destroyed()), StreamDestroyed, ("over",)),
        (lambda: pipeline([], SseStream(), sent()), HeadersSent, ("headers were sent",)),
        (lambda: pipeline([], destroyed(), Sink()), StreamDestroyed, ("over",)),
    ],
    "timers": [
        (lambda: set_interval("tick", 1000), TypeError, ("callback", "str")),
        (lambda: set_interval(1000, nothing), TypeError, ("callback", "int")),
        (lambda: set_interval(wait_for_it, 1000), TypeError, ("callback", "await")),
        (lambda: set_interval(None, 1000), TypeError, ("callback", "NoneType")),
        (lambda: set_interval(nothing, -1), ValueError, ("delay_ms", "negative", "-1")),
        (lambda: set_interval(nothing, NAN), ValueError, ("delay_ms", "finite", "nan")),
        (lambda: set_interval(nothing, INFINITY), ValueError, ("delay_ms", "finite", "inf")),
        (lambda: set_interval(nothing, "1000"), TypeError, ("delay_ms", "milliseconds", "str")),
        (lambda: set_interval(nothing, None), TypeError, ("delay_ms", "NoneType")),
        (lambda: set_interval(nothing, True), TypeError, ("delay_ms", "bool")),
        (lambda: set_interval(nothing, timedelta(1)), TypeError, ("delay_ms", "timedelta")),
        (lambda: set_interval(nothing, 10**400), ValueError, ("delay_ms",)),
        (lambda: set_timeout("tick", 1000), TypeError, ("callback", "str")),
        (lambda: set_timeout(nothing, -1), ValueError, ("delay_ms", "negative", "-1")),
        (lambda: set_timeout(nothing, "1000"), TypeError, ("delay_ms", "str")),
        (lambda: clear_interval(5), TypeError, ("timer", "set_interval()", "int")),
        (lambda: clear_interval("timer"), TypeError, ("timer", "str")),
        (lambda: clear_timeout(5), TypeError, ("timer", "set_timeout()", "int")),
    ],
}

ROWS = [
    pytest.param(*row, id=f"{name} {number}")
    for name, rows in TABLE.items()
    for number, row in enumerate(rows)
]


@pytest.mark.parametrize(("call", "error", "words"), ROWS)
def test_a_wrong_argument_is_refused_in_words_that_help(
    call: Callable[[], object], error: type[Exception], words: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert isinstance(error, tuple) or type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("useless", USELESS)
@pytest.mark.parametrize("taker", TAKERS)
def test_what_somebody_would_have_to_await_is_refused_where_it_is_given(
    taker: str, useless: str
) -> None:
    name = re.escape(NAMES.get(taker, taker))
    with pytest.raises(
        TypeError, match=rf"^{name} must be a plain function: nobody would (await|iterate)"
    ):
        TAKERS[taker](USELESS[useless])


@pytest.mark.parametrize("plain", [Sink, Sink().write, nothing, print, Mock(), str.upper])
def test_whatever_else_can_be_called_is_taken(plain: Any) -> None:
    for name, taker in TAKERS.items():
        if name != "pipe":  # which calls it at once
            taker(plain)


@pytest.mark.parametrize(
    "returned",
    [[], {}, wait_for_it, concurrent.futures.Future, lambda: iter("a"), lambda: nothing],
    ids=["list", "dict", "coroutine", "future", "iterator", "function"],
)
def test_a_client_is_not_known_by_what_cannot_be_counted_by(returned: Any) -> None:
    def client_key(environ: dict[str, Any]) -> Any:
        return returned() if callable(returned) else returned

    app = Flask(__name__)
    app.config["SSESTREAM_CLIENT_KEY"] = client_key
    with app.app_context(), pytest.raises(TypeError, match="client_key must return"):
        SseStream(environ())


def test_a_message_error_names_its_field() -> None:
    for message, field in [({"dada": 1}, "dada"), ({"id": 1.5}, "id"), ({}, None), ("text", None)]:
        with pytest.raises(MessageError) as caught:
            SseStream().write(message)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("heartbeat", 0, ValueError),
        ("heartbeat", -1, ValueError),
        ("heartbeat", NAN, ValueError),
        ("heartbeat", "15", TypeError),
        ("heartbeat", True, TypeError),
        ("send_timeout", "15", TypeError),
        ("max_messages", 0, ValueError),
        ("max_bytes", 1.5, TypeError),
        ("overflow", "explode", ValueError),
        ("max_age", -1, ValueError),
        ("retry", (1, 2, 3), TypeError),
        ("retry_after", None, TypeError),
        ("max_streams", 0, ValueError),
        ("max_streams_per_client", True, TypeError),
        ("client_key", "REMOTE_ADDR", TypeError),
        ("client_key", wait_for_it, TypeError),
    ],
)
def test_a_bad_setting_is_named(name: str, value: object, error: type[Exception]) -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_" + name.upper()] = value
    with app.app_context(), pytest.raises(error, match=f"^SSESTREAM_{name.upper()} (is|must)"):
        SseStream()


@pytest.mark.parametrize(
    "call",
    [
        lambda: SseStream().write({"data": 1}, "UTF-8"),
        lambda: SseStream().write({"data": 1}, "utf8", nothing),
        lambda: SseStream().write({"data": 1}, nothing),
        lambda: SseStream().unpipe(Sink()),
        lambda: SseStream().unpipe(),
        lambda: ended().end(),
        lambda: destroyed().destroy(),
        lambda: destroyed().unpipe(),
        lambda: SseStream(environ(), high_water_mark=1, heartbeat=None),
        lambda: ServerResponse("200"),
        lambda: ServerResponse(599, {"X-Number": 5, "X-List": ["a", 2]}),
        lambda: ended_response().end(),
        lambda: destroyed_response().destroy(),
        lambda: destroyed_response().write("late"),
        lambda: clear_interval(None),
        lambda: clear_timeout(None),
        lambda: clear_interval(set_timeout(nothing, 0)),
    ],
)
def test_what_may_be_done_may_be_done(call: Callable[[], object]) -> None:
    call()


def test_every_error_is_of_the_tree() -> None:
    own = [
        MessageError,
        StreamError,
        WriteAfterEnd,
        HeadersSent,
        StreamDestroyed,
        ClientDisconnected,
        BufferFull,
    ]
    assert all(issubclass(each, ssestream.SseStreamError) for each in own)
    assert issubclass(MessageError, ValueError)
    assert issubclass(ClientDisconnected, StreamDestroyed)


class Own(ServerResponse):
    pass


@pytest.mark.parametrize(
    "make",
    [
        ServerResponse,
        Own,
        SseStream,
        lambda: SseStream(environ()),
        lambda: iter(ServerResponse().response),
        Channels,
        lambda: Channels("memory://").channel("news"),
        lambda: set_timeout(nothing, 0),
        lambda: IncomingMessage(Request(environ()), ServerResponse()),
        lambda: Channels("memory://").channel("news").producer(),
        lambda: Runs(Channels("memory://")),
        lambda: Tickets("secret"),
        Metrics,
        lambda: OpenStreams(Flask(__name__)),
        lambda: stream(Flask(__name__), "/"),
        Clock,
    ],
)
@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, pickle.dumps], ids=["c", "deep", "pickle"]
)
def test_what_there_is_only_one_of_is_not_copied_and_says_why(make: Any, way: Any) -> None:
    thing = make()
    with pytest.raises(TypeError) as caught:
        way(thing)
    name = type(thing).__name__
    assert f" {name} can be neither copied nor pickled: " in str(caught.value)


def test_the_others_are() -> None:
    error = MessageError("why", "data")
    for way in (copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))):
        assert (str(way(error)), way(error).field) == ("why", "data")
        assert way(Settings(max_age=5)) == Settings(max_age=5)
        assert way(ssestream.statistics()).open == ssestream.statistics().open
        assert way(ServerResponse(headers={"X-One": "1"}).headers)["X-One"] == "1"


def test_a_class_of_ones_own_may_say_how_it_is_copied() -> None:
    class Cached(ServerResponse):
        def __reduce__(self) -> Any:
            return str, ("cached",)

    assert copy.copy(Cached()) == copy.deepcopy(Cached()) == "cached"


LONG_TEXT = "d" * 10**7

#: Calls with a text of ten megabytes in the place of a short one.
LONG: dict[str, Callable[[], object]] = {
    "option": lambda: SseStream(**{LONG_TEXT: 1}),  # type: ignore[arg-type]
    "overflow": lambda: SseStream(overflow=LONG_TEXT),  # type: ignore[arg-type]
    "on_shutdown": lambda: SseStream(on_shutdown=LONG_TEXT),  # type: ignore[arg-type]
    "retry_after": lambda: Settings(retry_after=LONG_TEXT),  # type: ignore[arg-type]
    "high_water_mark": lambda: SseStream(high_water_mark=LONG_TEXT),  # type: ignore[arg-type]
    "high_water_mark of a response": lambda: ServerResponse(
        high_water_mark=LONG_TEXT  # type: ignore[arg-type]
    ),
    "encoding": lambda: SseStream().write({"data": 1}, LONG_TEXT),
    "header's name": lambda: ServerResponse().header(LONG_TEXT + " ", "x"),
    "header's value": lambda: ServerResponse().header("x", LONG_TEXT + "\0"),
    "header with a long name": lambda: ServerResponse().header(LONG_TEXT, "\0"),
    "origin": lambda: checked_origins([LONG_TEXT]),
    "mode": lambda: datastar.patch_elements("<p>", mode=LONG_TEXT),  # type: ignore[arg-type]
    "namespace": lambda: datastar.patch_elements(
        "<p>",
        namespace=LONG_TEXT,  # type: ignore[arg-type]
    ),
    "method": lambda: turbo.replace("x", "y", method=LONG_TEXT),  # type: ignore[arg-type]
    "limit": lambda: Channels("memory://").history(
        "news",
        limit=LONG_TEXT,  # type: ignore[arg-type]
    ),
    "latest": lambda: Channels("memory://").subscribe(
        SseStream(),
        "news",
        latest=LONG_TEXT,  # type: ignore[arg-type]
    ),
    "on_disconnect": lambda: Runs(Channels("memory://")).start(
        [],
        on_disconnect=LONG_TEXT,  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
def test_an_error_shows_no_text_of_ten_megabytes(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError), match="ddd") as caught:
        call()
    assert len(str(caught.value)) < 800
