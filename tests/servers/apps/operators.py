"""An app with a page for operators."""

import os

from flask import Flask, Request, Response, request

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


@app.get("/log-in")
def log_in() -> Response:
    res = Response("<!doctype html><link rel=icon href='data:,'>")
    res.set_cookie("operator", "yes")
    return res
