"""An app that shows its open streams to operators."""

import os

from flask import Flask, Response, abort, request

from ssestream import Channels, ServerResponse, SseStream
from ssestream.top import OpenStreams

app = Flask(__name__)
channels = Channels(os.environ["EVENTS"])
streams = OpenStreams(app, channels, folder=os.environ["NUMBERS"])


@app.get("/streams")
def show() -> Response:
    if request.headers.get("Authorization") != "Bearer operator":
        abort(403)
    return streams.view()


@app.get("/follow/<name>")
def follow(name: str) -> Response:
    sse_stream = SseStream(request)
    channels.subscribe(sse_stream, name)
    return sse_stream.pipe(ServerResponse())
