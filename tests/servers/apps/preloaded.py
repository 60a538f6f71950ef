"""An app with timers that its module sets, for gunicorn with --preload and without."""

import os

from flask import Flask, request

from ssestream import ServerResponse, SseStream, clear_interval, set_interval, set_timeout

if "PATCHED" in os.environ:
    from gevent import monkey

    monkey.patch_all()

app = Flask(__name__)
ticked = []


def tick() -> None:
    ticked.append(os.getpid())


def over() -> None:
    pass


set_interval(tick, 20)
set_timeout(tick, 3_600_000)
clear_interval(set_interval(over, 20))


@app.get("/")
def stream() -> ServerResponse:
    sse_stream = SseStream(request)
    set_interval(lambda: sse_stream.write({"data": os.getpid() in ticked}), 20)
    return sse_stream.pipe(ServerResponse())
