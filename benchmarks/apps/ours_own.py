"""This project: streams with a producer or a channel of their own."""

import itertools
import os
import time

import checked  # noqa: F401 - it checks
from control import TEXT, listen
from flask import Flask, request
from own import Message, Users, message, messages

from benchmarks.fan import Fan
from ssestream import (
    Channels,
    ServerResponse,
    SseStream,
    clear_interval,
    pipeline,
    set_interval,
)

app = Flask(__name__)
channels = Channels(os.environ.get("BENCHMARK_URL", "memory://"))
users = Users(lambda name, data: channels.publish(name, {"data": data}))
fan = Fan()
app.add_url_rule("/write", view_func=fan.view)


def asked(name: str) -> int:
    return request.args.get(name, 0, int)


@app.get("/timers")
def timers() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    interval = asked("interval")
    numbers, began = itertools.count(1), time.monotonic()

    def tick() -> None:
        number = next(numbers)
        sse_stream.write({"data": message(number, began + number * interval / 1000)})

    timer = set_interval(tick, interval)
    res.on("close", lambda: clear_interval(timer))
    return res


@app.get("/sources")
def sources() -> ServerResponse:
    made = messages(asked("interval") / 1000, asked("count"))
    return pipeline(({"data": data} for data in made), SseStream(request), ServerResponse())


@app.get("/full")
def full() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    numbers = iter(range(1, asked("count") + 1))

    def go() -> None:
        for number in numbers:
            if not sse_stream.write({"data": {"n": number, "text": TEXT}}):
                sse_stream.once("drain", go)
                return
        sse_stream.end()

    go()
    return res


@app.get("/users/<name>")
def user(name: str) -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    channels.subscribe(sse_stream, f"user.{name}")
    users.came(f"user.{name}")
    return res


def publish(number: int) -> None:
    if not fan.streams:
        users.publish(number)
    data: Message = {"n": number, "text": TEXT}
    for sse_stream in fan.streams:
        sse_stream.write({"data": data})


listen(publish)
