"""This project: a channel that all clients follow, with everything at its default."""

import os
from pathlib import Path

from control import TEXT, listen
from flask import Flask, request

import ssestream
from ssestream import Channels, ServerResponse, SseStream

# With --beside, this is to be the package of another checkout.
package = str(Path(ssestream.__file__).parent.resolve())
if package != os.environ.get("BENCHMARK_PACKAGE", package):
    raise RuntimeError(f"{package} was imported")

app = Flask(__name__)
channels = Channels()


@app.get("/news")
def news() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    channels.subscribe(sse_stream, "news")
    return res


@app.get("/hello")
def hello() -> str:
    return "hello"


def publish(number: int) -> None:
    channels.publish("news", {"data": {"n": number, "text": TEXT}})


listen(publish)
