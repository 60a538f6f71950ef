"""Several processes publish to one broker: ``python -m benchmarks.parts.publishers URL``.

publish
    Messages a second of all processes together, over many channels, as fast as they can.
latency
    The time from ``publish`` until a client has the message over HTTP, while the processes publish
    at a fixed rate in all. The worker is gunicorn's ``gevent``. Its clients follow 10 channels
    each.

Messages have the time of their publishing. All processes of a machine read the same clock. For
``postgresql://`` the tables must be there (``python -m ssestream migrate URL``).
"""

import argparse
import os
import random
import re
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from flask import Flask, request
from gevent import monkey

from ssestream import Channels, ServerResponse, SseStream

from . import kit
from .kit import Figure

MODULE = "benchmarks.parts.publishers"

STAMP = re.compile(rb"data: ([\d.]+) ")

#: The channels that one client follows.
TOGETHER = 10

#: The characters of a message besides its time.
SIZE = 150

# The code that runs in the worker.

app = Flask(__name__)
channels = Channels(os.environ.get("BENCHMARK_URL", "memory://"))


@app.get("/some")
def some() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    channels.subscribe(sse_stream, *names(int(request.args["first"]), TOGETHER))
    return res


def names(first: int, count: int) -> list[str]:
    return [f"channel/{number}" for number in range(first, first + count)]


# The code of one publisher: a process of its own.


def publish(url: str, count: int, seconds: float, rate: float, writers: int) -> None:
    """Let so many *writers* publish for so many *seconds*.

    They publish *rate* messages a second together, or as fast as it goes with 0.
    """
    mine = Channels(url)
    them = names(0, count)
    rest = "x" * SIZE
    for name in them:
        mine.publish(name, {"data": "0 "})
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began = time.monotonic()

    def write() -> int:
        done = 0
        while time.monotonic() < began + seconds:
            if rate:
                time.sleep(max(0.0, began + done * writers / rate - time.monotonic()))
            mine.publish(random.choice(them), {"data": f"{time.monotonic()} {rest}"})
            done += 1
        return done

    with ThreadPoolExecutor(writers) as threads:
        done = sum(each.result() for each in [threads.submit(write) for _ in range(writers)])
    sys.stdout.write(f"{done} {time.monotonic() - began}\n")
    mine.close()


class Publishers:
    """So many processes, which begin together."""

    def __init__(self, options: argparse.Namespace, rate: float) -> None:
        words = [options.url, str(options.channels), str(options.seconds)]
        words += [str(rate / options.processes), str(options.writers), options.waits]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", MODULE, "--publisher", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(options.processes)
        ]
        for each in self._processes:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"

    def begin(self) -> None:
        for each in self._processes:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()

    def rate(self) -> float:
        """The messages in a second of all, when all have ended."""
        total = 0.0
        for each in self._processes:
            count, seconds = each.communicate()[0].split()
            total += float(count) / float(seconds)
        return total


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    publishers = Publishers(options, 0)
    publishers.begin()
    yield Figure("published", publishers.rate(), "a second")
    with kit.worker(f"{MODULE}:app", BENCHMARK_URL=options.url) as (port, _):
        # An id has room for some channels only.
        paths = [f"/some?first={first}" for first in range(0, options.channels, TOGETHER)]
        clients = [kit.connect(port, path) for path in paths]
        publishers = Publishers(options, options.rate)
        publishers.begin()
        ages = list(ages_at(clients, options.seconds - 0.5))
        yield Figure("published at the fixed rate", publishers.rate(), "a second")
        for client in clients:
            client.close()
    yield Figure("latency, median", statistics.median(ages), "ms")
    yield Figure("latency, 99 %", statistics.quantiles(ages, n=100)[98], "ms")
    yield Figure("latency, most", max(ages), "ms")


def ages_at(clients: list[socket.socket], seconds: float) -> Iterator[float]:
    """The milliseconds between the publishing of each message and its arrival at *clients*."""
    deadline = time.monotonic() + seconds
    rest = dict.fromkeys(clients, b"")
    while (left := deadline - time.monotonic()) > 0:
        for client in select.select(clients, [], [], left)[0]:
            data = client.recv(1 << 20)
            now = time.monotonic()
            whole, _, rest[client] = (rest[client] + data).rpartition(b"\n\n")
            yield from ((now - float(each)) * 1000 for each in STAMP.findall(whole) if float(each))


def main() -> None:
    if sys.argv[1:2] == ["--publisher"]:
        url, count, seconds, rate, writers, kind = sys.argv[2:]
        if kind == "greenlets":
            monkey.patch_all()
        publish(url, int(count), float(seconds), float(rate), int(writers))
        return
    parser = kit.parser(MODULE, __doc__)
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--writers", type=int, default=1, help="of each process, at once")
    parser.add_argument("--waits", choices=("greenlets", "threads"), default="greenlets")
    parser.add_argument("--channels", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=500.0, help="in all, for the latency")
    kit.main(MODULE, parser.parse_args(), measure)


if __name__ == "__main__":
    main()
