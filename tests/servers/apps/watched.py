"""A room whose watchers are counted, in every worker."""

import os
from typing import Any

from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream

app = Flask(__name__)
channels = Channels(os.environ["BROKER"])


@app.get("/room")
def room() -> Any:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    channels.subscribe(sse_stream, "room", counted=True)
    return res
