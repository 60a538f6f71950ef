"""An app with a page for operators."""

import os

from flask import Flask, Request, request

from ssestream import Channels, ServerResponse, SseStream, operators
from ssestream.top import OpenStreams

app = Flask(__name__)
channels = Channels(os.environ["EVENTS"])
streams = OpenStreams(app, channels, folder=os.environ["NUMBERS"])


def admit(request: Request) -> bool:
    return request.cookies.get("operator") == "yes"


app.register_blueprint(operators.blueprint(streams, admit=admit), url_prefix="/operators")


@app.get("/follow/<channel>")
@app.get("/follow/<channel>/<path:rest>")
def follow(channel: str, rest: str = "") -> ServerResponse:
    sse_stream = SseStream(request)
    channels.subscribe(sse_stream, channel, key=request.args.get("key"))
    return sse_stream.pipe(ServerResponse())


@app.get("/favicon.ico")
def icon() -> tuple[str, int]:
    return "", 204
