"""What the tests of the doctor look at: the app of the server tests, the probe, and a channel."""

import itertools

from flask import request

from ssestream import Channels, ServerResponse, SseStream, set_interval
from ssestream.doctor import probe
from tests.servers.apps.app import app

__all__ = ["app"]

channels = Channels()
numbers = itertools.count()
publishing: list[object] = []

app.add_url_rule("/probe", view_func=probe)


@app.get("/kept")
def kept() -> ServerResponse:
    """A channel. The first client starts the timer that publishes to it."""
    if not publishing:
        publishing.append(
            set_interval(lambda: channels.publish("kept", {"data": next(numbers)}), 100)
        )
    sse_stream = SseStream(request)
    channels.subscribe(sse_stream, "kept")
    return sse_stream.pipe(ServerResponse())
