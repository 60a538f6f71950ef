"""Streams that say which worker they come from, with messages for all of them all the time."""

import itertools
import os

from flask import Flask, request

from ssestream import ServerResponse, SseStream, set_interval
from ssestream.timers import Timer
from ssestream.wire import encode
from tests.servers.apps import tell

#: Milliseconds between two messages.
PACE_MS = 100

app = Flask(__name__)
# Otherwise Chromium would wait for three seconds.
app.config["SSESTREAM_RETRY"] = 300

numbers = itertools.count(1)
streams: set[SseStream] = set()
writers: list[Timer] = []


def write_to_all() -> None:
    frame = encode({"id": f"{os.getpid()}-{next(numbers)}", "data": os.getpid()})
    for sse_stream in list(streams):
        sse_stream.push(frame)


@app.get("/")
def page() -> str:
    return "<!doctype html><link rel=icon href='data:,'><title>Reload</title>"


@app.get("/news")
def news() -> ServerResponse:
    # Not on import, before the worker has a loop of its own.
    if not writers:
        writers.append(set_interval(write_to_all, PACE_MS))
    key = request.args["key"]
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    streams.add(sse_stream)

    @res.on("close")
    def closed() -> None:
        streams.discard(sse_stream)
        tell(event="close", key=key, pid=os.getpid())

    tell(event="open", key=key, pid=os.getpid(), last_event_id=sse_stream.last_event_id)
    return res
