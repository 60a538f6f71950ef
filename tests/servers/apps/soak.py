"""What the soak test runs: streams of every kind, and a ledger with a page for each.

The ledger stands between the streams and the registry of ``statistics()`` and
notes what those are told, by stream; and between the app and the server, where
it sees what the server was given. So a count that is wrong can be laid at the
door of one stream, and of the client that had it.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

import gevent
from flask import Flask, Response, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from ssestream import (
    ServerResponse,
    SseStream,
    clear_interval,
    pipeline,
    set_interval,
    set_timeout,
    statistics,
)
from ssestream.http.connection import Connection
from ssestream.http.registry import registry
from ssestream.runtime.threads import new_lock
from tests.kit.insides import socket_of
from tests.long.soak import text
from tests.servers.apps.app import inside as what_is_inside


@dataclasses.dataclass
class Page:
    """What is known of one stream that was asked for."""

    key: str
    #: True or False as the registry have answered; None where they were not asked.
    opened: bool | None = None
    cause: str | None = None
    #: What the registry were told.
    messages: int = 0
    bytes: int = 0
    #: What the server was given, and the last of it: whether that has left shows
    #: only when the server comes back for more.
    given: int = 0
    in_hand: int = 0
    given_messages: int = 0
    in_hand_messages: int = 0
    #: How often ``close`` was emitted.
    closes: int = 0
    #: Whether the server is done with it.
    served: bool = False

    def is_over(self) -> bool:
        return self.served and self.closes > 0 and (not self.opened or self.cause is not None)


class Ledger:
    def __init__(self) -> None:
        self._lock = new_lock()
        self._pages: dict[str, Page] = {}
        self._by_stream: dict[int, Page] = {}
        # Whose stream the running thread or greenlet serves.
        self._serving = threading.local()
        self._open, self._close = registry.open, registry.close
        for name in ("open", "close"):
            setattr(registry, name, getattr(self, name))

    def begin(self, key: str) -> Page:
        with self._lock:
            assert key not in self._pages, f"{key} was asked for twice"
            page = self._pages[key] = Page(key)
        return page

    def page(self, key: str) -> Page:
        return self._pages[key]

    def knows_the_end(self, key: str) -> bool:
        """Torn out is over too, and so is what was never opened and never will be."""
        page = self._pages.get(key)
        return page is None or page.is_over()

    @contextlib.contextmanager
    def serving(self, page: Page) -> Iterator[None]:
        self._serving.page = page
        try:
            yield
        finally:
            self._serving.page = None

    def tear_out(self) -> list[Page]:
        """The pages of all that are over, which are forgotten here."""
        with self._lock:
            over = [page for page in self._pages.values() if page.is_over()]
            for page in over:
                del self._pages[page.key]
        return over

    # -- what the streams tell the registry

    def open(self, stream: Any, *args: Any) -> bool:
        page = self._serving.page
        with self._lock:
            page.opened = self._open(stream, *args)
            self._by_stream[id(stream)] = page
        return bool(page.opened)

    def close(self, stream: Any, cause: Any, *args: Any) -> None:
        with self._lock:
            self._close(stream, cause, *args)
            page = self._by_stream.pop(id(stream), None)
        if page is not None:
            page.messages, page.bytes = stream.sent()
            if page.opened:
                page.cause = cause


ledger = Ledger()


class Witness:
    """Middleware that opens a page for each request with a ``key``."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        key = parse_qs(environ["QUERY_STRING"]).get("key")
        if key is None:
            return self._app(environ, start_response)
        page = ledger.begin(key[0])
        try:
            with ledger.serving(page):
                body = self._app(environ, start_response)
        except BaseException:
            page.served = True
            raise
        if environ["REQUEST_METHOD"] == "HEAD":
            page.served = True
            return body
        return Witnessed(body, page)


class Witnessed:
    def __init__(self, body: Any, page: Page) -> None:
        self._body = body
        self._chunks = iter(body)
        self._page = page

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with ledger.serving(self._page):
            chunk = next(self._chunks)
        page = self._page
        page.in_hand, page.in_hand_messages = len(chunk), chunk.count(b"\ndata: ")
        page.given += page.in_hand
        page.given_messages += page.in_hand_messages
        return chunk

    def close(self) -> None:
        try:
            with ledger.serving(self._page):
                self._body.close()
        finally:
            self._page.served = True


app = Flask(__name__)
app.config["SSESTREAM_CLIENT_KEY"] = lambda environ: environ.get("HTTP_X_CLIENT")
app.config["SSESTREAM_MAX_STREAMS_PER_CLIENT"] = 1

#: The same app, where one stream in all of the process is enough.
full = Flask(__name__)
full.config["SSESTREAM_MAX_STREAMS"] = 1


def made() -> SseStream:
    if "send_buffer" in request.args:
        sock = socket_of(Connection.of(request.environ))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(request.args["send_buffer"]))
    return SseStream(request, **json.loads(request.args.get("options", "{}")))


def piped() -> tuple[SseStream, ServerResponse]:
    page = ledger.page(request.args["key"])
    res = ServerResponse()
    sse_stream = made()
    sse_stream.pipe(res)

    @res.on("close")
    def closed() -> None:
        page.closes += 1

    return sse_stream, res


def to_come(sse_stream: SseStream) -> Iterator[dict[str, Any]]:
    """The messages from the last that the client has seen to *count*, of *size* each."""
    size = int(request.args.get("size", 10))
    count = int(request.args.get("count", 0))
    first = int(sse_stream.last_event_id or 0) + 1
    return ({"id": number, "data": text(number, size)} for number in range(first, count + 1))


@app.get("/paced")
@full.get("/paced")
def paced() -> Response:
    """A message every *ms* milliseconds, or all at once; and with *end* the end."""
    sse_stream, res = piped()
    write_paced(sse_stream, res)
    return res


@app.get("/iterated")
def iterated() -> Response:
    """The same without a ServerResponse."""
    page = ledger.page(request.args["key"])
    sse_stream = made()

    @sse_stream.on("close")
    def closed() -> None:
        page.closes += 1

    write_paced(sse_stream, sse_stream)
    return Response(sse_stream, mimetype="text/event-stream")


def write_paced(sse_stream: SseStream, closing: Any) -> None:
    messages = to_come(sse_stream)
    ends = "end" in request.args
    ms = float(request.args.get("ms", 0))

    def write() -> None:
        following = next(messages, None)
        if following is not None:
            sse_stream.write(following)
            return
        clear_interval(timer)
        if ends:
            sse_stream.end()

    if ms:
        timer = set_interval(write, ms)
        closing.on("close", lambda: clear_interval(timer))
        return
    for each in messages:
        sse_stream.write(each)
    if ends:
        sse_stream.end()


@app.get("/drawn")
def drawn() -> Response:
    """As fast as the client takes them, or one every *ms* milliseconds; and the end."""
    page = ledger.page(request.args["key"])
    sse_stream, res = made(), ServerResponse()

    @res.on("close")
    def closed() -> None:
        page.closes += 1

    ms = float(request.args.get("ms", 0))

    def source(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for each in messages:
            yield each
            if ms:
                gevent.sleep(ms / 1000)

    return pipeline(source(to_come(sse_stream)), sse_stream, res)


@app.get("/reckless")
def reckless() -> Response:
    """All at once and without regard, once the client has the head."""
    sse_stream, res = piped()
    messages = to_come(sse_stream)

    def write() -> None:
        for each in messages:
            if sse_stream.destroyed:
                return
            sse_stream.write(each)
        sse_stream.end()

    timer = set_timeout(write, 20)
    res.on("close", lambda: clear_interval(timer))
    return res


@app.get("/destroyed")
def destroyed() -> Response:
    """Destroyed after *ms* milliseconds, by its stream or by its response."""
    sse_stream, res = piped()
    for each in to_come(sse_stream):
        sse_stream.write(each)
    sse_stream.on("error", lambda error: None)
    res.on("error", lambda error: None)
    error = ValueError("on purpose") if "error" in request.args else None
    victim = res if request.args["of"] == "response" else sse_stream
    timer = set_timeout(victim.destroy, float(request.args["ms"]), error)
    res.on("close", lambda: clear_interval(timer))
    return res


@app.get("/silent")
def silent() -> Response:
    """Nothing but beats, and the end after *ms* milliseconds."""
    sse_stream, res = piped()
    timer = set_timeout(sse_stream.end, float(request.args["ms"]))
    res.on("close", lambda: clear_interval(timer))
    return res


@app.get("/is-over/<key>")
def is_over(key: str) -> str:
    return "yes" if ledger.knows_the_end(key) else "no"


@app.post("/ledger")
def torn_out() -> list[dict[str, Any]]:
    return [dataclasses.asdict(page) for page in ledger.tear_out()]


@app.get("/statistics")
def counted() -> dict[str, Any]:
    return {**dataclasses.asdict(statistics()), "pages": len(ledger._pages)}


@app.get("/inside")
def inside() -> dict[str, int]:
    # What malloc keeps for later is not what the process holds.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return {**what_is_inside(), "tasks": len(os.listdir("/proc/self/task"))}


application = Witness(DispatcherMiddleware(app, {"/full": full}))
