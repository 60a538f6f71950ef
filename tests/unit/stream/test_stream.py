"""SseStream's rules: order, drain, and ends."""

import dataclasses
import functools
import json
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pydantic
import pydantic.dataclasses
import pytest
from flask import Flask, Response
from flask.json.provider import DefaultJSONProvider, JSONProvider
from pyee import EventEmitter
from werkzeug.test import EnvironBuilder

from ssestream import (
    ClientDisconnected,
    MessageError,
    ServerResponse,
    SseStream,
    StreamDestroyed,
    WriteAfterEnd,
    set_timeout,
)
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.runtime.callables import fitting
from ssestream.wire import Decoder, encode
from tests.kit.states import settled
from tests.kit.visit import Visit, on_threads_and_greenlets, until


class Sink(EventEmitter):
    """Any destination with ``write()``; while `full` it says so."""

    def __init__(self, full: bool = False) -> None:
        super().__init__()
        self.full = full
        self.got: list[bytes] = []

    def write(self, chunk: bytes) -> bool:
        self.got.append(chunk)
        return not self.full

    def drain(self) -> None:
        self.full = False
        self.emit("drain")

    def messages(self) -> list[dict[str, Any]]:
        got = Decoder().feed(b"".join(self.got))
        return [message for message in got if message != {"comment": "ok"}]


def environ(**more: Any) -> dict[str, Any]:
    return {**EnvironBuilder().get_environ(), **more}


def sent(sse_stream: SseStream) -> bytes:
    """Everything that an ended stream sends."""
    return b"".join(sse_stream).removeprefix(b":ok\n\n")


# -- many writers


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that give way to each other nearly everywhere."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


WRITERS, COUNT = 4, 500

#: Of each writer, in its order.
EVERYTHING = [(str(writer), str(number)) for writer in range(WRITERS) for number in range(COUNT)]


def write_from_threads(sse_stream: SseStream) -> None:
    """Every writer's messages, each from a thread of its own; all are handed on."""
    handed_on: Counter[Any] = Counter()

    def write(writer: int) -> None:
        for number in range(COUNT):
            message = {"id": writer, "data": number}
            sse_stream.write(message, callback=lambda error: handed_on.update([error]))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: handed_on.total() == WRITERS * COUNT, "all callbacks")
    assert set(handed_on) == {None}


def order_of(messages: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(message["id"], message["data"]) for message in messages]


def by_writer(order: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Sorted by the writer alone, which keeps each one's order."""
    return sorted(order, key=lambda each: each[0])


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_threads_write_while_others_pipe_and_unpipe_and_nothing_is_lost(beside: bool) -> None:
    sse_stream = SseStream(max_messages=WRITERS * COUNT)
    sink, other = Sink(), Sink()
    if beside:
        sse_stream.pipe(other)
    written = threading.Event()

    def pipe_and_unpipe() -> None:
        while not written.is_set():
            sse_stream.pipe(sink)
            sse_stream.unpipe(sink)
        sse_stream.pipe(sink)

    piper = threading.Thread(target=pipe_and_unpipe)
    piper.start()
    # The last pipe lets go what waits for one.
    threading.Timer(0.1, written.set).start()
    write_from_threads(sse_stream)
    piper.join()
    order = order_of(sink.messages())
    if not beside:
        assert by_writer(order) == EVERYTHING
    else:
        assert by_writer(order_of(other.messages())) == EVERYTHING
        # What was sent while it was not piped it did not get; the rest in the same order.
        rest = iter(order_of(other.messages()))
        assert all(each in rest for each in order)


@pytest.mark.usefixtures("hasty_threads")
def test_every_destination_gets_every_message_in_one_order() -> None:
    """Also where the writers themselves hand on each other's messages."""
    sse_stream = SseStream(max_messages=WRITERS * COUNT)
    responses = [OutgoingMessage(high_water_mark=1 << 30) for _ in range(3)]
    for response in responses:
        sse_stream.pipe(response)
    write_from_threads(sse_stream)
    sse_stream.end()
    orders = [order_of(Decoder().feed(b"".join(body_of(each)))[1:]) for each in responses]
    assert by_writer(orders[0]) == EVERYTHING
    assert orders == [orders[0]] * 3


def test_drain_comes_once_however_many_threads_filled_it() -> None:
    sse_stream = SseStream(high_water_mark=8)
    drains: list[int] = []
    results: list[bool] = []
    sse_stream.on("drain", lambda: drains.append(sse_stream.writable_length))

    def write() -> None:
        for number in range(50):
            results.append(sse_stream.write({"data": number}))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(True) == 7
    assert sse_stream.writable_need_drain
    sink = Sink(full=True)
    sse_stream.pipe(sink)
    for _ in range(200):
        before = len(sink.got)
        sink.emit("drain")
        until(lambda before=before: len(sink.got) > before, "one more message")
        assert not drains or len(sink.got) == 201
    sink.drain()
    for number in range(3):
        assert sse_stream.write({"data": number})
        until(lambda number=number: len(sink.got) == 202 + number, "one more message")
        settled(sse_stream)
        assert drains == [0]


# -- push, end, and after


def test_a_pushed_frame_is_sent_as_it_is() -> None:
    frame = encode({"data": "serialised once"})
    streams = [SseStream() for _ in range(3)]
    for sse_stream in streams:
        sse_stream.write({"id": 1})
        assert sse_stream.push(frame)
        sse_stream.end()
        assert sent(sse_stream) == b"id: 1\n\n" + frame


def test_push_counts_towards_the_mark() -> None:
    sse_stream = SseStream(high_water_mark=2)
    assert sse_stream.push(b"id: 1\n\n")
    assert not sse_stream.push(b"id: 2\n\n")
    assert sse_stream.writable_length == 2


@pytest.mark.parametrize(
    "late",
    [
        lambda s: s.write({"data": "late"}),
        lambda s: s.write_message({"data": "late"}),
        lambda s: s.push(b"data: late\n\n"),
        lambda s: s.end({"data": "late"}),
    ],
    ids=["write", "write_message", "push", "end"],
)
def test_nothing_may_be_written_after_the_end(late: Callable[[SseStream], object]) -> None:
    sse_stream = SseStream()
    sse_stream.end({"data": "last"})
    with pytest.raises(WriteAfterEnd):
        late(sse_stream)
    sse_stream.end()  # again, and no error
    assert sent(sse_stream) == b"data: last\n\n"
    # It is over, and a late write is normal.
    assert late(sse_stream) in (False, None)


@on_threads_and_greenlets
@pytest.mark.parametrize("over", ["destroyed", "left", "delivered"])
def test_one_that_is_over_ends_no_loop_of_its_writers(over: str) -> None:
    """As those of many Express programs, whose handlers of "close" call end()."""
    res, asked = ServerResponse(), environ()
    sse_stream = SseStream(asked)
    sse_stream.pipe(res)
    res.on("close", lambda: res.end())
    res.on("close", lambda: sse_stream.end())
    body = res(asked, lambda *args: None)
    if over == "destroyed":
        res.destroy()
    elif over == "left":
        body_of(res).connection_lost()
    else:
        sse_stream.end()
        assert b"".join(body) == b":ok\n\n"
    until(lambda: res.writable_ended and sse_stream.writable_ended, "the handlers")
    told: list[Any] = []
    assert sse_stream.write({"data": "late"}, told.append) is False
    assert sse_stream.push(b"data: late\n\n") is False
    assert res.write("late") is False
    sse_stream.end({"data": "late"})
    res.end("late")
    until(lambda: told, "the callback")
    assert isinstance(told[0], WriteAfterEnd)


def test_callbacks_of_more_than_the_mark_wait_though_it_is_unpiped() -> None:
    sse_stream = SseStream(high_water_mark=3)
    told: list[Any] = []
    sse_stream.unpipe()
    for number in range(5):
        sse_stream.write(
            {"data": number}, lambda error, number=number: told.append((number, error))
        )  # type: ignore[misc]
    until(lambda: told == [(0, None), (1, None), (2, None)], "those below the mark")
    sse_stream.pipe(sink := Sink())
    until(lambda: told[3:] == [(3, None), (4, None)], "the others")
    assert [message["data"] for message in sink.messages()] == list("01234")


class Method:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def none(self) -> None:
        self.got.append(())

    def one(self, first: object) -> None:
        self.got.append((first,))

    def all(self, *args: object) -> None:
        self.got.append(args)

    def named(self, *, name: object = None) -> None:
        self.got.append(())

    @classmethod
    def wrapped(cls, function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def wrapper(*args: object) -> object:
            return function(*args)

        return wrapper


def test_a_function_is_called_with_as_many_arguments_as_it_takes() -> None:
    this = Method()
    taking: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (this.none, ()),
        (this.one, (1,)),
        (this.all, (1, 2)),
        (this.named, ()),
        (Method.wrapped(this.none), ()),
        (Method.wrapped(this.one), (1,)),
        (functools.partial(this.one, 0), ()),
        (functools.partial(this.all, 0), (1, 2)),
        ([].append, (1,)),
        (print, (1, 2)),
    ]
    for function, args in taking:
        assert fitting(function, (1, 2)) == args, function
    set_timeout(this.one, 1, "first", "second")
    until(lambda: this.got == [("first",)], "the timer")


def test_a_bad_message_queues_nothing_and_end_with_one_ends_nothing() -> None:
    sse_stream = SseStream()
    with pytest.raises(MessageError):
        sse_stream.write({"data": float("nan")})
    with pytest.raises(MessageError):
        sse_stream.end({"dada": 1})
    assert sse_stream.writable_length == 0
    assert not sse_stream.writable_ended
    sse_stream.end({"data": "good"})
    assert sent(sse_stream) == b"data: good\n\n"


# -- after the client has left


@on_threads_and_greenlets
def test_a_write_after_the_client_has_left_is_false_and_its_callback_hears_why() -> None:
    kept: list[SseStream] = []
    errors: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append(SseStream(environ))
        return kept[0].pipe(ServerResponse())(environ, start_response)

    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        assert kept[0].write({"data": "in time"}, errors.append)
        visit.read_until(b"in time\n\n")
        until(lambda: errors, "the callback")
    until(lambda: kept[0].destroyed, "the departure")
    assert kept[0].write({"data": "late"}, errors.append) is False
    assert kept[0].push(b"data: late\n\n") is False
    kept[0].end()  # a normal thing to do, too
    until(lambda: len(errors) == 2, "the callback")
    assert errors[0] is None
    assert isinstance(errors[1], ClientDisconnected)


@on_threads_and_greenlets
def test_a_stream_of_nobodys_drops_what_no_client_is_there_for() -> None:
    """Until it is piped again, as another may come."""
    sse_stream = SseStream()
    errors: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        res = ServerResponse()
        sse_stream.pipe(res)
        res.on("close", lambda: errors.append("close"))
        return res(environ, start_response)

    with Visit(app) as first, Visit(app) as second:
        first.read_until(b":ok\n\n")
        second.read_until(b":ok\n\n")
        sse_stream.write({"data": "both"})
        first.read_until(b"both\n\n")
        second.read_until(b"both\n\n")
        first.fin()
        until(lambda: errors == ["close"], "the first's departure")
        assert sse_stream.write({"data": "the second"})
        second.read_until(b"second\n\n")
    until(lambda: errors == ["close"] * 2, "the second's departure")
    assert not sse_stream.destroyed
    assert sse_stream.write({"data": "nobody"}, errors.append) is False
    until(lambda: len(errors) == 3, "the callback")
    assert isinstance(errors[2], ClientDisconnected)
    assert sse_stream.writable_length == 0
    with Visit(app) as third:
        third.read_until(b":ok\n\n")
        assert sse_stream.write({"data": "the third"})
        third.read_until(b"third\n\n")
        assert b"nobody" not in third.received


def test_what_waits_for_clients_who_leave_is_dropped() -> None:
    sse_stream = SseStream(high_water_mark=2)
    sink = Sink(full=True)
    errors: list[Any] = []
    sse_stream.pipe(sink)
    results = [sse_stream.write({"data": number}, errors.append) for number in range(4)]
    assert results == [True, False, False, False]
    sink.emit("close")
    until(lambda: len(errors) == 4, "the callbacks")
    assert {type(error) for error in errors} == {ClientDisconnected}
    assert (sse_stream.writable_length, sse_stream.writable_need_drain) == (0, False)


def test_what_is_written_after_an_unpipe_of_ones_own_is_kept() -> None:
    sse_stream = SseStream()
    sink = Sink()
    sse_stream.pipe(sink)
    sse_stream.unpipe(sink)
    sse_stream.write({"data": "kept"})
    sse_stream.end()
    assert sent(sse_stream) == b"data: kept\n\n"
    assert sink.messages() == []


# -- destroy


def test_destroy_drops_what_waits_and_tells_the_callbacks() -> None:
    sse_stream = SseStream()
    seen: list[Any] = []
    sse_stream.on("error", lambda error: seen.append("error"))
    sse_stream.on("close", lambda: seen.append("close"))
    sse_stream.write({"data": "waits"}, seen.append)
    sse_stream.destroy()
    sse_stream.destroy(ValueError("too late to matter"))
    settled(sse_stream)
    dropped, close = seen
    assert type(dropped) is StreamDestroyed
    assert close == "close"
    assert sse_stream.destroyed
    assert sse_stream.write({"data": "late"}) is False


def test_destroy_with_an_error_tells_it_to_everybody() -> None:
    sse_stream = SseStream()
    reason = ValueError("the reason")
    seen: list[Any] = []
    sse_stream.on("error", lambda error: seen.append(("error", error)))
    sse_stream.on("close", lambda: seen.append("close"))
    sse_stream.write({"data": "waits"}, seen.append)
    sse_stream.destroy(reason)
    settled(sse_stream)
    assert seen == [reason, ("error", reason), "close"]


# -- JSON


def written(app: Flask | None, value: Any) -> bytes:
    """*value* as data of a stream made in *app*, and written outside of it."""
    if app is None:
        sse_stream = SseStream()
    else:
        with app.app_context():
            sse_stream = SseStream()
    sse_stream.end({"data": value})
    return sent(sse_stream).removeprefix(b"data: ").removesuffix(b"\n\n")


def test_an_apps_json_is_compact_and_in_the_apps_order() -> None:
    value = {"b": [1, 2], "a": "\u00fc\u2028"}
    assert written(Flask(__name__), value).decode() == '{"b":[1,2],"a":"\u00fc\u2028"}'


@dataclasses.dataclass
class Seat:
    row: int
    price: Decimal


class Guest(pydantic.BaseModel):
    """A model with values that JSON has not."""

    name: str
    came_at: datetime
    paid: Decimal
    seat: Seat | None = None


@pydantic.dataclasses.dataclass
class Table:
    guest: Guest


class Guests(pydantic.RootModel[list[Guest]]):
    pass


WHEN = datetime(2024, 2, 29, 12, 0, 0, 250_000, tzinfo=timezone.utc)

GUEST = Guest(name="Zoë", came_at=WHEN, paid=Decimal("1.50"), seat=Seat(3, Decimal(9)))

#: As a Pydantic model writes itself: its dates keep their fractions.
GUEST_JSON = (
    '{"name":"Zoë","came_at":"2024-02-29T12:00:00.250000Z","paid":"1.50",'
    '"seat":{"row":3,"price":"9"}}'
)


@pytest.mark.parametrize("where", ["in an app", "without one"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"n": Decimal("1.50")}, '{"n":"1.50"}'),
        (uuid.UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (Seat(1, Decimal("2.5")), '{"row":1,"price":"2.5"}'),
        # The date of an HTTP header has no fraction of a second.
        ([WHEN], '["Thu, 29 Feb 2024 12:00:00 GMT"]'),
        (WHEN.date(), '"Thu, 29 Feb 2024 00:00:00 GMT"'),
        (GUEST, GUEST_JSON),
        ({"guests": [GUEST]}, '{"guests":[' + GUEST_JSON + "]}"),
        (Guests([GUEST]), "[" + GUEST_JSON + "]"),
        (Table(guest=GUEST), '{"guest":' + GUEST_JSON + "}"),
    ],
)
def test_flasks_provider_and_pydantic_know_more_types_than_json(
    where: str, value: Any, expected: str
) -> None:
    app = Flask(__name__)
    assert written(app if where == "in an app" else None, value).decode() == expected
    if "Zoë" not in expected:
        with app.app_context():
            assert json.loads(expected) == json.loads(app.json.dumps(value))


@pytest.mark.parametrize("where", ["in an app", "without one"])
@pytest.mark.parametrize("value", [object(), {1, 2}, {"a": object()}, GUEST.model_dump, Guest])
def test_what_neither_of_them_knows_is_refused(where: str, value: object) -> None:
    with pytest.raises(MessageError, match="'data' cannot be JSON") as caught:
        written(Flask(__name__) if where == "in an app" else None, value)
    assert caught.value.field == "data"


def test_a_provider_that_knows_models_writes_them_its_own_way() -> None:
    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(o: Any) -> Any:
            return o.name if isinstance(o, Guest) else DefaultJSONProvider.default(o)

    app = Flask(__name__)
    app.json = Provider(app)
    assert written(app, [GUEST]).decode() == '["Zoë"]'


def test_a_model_whose_json_fails_is_refused() -> None:
    class Broken(pydantic.BaseModel):
        any: Any

    with pytest.raises(MessageError, match="'data' cannot be JSON") as caught:
        written(None, Broken(any=object()))
    assert caught.value.field == "data"
    # Pydantic writes null for it.
    assert written(Flask(__name__), Broken(any=float("nan"))) == b'{"any":null}'


@pytest.mark.parametrize("where", ["in an app", "without one"])
@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"x": float("-inf")}])
def test_what_is_no_number_is_refused(where: str, value: object) -> None:
    with pytest.raises(MessageError, match="data"):
        written(Flask(__name__) if where == "in an app" else None, value)


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


def test_a_provider_that_adds_a_type_is_asked_for_it() -> None:
    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(o: Any) -> Any:
            return [o.x, o.y] if isinstance(o, Point) else DefaultJSONProvider.default(o)

    app = Flask(__name__)
    app.json = Provider(app)
    assert written(app, {"at": Point(1, 2), "n": Decimal(3)}) == b'{"at":[1,2],"n":"3"}'
    with pytest.raises(MessageError):
        written(app, object())


def test_a_provider_of_another_kind_writes_as_it_likes() -> None:
    class Provider(JSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            assert not kwargs
            return f"<{obj.x};\n{obj.y}>"

        def loads(self, s: str | bytes, **kwargs: Any) -> Any:
            raise NotImplementedError

    app = Flask(__name__)
    app.json = Provider(app)
    assert written(app, Point(1, 2)) == b"<1;\ndata: 2>"


def test_a_provider_is_the_one_of_the_view() -> None:
    """However late and from wherever it is written."""

    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(o: Any) -> Any:
            return "a point"

    app = Flask(__name__)
    app.json = Provider(app)
    kept: list[SseStream] = []

    @app.get("/")
    def view() -> Response:
        kept.append(SseStream(environ()))
        return kept[0].pipe(ServerResponse())

    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        thread = threading.Thread(target=kept[0].write, args=({"data": Point(1, 2)},))
        thread.start()
        visit.read_until(b'data: "a point"\n\n')
        thread.join()


def test_a_stream_made_outside_takes_the_provider_of_where_it_is_written() -> None:
    app = Flask(__name__)
    sse_stream = SseStream()
    with app.app_context():
        sse_stream.write({"data": Decimal(1)})
    sse_stream.end()
    assert sent(sse_stream) == b'data: "1"\n\n'


# -- iteration


def test_a_stream_is_iterated_as_one_chunk_of_what_waits() -> None:
    sse_stream = SseStream()
    for number in range(3):
        sse_stream.write({"id": number})
    sse_stream.end()
    assert list(sse_stream) == [b":ok\n\nid: 0\n\nid: 1\n\nid: 2\n\n"]


@on_threads_and_greenlets
def test_whoever_waits_for_drain_hears_it_when_the_last_client_has_left() -> None:
    stream, message = SseStream(high_water_mark=2), OutgoingMessage(high_water_mark=1)
    heard: list[str] = []
    stream.on("drain", lambda: heard.append("drain"))
    stream.pipe(message)
    while stream.write({"data": "x"}):
        pass
    assert stream.writable_need_drain
    message.destroy()
    until(lambda: heard == ["drain"], "the drain")
    assert not stream.writable_need_drain


def test_a_stream_cannot_be_piped_into_a_stream() -> None:
    one, other = SseStream(), SseStream()
    with pytest.raises(TypeError, match="a stream cannot be piped into a stream"):
        one.pipe(other)
    assert not one.destroyed
    assert other.writable_length == 0
