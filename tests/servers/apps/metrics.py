"""The app of the server tests, and its numbers."""

import os

from flask import Response, request

from ssestream import Channels, ServerResponse, SseStream
from ssestream.metrics import Metrics
from ssestream.metrics.prometheus_client import view
from tests.servers.apps.app import app

__all__ = ["app"]

channels = Channels(os.environ["EVENTS"])
metrics = Metrics(app, channels, folder=os.environ["NUMBERS"])


@app.get("/metrics")
def show() -> Response:
    return view(metrics)


@app.get("/follow")
def follow() -> Response:
    sse_stream = SseStream(request)
    channels.subscribe(sse_stream, "news")
    return sse_stream.pipe(ServerResponse())


@app.get("/publish")
def publish() -> str:
    return channels.publish("news", {"data": "hello"})
