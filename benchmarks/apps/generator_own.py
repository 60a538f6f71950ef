"""The views that a developer writes by hand, with a producer or a channel for each stream."""

import json
import os
from collections.abc import Iterable, Iterator

import by_hand
from control import TEXT, listen
from flask import Flask, Response, request
from own import Message, Users, messages

app = Flask(__name__)
app.add_url_rule("/write", view_func=by_hand.view)
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
    if not by_hand.queues:
        users.publish(number)
    by_hand.write({"n": number, "text": TEXT})


listen(publish)
