"""What the tests of the deployment run behind nginx: the app of the server tests, and more."""

import itertools
import os
import time

from flask import Response, request

from ssestream import ServerResponse, SseStream, clear_interval, set_interval
from tests.servers.apps import tell
from tests.servers.apps.app import app

__all__ = ["app"]


@app.get("/times")
def times() -> Response:
    """The time at which each message is written, every *ms*, *count* of them."""
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    count = int(request.args.get("count", 1_000_000))
    ids = itertools.count(1)

    def write() -> None:
        number = next(ids)
        sse_stream.write({"id": number, "data": repr(time.monotonic())})
        if number == count:
            clear_interval(timer)
            sse_stream.end()

    timer = set_interval(write, float(request.args.get("ms", 20)))
    key = request.args.get("key", "")

    @res.on("close")
    def closed() -> None:
        clear_interval(timer)
        tell(event="times closed", key=key)

    return res


@app.get("/who")
def who() -> dict[str, str | int]:
    """Who asks, by what the app is told."""
    return {
        "address": request.remote_addr or "",
        "scheme": request.scheme,
        "host": request.host,
        "worker": os.getpid(),
    }


@app.get("/page")
def page() -> str:
    return "<!doctype html><link rel=icon href='data:,'><title>Streams</title>"
