"""Views with the mistakes that are easily made, and views that only look like them."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from flask import Flask, Response, request

from ssestream import Channels, ServerResponse, SseStream, set_interval, set_timeout

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

app = Flask(__name__)
channels = Channels()


@app.get("/stream")
def stream() -> Response:
    return SseStream(request).pipe(ServerResponse())


@app.get("/ended")
def ended() -> Response:
    sse_stream, res = SseStream(request), ServerResponse()
    sse_stream.pipe(res)
    sse_stream.end({"data": 1})
    return res


# -- a stream that nobody pipes


def write_on(sse_stream: SseStream, res: ServerResponse) -> None:
    timer = set_interval(lambda: sse_stream.write({"data": 1}), 1)
    res.on("close", timer.clear)


@app.get("/forgotten/timer")
def timer() -> Response:
    sse_stream, res = SseStream(request), ServerResponse()
    write_on(sse_stream, res)
    return res


@app.get("/forgotten/head")
def head() -> Response:
    """The type is right, and so nothing tells before the stream is full."""
    sse_stream, res = SseStream(request), ServerResponse()
    res.header("Content-Type", "text/event-stream")
    write_on(sse_stream, res)
    return res


@app.get("/forgotten/written")
def written() -> Response:
    SseStream(request).write({"data": 1})
    res = ServerResponse()
    res.header("Content-Type", "text/event-stream")
    return res


@app.get("/forgotten/subscribed")
def subscribed() -> Response:
    sse_stream, res = SseStream(request), ServerResponse()
    res.header("Content-Type", "text/event-stream")
    channels.subscribe(sse_stream, "news")
    return res


@app.get("/forgotten/other")
def other() -> Response:
    """Piped, but not into the response that is returned."""
    SseStream(request).pipe(ServerResponse())
    return ServerResponse()


@app.get("/forgotten/empty")
def empty() -> Response:
    write_on(SseStream(request), ServerResponse())
    return Response(mimetype="text/event-stream")


def werkzeug(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """An app without Flask."""
    SseStream(environ)
    return ServerResponse()(environ, start_response)


# -- what only looks like it


@app.get("/meant/by-hand")
def by_hand() -> Response:
    """A stream for its `last_event_id` alone."""
    res = ServerResponse()
    res.header("Content-Type", "text/event-stream")
    last_event_id = SseStream(request).last_event_id
    set_timeout(lambda: res.end(f"data: behind {last_event_id}\n\n"), 1)
    return res


@app.get("/meant/page")
def page() -> Response:
    SseStream(request)
    res = ServerResponse()
    res.end("no stream")
    return res


@app.get("/meant/refused")
def refused() -> Any:
    SseStream(request).write({"data": 1})
    return "no", 403


@app.get("/meant/forwarded")
def forwarded() -> Response:
    """Through a destination of the app's own."""
    sse_stream, res = SseStream(request), ServerResponse()

    class Through:
        write = staticmethod(res.write)
        end = staticmethod(res.end)

    sse_stream.pipe(Through())
    sse_stream.end({"data": 1})
    return res


@app.get("/meant/wrapped")
def wrapped() -> Response:
    sse_stream = SseStream(request)
    sse_stream.end({"data": 1})
    return Response((chunk for chunk in sse_stream), mimetype="text/event-stream")


# -- views with a loop of their own


async def push(write: Any) -> None:
    while True:
        write("data: 1\n\n")
        await asyncio.sleep(0.01)


@app.get("/task/stream")
async def task() -> Response:
    sse_stream, res = SseStream(request), ServerResponse()
    sse_stream.pipe(res)
    app.config["TASK"] = asyncio.create_task(push(lambda text: sse_stream.write({"data": text})))
    return res


@app.get("/task/by-hand")
async def task_by_hand() -> Response:
    res = ServerResponse()
    res.header("Content-Type", "text/event-stream")
    app.config["TASK"] = asyncio.create_task(push(res.write))
    return res


@app.get("/done/awaited")
async def awaited() -> Response:
    sse_stream, res = SseStream(request), ServerResponse()
    sse_stream.pipe(res)

    async def rows() -> int:
        await asyncio.sleep(0)
        return 1

    for number in await asyncio.gather(rows(), asyncio.create_task(rows())):
        sse_stream.write({"data": number})
    sse_stream.end()
    return res
