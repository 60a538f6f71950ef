"""An app whose views fork jobs, and whose streams say which process writes them."""

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from typing import Any

import gevent
from flask import Flask, Response, request

from ssestream import (
    Channels,
    ServerResponse,
    SseStream,
    clear_interval,
    pipeline,
    set_interval,
    statistics,
)
from tests.servers.apps import tell

app = Flask(__name__)
app.config["SSESTREAM_HEARTBEAT"] = 0.1
channels = Channels(os.environ.get("BROKER", "memory://"))
streams: dict[str, SseStream] = {}
processes: dict[int, Any] = {}

_ticks = itertools.count()
#: A timer of the module, as a server has that tells all its clients the time.
ticker = set_interval(lambda: channels.publish("ticks", {"data": next(_ticks)}), 20)


def open_stream() -> tuple[SseStream, ServerResponse]:
    key = request.args["key"]
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    streams[key] = sse_stream
    res.on("close", lambda: tell(event="close", key=key, pid=os.getpid()))
    return sse_stream, res


@app.get("/quiet")
def quiet() -> Response:
    return open_stream()[1]


@app.get("/timer")
def timer() -> Response:
    sse_stream, res = open_stream()
    numbers = itertools.count()
    pusher = set_interval(lambda: sse_stream.write({"data": next(numbers)}), 20)
    res.on("close", lambda: clear_interval(pusher))
    return res


@app.get("/pipeline")
def piped() -> Response:
    def numbers() -> Iterator[dict[str, int]]:
        for number in itertools.count():
            yield {"data": number}
            gevent.sleep(0.02)

    return pipeline(numbers(), SseStream(request), ServerResponse())


@app.get("/channel")
def channel() -> Response:
    sse_stream, res = open_stream()
    channels.subscribe(sse_stream, "ticks")
    return res


@app.get("/flood")
def flood() -> Response:
    """More than any socket buffers."""
    messages = int(request.args["messages"])
    return pipeline(
        ({"data": f"{number} " + "x" * 60_000} for number in range(messages)),
        SseStream(request, send_timeout=None),
        ServerResponse(),
    )


@app.get("/pid")
def pid() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.get("/end")
def end() -> dict[str, str]:
    streams[request.args["key"]].end({"data": "last"})
    return {}


def wait(seconds: float) -> None:
    tell(event="job", pid=os.getpid())
    time.sleep(seconds)
    tell(event="job over", pid=os.getpid(), open=statistics().open)


def write(key: str) -> None:
    wrote = [streams[key].write({"data": "from a job"}) for _ in range(3)]
    tell(event="wrote", key=key, wrote=wrote, destroyed=streams[key].destroyed)


def work(key: str) -> None:
    """Never gives way."""
    tell(event="job", pid=os.getpid())
    while True:
        pass


@app.get("/job")
def job() -> dict[str, int]:
    what: Any = {"wait": wait, "write": write, "work": work}[request.args.get("what", "wait")]
    arg: Any = request.args.get("seconds", type=float, default=request.args.get("key"))
    context: Any = multiprocessing.get_context(request.args.get("method", "fork"))
    process = context.Process(target=what, args=(arg,), daemon=True)
    process.start()
    processes[process.pid] = process
    return {"pid": process.pid}


@app.get("/forked")
def forked() -> dict[str, int]:
    """As `os.fork` itself does it."""
    pid = os.fork()
    if not pid:
        wait(float(request.args["seconds"]))
        os._exit(0)
    return {"pid": pid}


@app.get("/terminate")
def terminate() -> dict[str, int | None]:
    process = processes[int(request.args["pid"])]
    process.terminate()
    process.join(5)
    return {"code": process.exitcode}


@app.get("/terminate-at-once")
def terminate_at_once() -> dict[str, list[int | None]]:
    """Before the job has come to anything."""
    codes = []
    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=wait, args=(60.0,))
        process.start()
        process.terminate()
        process.join(5)
        codes.append(process.exitcode)
        if process.exitcode is None:
            process.kill()
            break
    return {"codes": codes}
