"""Streams of each kind, in a process that may have few descriptors (``DESCRIPTORS``)."""

import os
import resource
from collections.abc import Iterator

import gevent
from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream, pipeline, set_interval

if "DESCRIPTORS" in os.environ:
    most = int(os.environ["DESCRIPTORS"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

app = Flask(__name__)
# Where only a heartbeat shows that a client has left.
app.config["SSESTREAM_HEARTBEAT"] = 0.2
channels = Channels("memory://")
hoard: list[int] = []


def piped() -> tuple[SseStream, ServerResponse]:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    return sse_stream, res


@app.get("/plain")
def plain() -> ServerResponse:
    sse_stream, res = piped()
    sse_stream.write({"data": "first"})
    return res


@app.get("/subscribed")
def subscribed() -> ServerResponse:
    sse_stream, res = piped()
    channels.subscribe(sse_stream, "news")
    sse_stream.write({"data": "first"})
    return res


@app.get("/timed")
def timed() -> ServerResponse:
    sse_stream, res = piped()
    set_interval(lambda: sse_stream.write({"data": "first"}), 10)
    return res


@app.get("/pipeline")
def drawn() -> ServerResponse:
    def source() -> Iterator[dict[str, str]]:
        while True:
            gevent.sleep(0.01)
            yield {"data": "first"}

    return pipeline(source(), SseStream(request), ServerResponse())


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.post("/take")
def take() -> str:
    """All that are left, but for some."""
    try:
        while True:
            hoard.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(int(request.args["but"])):
            os.close(hoard.pop())
    return str(len(hoard))


@app.post("/give")
def give() -> str:
    while hoard:
        os.close(hoard.pop())
    return "given back"
