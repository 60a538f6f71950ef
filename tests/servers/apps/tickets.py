"""Streams for those who have a ticket, and what an app does with tickets."""

import os
from typing import Any

from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream, Tickets

app = Flask(__name__)
app.config["SSESTREAM_RETRY_AFTER"] = [10, 50]
# Errors of views go on to the server, which writes them to its log.
app.config["PROPAGATE_EXCEPTIONS"] = True
channels = Channels(os.environ["BROKER"])
tickets = Tickets("the key of the app", channels)


@app.get("/ticket")
def issue() -> dict[str, Any]:
    once = "once" in request.args
    expires = float(request.args.get("expires", 60))
    return {"ticket": tickets.issue(["news"], key=request.args["key"], once=once, expires=expires)}


@app.get("/events")
def events() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    tickets.admit(request, sse_stream)
    res.header("X-Pid", str(os.getpid()))
    return sse_stream.pipe(res)


@app.get("/revoke")
def revoke() -> dict[str, Any]:
    tickets.revoke(request.args["key"], "news")
    return {}


@app.get("/cut")
def cut() -> dict[str, Any]:
    channels.cut("news", request.args["key"])
    return {}


@app.get("/publish")
def publish() -> dict[str, Any]:
    return {"id": channels.publish("news", {"data": request.args["data"]})}
