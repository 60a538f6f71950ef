"""Ordinary requests to a worker that has streams: ``python -m benchmarks.parts.neighbours``.

The requests go one after another over one connection, with a pause of a few milliseconds
before each, to the two workers in turns:

without streams
    The time of the request by itself; and, without the pauses, the requests in a second.
with idle streams
    The streams are open, and nothing is sent to them.
with broadcasts
    All streams get a message of 150 bytes several times a second.
"""

import argparse
import http.client
import os
import statistics
import threading
import time
from collections.abc import Iterator

from ..contenders import CONTENDERS, build
from ..servers import Load, Server, cores, running
from . import kit
from .kit import Figure

MODULE = "benchmarks.parts.neighbours"

PAUSE = 0.005


def requests(port: int, seconds: float, pause: float) -> list[float]:
    """The milliseconds of each request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    taken = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        began = time.perf_counter()
        connection.request("GET", "/hello")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read() == b"hello"
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(pause)
    connection.close()
    return taken


def times(
    server: Server, load: Load, streams: int, rate: int, seconds: float
) -> Iterator[tuple[str, list[float]]]:
    requests(server.port, 0.3, 0)
    yield "without streams", requests(server.port, seconds, PAUSE)
    at_once = requests(server.port, seconds, 0)
    yield "without pauses", at_once
    load.do("connect", streams, 64)
    yield "with idle streams", requests(server.port, seconds, PAUSE)
    answers: list[dict[str, float]] = []
    broadcasts = threading.Thread(
        target=lambda: answers.append(load.do("paced", int(rate * (seconds + 1)), rate))
    )
    broadcasts.start()
    time.sleep(0.5)
    yield "with broadcasts", requests(server.port, seconds, PAUSE)
    broadcasts.join()
    got = answers[0]["deliveries"]
    assert got == int(rate * (seconds + 1)) * streams, f"{got:,.0f} deliveries"


def figures(name: str, what: str, taken: list[float]) -> Iterator[Figure]:
    ordered = sorted(taken)
    for percent in (50, 99):
        yield Figure(f"{name}, {what}, p{percent}", kit.percentile(ordered, percent), "ms")
    yield Figure(f"{name}, {what}, longest", ordered[-1], "ms")
    yield Figure(f"{name}, {what}", 1000 / statistics.fmean(taken), "a second of waiting")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    build(npm=False)
    os.sched_setaffinity(0, {cores()[1]})
    for name in ("ours-gevent", "ours-worker"):
        with running(CONTENDERS[name], patience=30, spin=False) as (server, load):
            for what, taken in times(server, load, options.streams, options.rate, options.seconds):
                yield from figures(name, what, taken)


def main() -> None:
    parser = kit.parser(MODULE, __doc__)
    parser.add_argument("--streams", type=int, default=19_000)
    parser.add_argument("--rate", type=int, default=1, help="messages a second to all of them")
    parser.add_argument("--seconds", type=float, default=8)
    kit.main(MODULE, parser.parse_args(), measure)


if __name__ == "__main__":
    main()
