"""What an app may write. It is never run: ``mypy --strict`` must accept it."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any, TypedDict

from flask import Flask, Response, request

from ssestream import (
    BufferFull,
    Channels,
    ClientDisconnected,
    HeadersSent,
    MessageError,
    ServerResponse,
    Settings,
    SseStream,
    SseStreamError,
    Statistics,
    StreamDestroyed,
    StreamError,
    Tickets,
    WriteAfterEnd,
    check_origin,
    clear_interval,
    clear_timeout,
    drain,
    pipeline,
    set_interval,
    set_timeout,
    statistics,
    turbo,
)
from ssestream.datastar import patch_elements, patch_signals, read_signals
from ssestream.gunicorn import SseWorker, post_worker_init
from ssestream.htmx import close, fragment
from ssestream.testing import (
    Clock,
    Event,
    Events,
    LeftOpen,
    WaitedInVain,
    in_memory,
    nothing_left_open,
    stopped_clock,
    stream,
)

app = Flask(__name__)
app.config["SSESTREAM_MAX_STREAMS"] = Settings(max_streams=1000).max_streams


@app.get("/clock")
def clock() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    counter = itertools.count()
    pusher = set_interval(
        lambda: sse_stream.write(
            {
                "id": next(counter),
                "event": "message",
                "retry": timedelta(seconds=20),
                "data": date.today().isoformat(),
            }
        ),
        1000,
    )

    @res.on("close")
    def closed() -> None:
        clear_interval(pusher)
        sse_stream.unpipe(res)

    return res


def ticks() -> Iterator[dict[str, Any]]:
    for number in itertools.count():
        yield {"id": number, "data": {"tick": number}}


@app.get("/ticks")
def ticking() -> ServerResponse:
    return pipeline(ticks(), SseStream(request), ServerResponse())


class Tick(TypedDict, total=False):
    id: int
    data: str


def typed_ticks() -> Iterator[Tick]:
    yield {"id": 1, "data": "one"}


@app.get("/typed")
def typed() -> ServerResponse:
    return pipeline(typed_ticks(), SseStream(request.environ), ServerResponse())


class OwnStream(SseStream):
    pass


def iterated() -> OwnStream:
    return pipeline(typed_ticks(), OwnStream(request.environ))


@app.get("/plain")
def plain() -> Response:
    sse_stream = SseStream(request, high_water_mark=4, heartbeat=None)
    timer = set_timeout(sse_stream.write, 10.5, {"data": "late"})
    sse_stream.on("close", lambda: clear_timeout(timer))
    return Response(sse_stream, mimetype="text/event-stream")


@app.get("/bounded")
def bounded() -> ServerResponse:
    sse_stream = SseStream(
        request,
        send_timeout=5,
        max_messages=100,
        max_bytes=65536,
        overflow="drop-oldest",
        max_age=3600.0,
        retry=(1000, 2000),
    )
    return sse_stream.pipe(ServerResponse())


def address(environ: dict[str, Any]) -> str | None:
    return environ.get("REMOTE_ADDR")


settings = Settings(
    heartbeat=None,
    overflow="error",
    retry=1000,
    retry_after=(1000, 9000),
    client_key=address,
    max_streams_per_client=6,
)


@app.get("/statistics")
def numbers() -> dict[str, int]:
    now: Statistics = statistics()
    stalled: int = now.closed.get("stalled", 0)
    return {"open": now.open, "waiting": now.waiting, "dropped": now.dropped, "stalled": stalled}


def stop() -> None:
    drain()
    drain(timeout=0.5)


class Worker(SseWorker):
    def run(self) -> None:
        post_worker_init(self)
        super().run()


def sent(error: BaseException | None) -> None:
    if isinstance(error, ClientDisconnected):
        app.logger.info("gone")


def written(sse_stream: SseStream) -> bool:
    flowing: bool = sse_stream.write({"data": "x"}, callback=sent)
    flowing = sse_stream.write({"data": "x"}, sent)
    flowing = sse_stream.write({"data": "x"}, "utf-8", sent)
    flowing = sse_stream.write_message({"comment": "x"}, callback=sent)
    flowing = sse_stream.push(b"data: x\n\n") and flowing

    @sse_stream.once("drain")
    def drained() -> None:
        sse_stream.end({"data": "last"})

    @sse_stream.on("error")
    def failed(error: BaseException) -> None:
        app.logger.info("%r", error)

    last: str | None = sse_stream.last_event_id
    waiting: int = sse_stream.writable_length + sse_stream.writable_high_water_mark
    over: bool = sse_stream.writable_ended or sse_stream.writable_finished
    full: bool = sse_stream.writable_need_drain or sse_stream.destroyed
    return flowing and over and full and waiting > 0 and last is None


def answered(res: ServerResponse) -> int:
    res.header("X-One", "1").header("X-Two", 2).header({"X-Three": ["3", "4"]})
    res.write_head(200, {"Cache-Control": "no-store"}).write_head("201 CREATED")
    res.set_cookie("seen", "1")
    res.flush_headers()
    flowing: bool = res.write("text") and res.write(b"bytes")
    res.end("last")
    res.destroy(ConnectionError())
    over: bool = res.closed or res.destroyed or res.writable_finished or res.headers_sent
    return res.writable_length if flowing or over else res.writable_high_water_mark


class Sink:
    """A destination of the user's own needs no more than this."""

    def write(self, chunk: bytes) -> None:
        self.last = chunk


def piped(sse_stream: SseStream) -> Sink:
    sink = sse_stream.pipe(Sink(), end=False)
    sse_stream.unpipe(sink).unpipe()
    sse_stream.destroy()
    return sink


def caught(sse_stream: SseStream) -> object:
    try:
        sse_stream.write({"id": "\n"})
    except MessageError as error:
        return error.field
    except BufferFull as error:
        return str(error)
    except (HeadersSent, WriteAfterEnd, StreamDestroyed) as error:
        return StreamError(str(error))
    except SseStreamError:
        return None
    return sse_stream


def hypermedia(sse_stream: SseStream) -> object:
    sse_stream.write(patch_elements("<p id=a>", mode="append", selector="#a"))
    sse_stream.write(patch_signals({"count": 1}))
    sse_stream.write({**fragment("<p>", "news"), "retry": 1000})
    sse_stream.write(turbo.append("news", "<p>"))
    sse_stream.end(close())
    return read_signals(request).get("count")


tickets = Tickets(["new", b"old"], grace=5, origins=["https://app.example"])


@app.get("/ticketed")
def ticketed() -> ServerResponse:
    check_origin(request, allowed=["https://app.example"])
    sse_stream = SseStream(request)
    ticket = tickets.admit(request, sse_stream, channels=["news"], latest=5)
    sse_stream.write({"data": [*ticket.channels, ticket.expires_at]})
    return sse_stream.pipe(ServerResponse())


def issued() -> str:
    tickets.revoke(("user", 7), "news")
    text: str = tickets.issue(["news"], key=("user", 7), expires=30, once=True)
    return text


def test_news(sse_clock: Clock, channels: Channels) -> None:
    with nothing_left_open(), in_memory(channels) as kept, stream(app, "/news") as events:
        kept.publish("news", {"data": 1})
        event: Event = events.next(timeout=1)
        more: list[Event] = events.until(lambda event: event.data == "2")
        sse_clock.advance(15)
        assert (event.json(), len(more), events.ended, events.retry) == (1, 1, None, None)
    with stopped_clock() as clock, contextlib.suppress(WaitedInVain, LeftOpen):
        first: Events = stream("http://localhost/", method="PUT", json={}, headers={"X": "y"})
        clock.advance(first.take(2)[0].json())


def test_fixtures(sse: Callable[..., Events]) -> None:
    events = sse(app, "/news", last_event_id="7")
    assert events.headers["Content-Type"]
