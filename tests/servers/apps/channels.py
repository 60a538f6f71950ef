"""Channels behind real servers, configured by ``CHANNELS_CONFIG`` (JSON).

With ``CHANNELS_LOOK`` a worker looks all the time at what its streams hold, and tells
how many are behind. It prints the stacks of its threads on SIGUSR2.
"""

import faulthandler
import json
import os
import signal

from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream, set_interval, set_timeout
from ssestream.http.registry import registry
from ssestream.timers import Timer
from tests.servers.apps import tell

app = Flask(__name__)
app.config.update(json.loads(os.environ.get("CHANNELS_CONFIG", "{}")))
for key, value in list(app.config.items()):
    if key.startswith("SSESTREAM_RETRY") and isinstance(value, list):
        app.config[key] = tuple(value)

channels = Channels(app)

#: Milliseconds between two looks at what waits in the streams.
LOOK_MS = 20

#: The most bytes that waited in any one stream, and streams that were behind.
most = {"waiting": 0, "lagging": 0}

lookers: list[Timer] = []

if "CHANNELS_LOOK" in os.environ:
    faulthandler.register(signal.SIGUSR2)


@app.get("/news")
def news() -> ServerResponse:
    # Not on import, before the worker has a loop of its own.
    if not lookers and "CHANNELS_LOOK" in os.environ:
        lookers.append(set_interval(see, LOOK_MS))
    client = request.args.get("client", "?")
    res = ServerResponse()
    res.header("X-Worker", str(os.getpid()))
    sse_stream = SseStream(request)
    sse_stream.pipe(res)

    @sse_stream.on("gap")
    def gap(name: str) -> None:
        tell(event="gap", client=client, name=name, pid=os.getpid())
        sse_stream.write({"event": "gap", "data": name})

    only = request.args.get("only")
    channels.subscribe(
        sse_stream,
        *request.args["channels"].split(","),
        since=request.args.get("since"),
        latest=request.args.get("latest", 0, type=int),
        filter=None if only is None else lambda message: only in str(message["data"]),
    )
    more = request.args.get("more")
    if more is not None:
        set_timeout(lambda: channels.subscribe(sse_stream, more), 50)
    return res


@app.post("/publish/<name>")
def publish(name: str) -> str:
    """The data of so many messages, from *first* on, are their numbers and *size* characters."""
    first, count, size = (int(request.args[key]) for key in ("first", "count", "size"))
    for number in range(first, first + count):
        channels.publish(name, {"data": f"{number} ".ljust(size, ".")})
    return "published"


def see() -> None:
    waiting = [stream.waiting() for stream in registry.streams()]
    lagging = sum(each.lagging for each in channels.statistics().values())
    most["waiting"] = max([most["waiting"], *waiting])
    if lagging > most["lagging"]:
        most["lagging"] = lagging
        tell(event="lagging", streams=lagging, pid=os.getpid())


@app.get("/state")
def state() -> dict[str, object]:
    see()
    found = channels.statistics().values()
    return {
        "pid": os.getpid(),
        "most": most,
        "open": len(registry.streams()),
        "lagging": sum(each.lagging for each in found),
        "gaps": sum(each.gaps for each in found),
        "replayed": sum(each.replayed for each in found),
        "subscribers": sum(each.subscribers for each in found),
    }
