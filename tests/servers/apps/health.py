"""An app with health checks, and a stream."""

import os

from flask import Flask, Response, request

from ssestream import Channels, ServerResponse, SseStream, drain, health

app = Flask(__name__)
channels = Channels(os.environ["EVENTS"])

app.add_url_rule("/live", view_func=health.alive)
app.add_url_rule("/ready", view_func=health.ready)
app.add_url_rule("/broker", endpoint="broker", view_func=lambda: health.ready(channels))


@app.get("/follow")
def follow() -> Response:
    sse_stream = SseStream(request)
    channels.subscribe(sse_stream, "news")
    return sse_stream.pipe(ServerResponse())


@app.get("/drain")
def begin_to_drain() -> tuple[str, int]:
    drain()
    return "", 204
