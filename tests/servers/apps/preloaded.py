"""An app with timers that its module sets, for gunicorn with --preload and without."""

import itertools
import os
from collections.abc import Iterator

import gevent
from flask import Flask, request

from ssestream import (
    Channels,
    ServerResponse,
    SseStream,
    clear_interval,
    pipeline,
    set_interval,
    set_timeout,
)

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


class Sink:
    def write(self, chunk: bytes) -> bool:
        return True


def source() -> Iterator[dict[str, int]]:
    for number in itertools.count():
        yield {"data": number}
        gevent.sleep(0.02)


pipeline(source(), SseStream(), Sink())
channels = Channels(os.environ.get("BROKER", "memory://"))
followed = SseStream()
channels.publish("news", {"data": "from the module"})
if "FOLLOWS" in os.environ:
    channels.subscribe(followed, "news")
    channels.channel("room").on_empty(lambda name: None)
    channels.channel("undone").on_empty(print)
    channels.channel("undone").off_empty(print)


@app.get("/news")
def news() -> ServerResponse:
    sse_stream = SseStream(request)
    res = sse_stream.pipe(ServerResponse())
    channels.subscribe(sse_stream, "news", latest=1)
    return res


@app.get("/")
def stream() -> ServerResponse:
    sse_stream = SseStream(request)
    set_interval(lambda: sse_stream.write({"data": os.getpid() in ticked}), 20)
    return sse_stream.pipe(ServerResponse())
