"""The delay of a broadcast to reading clients, beside clients that never read.

Run it as ``python -m benchmarks.parts.stalled [--clients 300] [--messages 1000]``.

A worker of gunicorn, first ``gevent`` and then ``gthread``, writes messages of 1 KB to all
its streams. Each message contains the time when it was written. The reading clients are in
this process, and note the age of each message when it arrives. There are rounds with and
without the same number of clients that never read, in turns, so that other work on the
machine slows both. The settings are the defaults.

At first the kernel still takes the messages for the clients that never read, and these cost
as much as other clients. Then they have stalled, and after a while they are cut.
"""

import argparse
import selectors
import statistics
import threading
import time
from collections.abc import Iterator

from flask import Flask

import ssestream
from ssestream.wire import encode

from ..fan import Fan
from . import kit
from .kit import Figure, ask, connect, percentile

MODULE = "benchmarks.parts.stalled"
ROUNDS = 5
SIZE = 1024
#: The place of the time in a frame, after ``data: ``.
STAMP = slice(6, 26)
#: Seconds between two messages. A worker can send at this pace: the latencies of a growing
#: queue would mean nothing.
PAUSES = {"gevent": 0.05, "gthread": 0.06}

app = Flask(__name__)
fan = Fan()
app.add_url_rule("/stream", view_func=fan.view)


@app.post("/publish/<int:messages>/<float:pause>")
def publish(messages: int, pause: float) -> str:
    def write() -> None:
        due = time.monotonic()
        for _ in range(messages):
            stamp = f"{time.monotonic():020.9f}"
            frame = encode({"data": stamp.ljust(SIZE - len("data: \n\n"))})
            for sse_stream in list(fan.streams):
                sse_stream.push(frame)
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))

    threading.Thread(target=write).start()
    return "started"


@app.get("/open")
def how_many() -> str:
    return f"{ssestream.statistics().open} open"


def wait_for(port: int, count: int) -> None:
    while f"\r\n{count} open".encode() not in ask(port, "GET", "/open"):
        time.sleep(0.01)


def round_of(port: int, kind: str, clients: int, stalled: int, messages: int) -> list[float]:
    """The age of each message at each reading client, sorted."""
    never_read = [connect(port, "/stream", small=True) for _ in range(stalled)]
    readers = [connect(port, "/stream") for _ in range(clients)]
    wait_for(port, clients + stalled)
    selector = selectors.DefaultSelector()
    for sock in readers:
        selector.register(sock, selectors.EVENT_READ, sock)
    rests = dict.fromkeys(readers, b"")
    ages: list[float] = []
    ask(port, "POST", f"/publish/{messages}/{PAUSES[kind]}")
    while len(ages) < clients * messages:
        for key, _ in selector.select():
            sock = key.data
            data = sock.recv(1 << 18)
            now = time.monotonic()
            assert data, "a client that reads was cut"
            data = rests[sock] + data
            whole = len(data) - len(data) % SIZE
            for at in range(0, whole, SIZE):
                ages.append(now - float(data[at : at + SIZE][STAMP]))
            rests[sock] = data[whole:]
    selector.close()
    for sock in readers + never_read:
        sock.close()
    wait_for(port, 0)
    return sorted(ages)


def rounds_of(kind: str, clients: int, messages: int) -> Iterator[Figure]:
    with kit.worker(f"{MODULE}:app", kind, "--threads", str(2 * clients + 20)) as (port, _):
        rounds = []
        for _ in range(ROUNDS):
            alone = round_of(port, kind, clients, 0, messages)
            rounds.append((alone, round_of(port, kind, clients, clients, messages)))
    for which, what in enumerate(("alone", "beside stalled clients")):
        for percent in (50, 99):
            ages = [percentile(each[which], percent) for each in rounds]
            yield Figure(f"{kind}, {what}, p{percent}", 1000 * statistics.median(ages), "ms")
    # Compare consecutive rounds only, as the other load of the machine changes.
    ratios = sorted(percentile(beside, 99) / percentile(alone, 99) for alone, beside in rounds)
    for name, ratio in (
        ("median", statistics.median(ratios)),
        ("least", ratios[0]),
        ("most", ratios[-1]),
    ):
        yield Figure(f"{kind}, beside to alone, {name}", ratio, "of p99")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    for kind in PAUSES:
        yield from rounds_of(kind, options.clients, options.messages)


def main() -> None:
    parser = kit.parser(MODULE, __doc__)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--messages", type=int, default=1000)
    kit.main(MODULE, parser.parse_args(), measure)


if __name__ == "__main__":
    main()
