"""What `SseWorker` runs for its tests: a look at how a stream is sent, and much to send."""

import gc
import logging
import os
import random
import resource
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gevent
from flask import Response, request
from gevent import monkey
from werkzeug.wsgi import ClosingIterator

from ssestream import (
    Channels,
    ServerResponse,
    SseStream,
    clear_interval,
    handler,
    set_interval,
)
from ssestream.gunicorn.cohort import GroupedSender
from ssestream.gunicorn.sender import Sender
from ssestream.wire import encode
from tests.servers.apps import tell
from tests.servers.apps.app import app, open_stream, streams
from tests.servers.apps.wrong import Passing

__all__ = ["app", "capturing", "closing", "deferring", "passing", "wrapped"]

if "LOG_LEVEL" in os.environ:
    logging.getLogger().setLevel(os.environ["LOG_LEVEL"])

#: Its broadcasts are handed straight to the sockets.
channels = Channels(history=100_000)

#: Who writes in `torture`, and how often.
WRITERS = ("view", "timer", "greenlet", "pusher", "thread", "channel", "channel-thread")
COUNT = 150


@app.get("/hello")
def hello() -> str:
    return "hello"


@app.get("/kept")
def kept() -> dict[str, int]:
    """How many streams have the socket to themselves, and what the server keeps for requests.

    One request is this one.
    """
    gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    return {
        "senders": kinds[Sender] + kinds[GroupedSender],
        "requests": sum(
            count
            for kind, count in kinds.items()
            if kind.__module__ == "gunicorn.http.message" and kind.__name__ == "Request"
        ),
    }


def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The app in a middleware that hands its chunks on, changed."""
    body = app(environ, start_response)
    try:
        for chunk in body:
            yield chunk.replace(b"tick", b"TICK")
    finally:
        body.close()


def capturing(environ: dict[str, Any], start_response: Any) -> Any:
    """The app in a middleware that captures what it answers, as WebOb's do (PEP 3333)."""
    captured: list[Any] = []
    written: list[bytes] = []

    def own_start_response(status: str, headers: list[Any], exc_info: Any = None) -> Any:
        captured[:] = [status, headers]
        return written.append

    body = app(environ, own_start_response)
    if written or not captured:
        body = [*written, *body]
    start_response(captured[0], [*captured[1], ("X-Captured", "1")])
    return body


def deferring(environ: dict[str, Any], start_response: Any) -> Any:
    """The app in a middleware that calls start_response() with the first chunk."""
    asked: list[Any] = []
    written: list[bytes] = []

    def own_start_response(*args: Any) -> Any:
        asked[:] = args
        return written.append

    def chunks() -> Iterable[bytes]:
        for chunk in body:
            if asked:
                start_response(*asked)
                asked.clear()
            yield chunk

    body = app(environ, own_start_response)
    return chunks()


def passing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The app in a middleware of a kind that nobody knows."""
    return Passing(app(environ, start_response))


def closing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The app in one that is told of the end, twice, and fails in between if it is to."""

    def first() -> None:
        tell(event="first", path=environ["PATH_INFO"])
        if "fails" in environ["QUERY_STRING"]:
            raise LookupError("on purpose")

    def last() -> None:
        tell(event="last", path=environ["PATH_INFO"])

    return ClosingIterator(ClosingIterator(app(environ, start_response), first), last)


def __getattr__(name: str) -> Any:
    if name != "sentry":
        raise AttributeError(name)
    import sentry_sdk
    from sentry_sdk.integrations.flask import FlaskIntegration

    def before_send(event: Any, hint: Any) -> None:
        (error,) = event["exception"]["values"]
        tell(event="captured", error=error["value"], of=event["transaction"])

    # It wraps Flask.__call__, as it does wherever Flask is installed. Its other integrations import
    # much, and that takes seconds.
    sentry_sdk.init(
        "http://key@127.0.0.1:1/1",
        before_send=before_send,
        traces_sample_rate=0.0,
        auto_enabling_integrations=False,
        integrations=[FlaskIntegration()],
    )
    return app


@app.get("/fails")
def fails() -> str:
    raise LookupError("on purpose")


@app.get("/measured")
def measured() -> Response:
    """A response that says how long it is."""
    res = ServerResponse(200, {"Content-Type": "text/plain", "Content-Length": 10})
    res.write("so and so.")
    res.end()
    return res


@app.get("/waits")
def waits() -> str:
    """An ordinary request that takes its time."""
    tell(event="in view", key=request.args["key"])
    _wait_for_file(request.args["key"])
    return "done"


@app.get("/computes")
def computes() -> str:
    """It writes to a stream before it keeps the loop busy, until there is a file, and after it."""
    key = request.args["key"]
    streams[key].write({"data": "before"})
    _compute(key)
    streams[key].write({"data": "after"})
    return "done"


@app.get("/computes-and-waits")
@handler
def computes_and_waits(req: Any, res: ServerResponse) -> None:
    """A function with a stream of its own does the same, and waits for its own end."""
    key = req.query["key"]
    stream = SseStream(req)
    stream.pipe(res)
    try:
        stream.write({"data": "before"})
        # The client has left during the computation, and the loop could not notice.
        _compute(key)
        stream.write({"data": "after"})
        tell(event="after", key=key)
        while True:
            gevent.sleep(60)
    finally:
        tell(event="over", key=key)


def _compute(key: str) -> None:
    """Keep the loop busy until there is a file."""
    release, until = Path(os.environ["RELEASE_DIR"]) / key, time.monotonic() + 60
    while not release.exists() and time.monotonic() < until:
        pass


@app.get("/slow-close")
def slow_close() -> Response:
    """Its ``close`` handler waits for a file."""
    key = request.args["key"]
    _, res = open_stream(key)

    @res.on("close")
    def closed() -> None:
        tell(event="closing", key=key)
        _wait_for_file(key)
        tell(event="closed slowly", key=key)

    return res


def _wait_for_file(key: str) -> None:
    release = Path(os.environ["RELEASE_DIR"]) / key
    while not release.exists():
        time.sleep(0.005)


@app.get("/fails-in-the-loop")
def fails_in_the_loop() -> Response:
    """What is taken from its body raises, at the third chunk."""
    sse_stream, res = open_stream(request.args["key"])
    body: Any = res.response

    class Broken:
        chunks = 0

        def chunk(self, data: bytes) -> bytes:
            self.chunks += 1
            if self.chunks == 3:
                raise LookupError("on purpose")
            return data

    body._gzip = Broken()
    timer = set_interval(sse_stream.write, 5, {"data": "x"})
    res.on("close", lambda: clear_interval(timer))
    return res


@app.get("/long")
def long() -> Response:
    """A frame of *size* bytes, and the end."""
    sse_stream, res = open_stream(request.args["key"])
    sse_stream.end({"data": "x" * int(request.args["size"])})
    return res


@app.post("/descriptors")
def spare_none() -> str:
    """No descriptor more from now on; or as before, if *again* is given."""
    limit, hard = 1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if "again" not in request.args:
        limit = os.dup(1)  # the lowest that is free
        os.close(limit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return "done"


# -- much at once


def text(writer: str, number: int) -> str:
    """The data of one message, which cannot be taken for another."""
    head = f"{writer} {number}"
    dice = zlib.crc32(head.encode())
    if writer == "greenlet" and number == COUNT // 2:
        size = 600_000  # more than any socket takes at once
    else:
        size = 30_000 if dice % 25 == 0 else dice % 600
    return head + "\n" + f"{dice} " * (size // 9)


@app.get("/torture")
def torture() -> Response:
    key = request.args["key"]
    sse_stream, res = open_stream(key)
    for number in range(COUNT):
        sse_stream.write({"data": text("view", number)})
    channels.subscribe(sse_stream, "news")
    return res


@app.post("/torture")
def begin_torture() -> str:
    """Everybody writes to all streams, at moments that *seed* decides."""
    seed = request.args["seed"]
    targets = list(streams.values())

    def to_all(writer: str, number: int, pushing: bool) -> None:
        message = {"data": text(writer, number)}
        for sse_stream in targets:
            if pushing:
                sse_stream.push(encode(message))
            else:
                sse_stream.write(message)

    def publish(writer: str, number: int) -> None:
        channels.publish("news", {"data": text(writer, number)})

    def run(writer: str, act: Callable[[int], None], pause: Callable[[float], object]) -> None:
        dice = random.Random(f"{seed}:{writer}")
        number = 0
        while number < COUNT:
            for _ in range(dice.randint(1, 12)):
                if number < COUNT:
                    act(number)
                    number += 1
            pause(dice.choice((0, 0, 0.001, 0.01)))
        tell(event="wrote", writer=writer)

    really_sleep = monkey.get_original("time", "sleep")
    start = monkey.get_original("_thread", "start_new_thread")

    def in_greenlet(writer: str, act: Callable[[int], None]) -> None:
        gevent.spawn(run, writer, act, gevent.sleep)

    def in_thread(writer: str, act: Callable[[int], None]) -> None:
        start(run, (writer, act, really_sleep))

    in_greenlet("greenlet", lambda number: to_all("greenlet", number, False))
    in_greenlet("pusher", lambda number: to_all("pusher", number, True))
    in_greenlet("channel", lambda number: publish("channel", number))
    in_thread("thread", lambda number: to_all("thread", number, False))
    in_thread("channel-thread", lambda number: publish("channel-thread", number))
    numbers = iter(range(COUNT))

    def tick() -> None:
        for _ in range(3):
            number = next(numbers, None)
            if number is None:
                clear_interval(timer)
                tell(event="wrote", writer="timer")
                return
            to_all("timer", number, False)

    timer = set_interval(tick, 2)
    return "begun"


@app.post("/end")
def end() -> str:
    """End all streams."""
    for sse_stream in list(streams.values()):
        sse_stream.end()
    return "ended"
