"""The views that a developer writes by hand, with a producer or a channel for each stream."""

import json
import os
from collections.abc import Iterable, Iterator

from control import TEXT, listen
from flask import Flask, Response, request
from gevent.queue import Queue
from own import Message, Users, messages

app = Flask(__name__)
queues: set[Queue] = set()
if "BENCHMARK_URL" in os.environ:
    import redis

    # Each client takes a connection. redis-py stops at 100 if nothing else is said.
    server = redis.Redis.from_url(os.environ["BENCHMARK_URL"], max_connections=20_000)
users = Users(lambda name, data: server.publish(name, json.dumps(data)))


def asked(name: str) -> int:
    return request.args.get(name, 0, int)


def events(found: Iterable[Message]) -> Response:
    def stream() -> Iterator[str]:
        yield ":ok\n\n"
        for msg in found:
            yield f"data: {json.dumps(msg)}\n\n"

    return Response(stream(), mimetype="text/event-stream")


@app.get("/timers")
@app.get("/sources")
def sources() -> Response:
    return events(messages(asked("interval") / 1000, asked("count")))


@app.get("/full")
def full() -> Response:
    return events({"n": number, "text": TEXT} for number in range(1, asked("count") + 1))


@app.get("/write")
def write() -> Response:
    queue = Queue()
    queues.add(queue)

    def stream() -> Iterator[str]:
        try:
            yield ":ok\n\n"
            while True:
                msg = queue.get()
                yield f"data: {json.dumps(msg)}\n\n"
        finally:
            queues.discard(queue)

    return Response(stream(), mimetype="text/event-stream")


@app.get("/users/<name>")
def user(name: str) -> Response:
    # Before the header is sent: whoever has the stream's first byte misses nothing.
    pubsub = server.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(f"user.{name}")
    pubsub.get_message(timeout=5)
    users.came(f"user.{name}")

    def stream() -> Iterator[str]:
        try:
            yield ":ok\n\n"
            for msg in pubsub.listen():
                yield f"data: {msg['data'].decode()}\n\n"
        finally:
            pubsub.close()

    return Response(stream(), mimetype="text/event-stream")


def publish(number: int) -> None:
    if not queues:
        users.publish(number)
    msg = {"n": number, "text": TEXT}
    for queue in queues:
        queue.put(msg)


listen(publish)
