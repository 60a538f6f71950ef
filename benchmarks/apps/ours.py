"""This project: a channel that all clients follow, with everything at its default."""

import checked  # noqa: F401 - it checks
from control import TEXT, listen
from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream

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
