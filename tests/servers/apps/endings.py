"""Answers in pieces, which the end of their worker may meet in the middle."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import gevent
from flask import Flask, request

from ssestream import ServerResponse, SseStream, clear_interval, handler, pipeline, set_interval
from tests.servers.apps import tell

app = Flask(__name__)
app.config.update(json.loads(os.environ.get("SETTINGS", "{}")))

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def pieces() -> Iterator[dict[str, Any]]:
    """*count* pieces, one every *ms* milliseconds, and the end."""
    count, seconds = int(request.args["count"]), float(request.args.get("ms", 50)) / 1000
    return _pieces(count, seconds, request.args.get("key", ""))


def _pieces(count: int, seconds: float, key: str) -> Iterator[dict[str, Any]]:
    try:
        for number in range(count):
            yield {"data": number}
            gevent.sleep(seconds)
        yield {"data": "[DONE]"}
    finally:
        tell(event="source closed", key=key)


def options() -> Any:
    found: Any = json.loads(request.args.get("options", "{}"))
    return found


@app.route("/pipeline", methods=METHODS)
def piped() -> ServerResponse:
    return pipeline(pieces(), SseStream(request, **options()), ServerResponse())


@app.route("/shared", methods=METHODS)
def without_request() -> ServerResponse:
    """A stream that knows of no request: its response knows the method."""
    return pipeline(pieces(), SseStream(**options()), ServerResponse())


@app.route("/handler", methods=METHODS)
@handler
def handled(req: Any, res: Any) -> None:
    sse_stream = SseStream(request, **options())
    sse_stream.pipe(res)
    for piece in pieces():
        sse_stream.write(piece)
    sse_stream.end()


@app.route("/written", methods=METHODS)
@handler
def written(req: Any, res: Any) -> None:
    """By hand, without a stream."""
    res.write_head(200, {"Content-Type": "text/event-stream; charset=utf-8"})
    res.write(":ok\n\n")
    for piece in pieces():
        res.write(f"data: {piece['data']}\n\n")
    res.end()


def async_pieces() -> AsyncIterator[dict[str, Any]]:
    count, seconds = int(request.args["count"]), float(request.args.get("ms", 50)) / 1000
    return _async_pieces(count, seconds, request.args.get("key", ""))


async def _async_pieces(count: int, seconds: float, key: str) -> AsyncIterator[dict[str, Any]]:
    try:
        for number in range(count):
            yield {"data": number}
            await asyncio.sleep(seconds)
        yield {"data": "[DONE]"}
    finally:
        tell(event="source closed", key=key)


@app.route("/async_pipeline", methods=METHODS)
def piped_from_coroutine() -> ServerResponse:
    return pipeline(async_pieces(), SseStream(request, **options()), ServerResponse())


@app.route("/async_handler", methods=METHODS)
@handler
async def awaited(req: Any, res: Any) -> None:
    sse_stream = SseStream(request, **options())
    sse_stream.pipe(res)
    async for piece in async_pieces():
        sse_stream.write(piece)
    sse_stream.end()


@app.route("/timer", methods=METHODS)
def timed() -> ServerResponse:
    res, sse_stream, given = ServerResponse(), SseStream(request, **options()), pieces()
    sse_stream.pipe(res)

    def write() -> None:
        piece = next(given, None)
        if piece is None:
            sse_stream.end()
        else:
            sse_stream.write(piece)

    # The source is not to wait by itself.
    count, ms = int(request.args["count"]), float(request.args.get("ms", 50))
    given = _pieces(count, 0.0, "")
    timer = set_interval(write, ms)
    res.on("close", lambda: clear_interval(timer))
    return res


@app.route("/late", methods=METHODS)
def late() -> ServerResponse:
    """A view that takes its time before it answers."""
    tell(event="late", key=request.args["key"])
    gevent.sleep(float(request.args["after"]))
    return piped()


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())
