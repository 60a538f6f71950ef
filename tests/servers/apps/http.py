"""What the HTTP tests run: responses of every shape, which remember what happened to them."""

from typing import Any

import gevent
from flask import Flask, Response, request

from ssestream import ServerResponse, SseStream, clear_interval, pipeline, set_interval

app = Flask(__name__)

told: list[tuple[str, str]] = []


def tell(what: str, key: str | None = None) -> None:
    told.append((key or request.args["key"], what))


@app.get("/told")
def told_of() -> list[str]:
    """What has happened to the response of that key, oldest first."""
    return [what for key, what in told if key == request.args["key"]]


def response() -> ServerResponse:
    res = ServerResponse()
    key = request.args["key"]
    for event in ("finish", "close", "error"):
        res.on(event, lambda *args, event=event: tell(event, key))
    return res


def piped() -> tuple[SseStream, ServerResponse]:
    sse_stream = SseStream(request)
    return sse_stream, sse_stream.pipe(response())


@app.get("/piped")
def open_stream() -> Response:
    return piped()[1]


@app.get("/drawn")
def drawn() -> Response:
    key = request.args["key"]

    def source() -> Any:
        tell("drawn", key)
        yield {"data": "one"}
        yield {"data": "two"}

    return pipeline(source(), SseStream(request), response())


@app.get("/ended")
def ended() -> Response:
    sse_stream, res = piped()
    for number in range(3):
        sse_stream.write({"id": number})
    sse_stream.end({"data": "last"})
    return res


@app.get("/raw")
def raw() -> Response:
    """The article's first example, with what its author may add."""
    res = response()
    res.header("Content-Type", "text/event-stream")
    if "cache" in request.args:
        res.header("Cache-Control", request.args["cache"])
    res.write("id:0\nevent:message\ndata:raw\n\n")
    res.end()
    return res


@app.get("/hops")
def hops() -> Response:
    """What Express code likes to set, in each of the ways to set it."""
    sse_stream, res = piped()
    res.write_head(200, {"Connection": "keep-alive", "X-Mine": "kept"})
    res.header("Transfer-Encoding", "identity")
    res.header({"Keep-Alive": "timeout=99", "Upgrade": "teapot"})
    res.headers["Proxy-Authenticate"] = "Basic"
    sse_stream.end({"data": "through"})
    return res


@app.get("/flushed")
def flushed() -> Response:
    res = response()
    res.header("Content-Type", "text/event-stream")
    res.flush_headers()
    return res


@app.get("/status/<int:status>")
def bodyless(status: int) -> Response:
    res = response()
    res.write_head(status)
    res.end()
    return res


@app.get("/raises")
def raises() -> Response:
    key = request.args["key"]
    sse_stream, res = piped()

    def write() -> None:
        sse_stream.write({"data": "nobody hears"})
        tell("tick", key)

    timer = set_interval(write, 1)
    res.on("close", lambda: clear_interval(timer))
    raise RuntimeError("the view's own")


@app.get("/fails")
def fails() -> Response:
    """A source that raises once its first message has been taken."""

    def source() -> Any:
        yield {"data": "one"}
        while sse_stream.writable_length or res.writable_length:
            gevent.sleep(0.001)
        raise LookupError("in the source")

    sse_stream = SseStream(request)
    res = response()
    return pipeline(source(), sse_stream, res)
