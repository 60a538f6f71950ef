"""Jobs that produce a channel: in a worker of RQ or Celery, in a web server, or as a script."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import gevent
from flask import Flask, request

from ssestream import ChannelEnded, Channels, ServerResponse, SseStream, pipeline

#: Seconds of the lease of a job, and of a job that has to outlive a machine that stands still.
TTL, LONG_TTL = 3.0, 60.0

#: Steps of a job that has no end.
ENDLESS = 10**9

BROKER = os.environ.get("BROKER", "memory://")

channels = Channels(BROKER)
app = Flask(__name__)


def produced(name: str, steps: int = ENDLESS, fails: bool = False) -> Iterator[dict[str, Any]]:
    """Publish this process first, and then the number of each step, which is yielded, too.

    A job with an end has the long lease, and one without an end is there to be lost.
    """
    ttl = TTL if steps == ENDLESS else LONG_TTL
    try:
        with channels.channel(name).producer(ttl=ttl) as channel:
            channel.publish({"event": "pid", "data": os.getpid()})
            for step in range(steps):
                time.sleep(0.05)
                channel.publish({"data": step})
                yield {"data": step}
            if fails:
                raise LookupError("out of paper")
    except ChannelEnded:
        channels.publish(f"{name}/told", {"data": "ended"})
        raise


def produce(name: str, steps: int = ENDLESS, fails: bool = False) -> None:
    """The same as a plain function."""
    for _ in produced(name, steps, fails):
        pass


def asked(name: str) -> tuple[str, int, bool]:
    """The arguments that the request has for `produce`."""
    return name, int(request.args.get("steps", ENDLESS)), request.args.get("fails") == "1"


@app.get("/start/<where>/<name>")
def start(where: str, name: str) -> dict[str, Any]:
    if where == "thread":
        threading.Thread(target=produce, args=asked(name), daemon=True).start()
    else:
        gevent.spawn(produce, *asked(name))
    return {"pid": os.getpid()}


@app.get("/request/<name>")
def in_request(name: str) -> dict[str, Any]:
    produce(*asked(name))
    return {"pid": os.getpid()}


@app.route("/pipeline/<name>", methods=["GET", "POST"])
def in_pipeline(name: str) -> ServerResponse:
    options: Any = {"on_shutdown": "finish"} if "finish" in request.args else {}
    return pipeline(produced(*asked(name)), SseStream(request, **options), ServerResponse())


if __name__ == "__main__":
    produce(sys.argv[1], *map(int, sys.argv[2:]))
