"""What the server tests run: streams that tell what happens to them, and a look inside."""

import gc
import itertools
import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
import greenlet
from flask import Flask, Response, request
from gevent import monkey

from ssestream import (
    ServerResponse,
    SseStream,
    clear_interval,
    handler,
    pipeline,
    set_interval,
    set_timeout,
)
from ssestream.http import hangup
from ssestream.http.connection import Connection
from ssestream.runtime.wheel import TimerWheel
from ssestream.timers import Timer
from tests.kit.insides import entered_in, is_armed
from tests.servers.apps import tell

app = Flask(__name__)
app.config.update(json.loads(os.environ.get("SETTINGS", "{}")))

ticks: Counter[str] = Counter()
streams: dict[str, SseStream] = {}
_pulse: list[Any] = []


def open_stream(key: str, tick_ms: float = 20) -> tuple[SseStream, ServerResponse]:
    """A stream that tells what happens to it, with a timer that writes nothing."""
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    streams[key] = sse_stream

    def tick() -> None:
        ticks[key] += 1

    ticker = set_interval(tick, tick_ms)

    @res.on("close")
    def closed() -> None:
        clear_interval(ticker)
        sse_stream.unpipe(res)
        streams.pop(key, None)
        tell(event="close", key=key, ticks=ticks[key])

    res.on("unpipe", lambda source: tell(event="unpipe", key=key))
    res.on("finish", lambda: tell(event="finish", key=key))
    sse_stream.on("close", lambda: tell(event="stream close", key=key))
    tell(event="open", key=key, last_event_id=sse_stream.last_event_id)
    return sse_stream, res


@app.get("/quiet")
def quiet() -> Response:
    return open_stream(request.args["key"])[1]


@app.get("/handled/<how>")
@handler
def handled(req: Any, res: ServerResponse, how: str) -> None:
    """A function that writes once, by a stream or by hand, and waits for its own end."""
    key = req.query["key"]
    try:
        if how == "stream":
            SseStream(req).pipe(res)
        else:
            res.write_head(200, {"Content-Type": "text/event-stream"})
            res.write(":ok\n\n")
        while True:
            gevent.sleep(60)
    finally:
        tell(event="close", key=key)


@app.get("/ticking")
def ticking() -> Response:
    """A message every *ms* milliseconds; ends after *count* of them, if given."""
    sse_stream, res = open_stream(request.args["key"])
    count = int(request.args.get("count", 0))
    ids = itertools.count(1)

    def write() -> None:
        number = next(ids)
        sse_stream.write({"id": number, "data": "tick"})
        if number == count:
            clear_interval(timer)
            sse_stream.end()

    timer = set_interval(write, float(request.args.get("ms", 50)))
    res.on("close", lambda: clear_interval(timer))
    return res


@app.get("/late")
def late() -> Response:
    """A view that has not returned when the client leaves: it waits for a file."""
    key = request.args["key"]
    tell(event="in view", key=key)
    release = Path(os.environ["RELEASE_DIR"]) / key
    while not release.exists():
        time.sleep(0.005)
    return open_stream(key)[1]


@app.get("/firehose")
def firehose() -> Response:
    """Never ends and never pauses but for its client."""
    return pipeline(
        ({"data": "x" * 1000} for _ in itertools.count()), SseStream(request), ServerResponse()
    )


@app.get("/flood")
def flood() -> Response:
    """More than any socket buffers, for a client that may not read."""
    sse_stream, res = open_stream(request.args["key"])

    def fill() -> None:
        while sse_stream.write({"data": "x" * 60_000}):
            pass

    fill()
    sse_stream.on("drain", fill)
    return res


@app.get("/iterated")
def iterated() -> Response:
    key = request.args["key"]
    sse_stream = SseStream(request)
    sse_stream.on("close", lambda: tell(event="close", key=key))
    sse_stream.write({"data": "first"})
    return Response(sse_stream, mimetype="text/event-stream")


@app.get("/ended")
def ended() -> Response:
    """Three messages that wait together, and the end."""
    sse_stream, res = open_stream(request.args["key"])
    for number in range(3):
        sse_stream.write({"id": number})
    sse_stream.end({"data": "last"})
    return res


@app.get("/empty")
def empty() -> Response:
    """A head that is flushed, and no body for now."""
    res = ServerResponse()
    res.header("Content-Type", "text/event-stream")
    res.flush_headers()
    set_timeout(res.end, float(request.args.get("ms", 60_000)))
    return res


@app.get("/raises")
def raises() -> Response:
    open_stream(request.args["key"])
    raise RuntimeError("the view's own")


@app.get("/destroyed")
def destroyed() -> Response:
    sse_stream, res = open_stream(request.args["key"])
    set_timeout(sse_stream.destroy, 50, ValueError("on purpose"))
    return res


@app.post("/storm")
def storm() -> str:
    """A plain thread and a hub of another thread write to one stream, *count* each."""
    sse_stream = streams[request.args["key"]]
    count = int(request.args["count"])

    def write_all(writer: str) -> None:
        for number in range(count):
            sse_stream.write({"event": writer, "data": number})

    def second_hub() -> None:
        gevent.spawn(write_all, "hub").join()
        gevent.get_hub().destroy(destroy_loop=True)

    start = monkey.get_original("_thread", "start_new_thread")
    start(write_all, ("thread",))
    start(second_hub, ())
    return "started"


@app.post("/knock")
def knock() -> str:
    """A plain thread writes the time, once."""
    sse_stream = streams[request.args["key"]]
    start = monkey.get_original("_thread", "start_new_thread")
    start(lambda: sse_stream.write({"event": "knock", "data": repr(time.monotonic())}), ())
    return "started"


@app.get("/ticks")
def ticks_of() -> dict[str, int]:
    """How often each stream's timer has fired, and one that never stops (``pulse``)."""
    if not _pulse:

        def pulse() -> None:
            ticks["pulse"] += 1

        _pulse.append(set_interval(pulse, 20))
    return dict(ticks)


@app.get("/inside")
def inside() -> dict[str, int]:
    """What is alive in the serving process."""
    for _ in range(3):
        gc.collect()
    # By type() and not isinstance(): among them are proxies, which would look
    # for their own context.
    kinds = Counter(type(each) for each in gc.get_objects())
    statm = Path("/proc/self/statm").read_text().split()
    tasks = {int(each) for each in os.listdir("/proc/self/task")}
    timers = [each for each in gc.get_objects() if type(each) is Timer]
    return {
        "SseStream": kinds[SseStream],
        "ServerResponse": kinds[ServerResponse],
        "Connection": kinds[Connection],
        "timers": sum(1 for timer in timers if is_armed(timer)),
        "greenlets": sum(
            1
            for each in gc.get_objects()
            if issubclass(type(each), greenlet.greenlet) and each and not each.dead
        ),
        "watched": sum(len(w._connections) for w in list(hangup._watches.values())),
        "looked_after": sum(
            1
            for wheel in [each for each in gc.get_objects() if type(each) is TimerWheel]
            for timer in entered_in(wheel)
            if timer.check is not None
        ),
        "descriptors": len(os.listdir("/proc/self/fd")),
        # Before Python 3.12, the list keeps a thread that is over, if it was no Thread and has
        # written a line of the log. Nothing tells so of one that gevent has entered: it has no id.
        "threads": sum(
            getattr(each, "native_id", None) in {None, *tasks} for each in threading.enumerate()
        ),
        "resident": int(statm[1]) * os.sysconf("SC_PAGE_SIZE"),
    }
