"""The delay of a broadcast to reading clients, beside clients that never read.

Run it as ``python benchmarks/stalled.py [--clients 300] [--messages 1000]``.

A worker of gunicorn, first ``gevent`` and then ``gthread``, writes messages of 1 KB to all
its streams. Each message contains the time when it was written. The reading clients are in
this process, and note the age of each message when it arrives. There are rounds with and
without the same number of clients that never read, in turns, so that other work on the
machine slows both. The settings are the defaults.

At first the kernel still takes the messages for the clients that never read, and these cost
as much as other clients. Then they have stalled, and after a while they are cut.
"""

import argparse
import re
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from flask import Flask, request

import ssestream
from ssestream import ServerResponse, SseStream
from ssestream.wire import encode

ROUNDS = 5
SIZE = 1024
#: The place of the time in a frame, after ``data: ``.
STAMP = slice(6, 26)
#: Seconds between two messages. A worker can send at this pace: the latencies of a growing
#: queue would mean nothing.
PAUSES = {"gevent": 0.05, "gthread": 0.06}

app = Flask(__name__)
streams: set[SseStream] = set()


@app.get("/stream")
def stream() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    streams.add(sse_stream)
    res.on("close", lambda: streams.discard(sse_stream))
    return res


@app.post("/publish/<int:messages>/<float:pause>")
def publish(messages: int, pause: float) -> str:
    def write() -> None:
        due = time.monotonic()
        for _ in range(messages):
            stamp = f"{time.monotonic():020.9f}"
            frame = encode({"data": stamp.ljust(SIZE - len("data: \n\n"))})
            for sse_stream in list(streams):
                sse_stream.push(frame)
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))

    threading.Thread(target=write).start()
    return "started"


@app.get("/open")
def how_many() -> str:
    return f"{ssestream.statistics().open} open"


def ask(port: int, method: str, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return answer


def connect(port: int, kind: str) -> socket.socket:
    sock = socket.socket()
    if kind == "stalled":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    # HTTP/1.0, so that the body comes without chunks.
    sock.sendall(b"GET /stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
    received = b""
    while b":ok\n\n" not in received:
        received += sock.recv(4096 if kind == "good" else 1)
    return sock


def wait_for(port: int, count: int) -> None:
    while f"\r\n{count} open".encode() not in ask(port, "GET", "/open"):
        time.sleep(0.01)


def round_of(port: int, kind: str, clients: int, stalled: int, messages: int) -> list[float]:
    """The age of each message at each reading client, sorted."""
    never_read = [connect(port, "stalled") for _ in range(stalled)]
    readers = [connect(port, "good") for _ in range(clients)]
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


def measure(kind: str, clients: int, messages: int) -> None:
    command = [sys.executable, "-m", "gunicorn", "-k", kind, "-b", "127.0.0.1:0", "stalled:app"]
    server = subprocess.Popen(
        [*command, "--worker-connections", "5000", "--graceful-timeout", "1"]
        + ["--threads", str(2 * clients + 20)],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        port = 0
        for line in server.stderr:
            if listening := re.search(r"Listening at: http://[\d.]+:(\d+)", line):
                port = int(listening[1])
            if "Booting worker" in line:
                break
        rounds = []
        for _ in range(ROUNDS):
            alone = round_of(port, kind, clients, 0, messages)
            rounds.append((alone, round_of(port, kind, clients, clients, messages)))
        report(kind, rounds)
    finally:
        server.terminate()
        server.wait()


def report(kind: str, rounds: list[tuple[list[float], list[float]]]) -> None:
    def median_ms(which: int, percent: int) -> float:
        return 1000 * statistics.median(percentile(each[which], percent) for each in rounds)

    # Compare consecutive rounds only, as the other load of the machine changes.
    ratios = sorted(percentile(beside, 99) / percentile(alone, 99) for alone, beside in rounds)
    print(
        f"{kind:9}"
        + "".join(f"{median_ms(which, percent):9.1f}" for which in (0, 1) for percent in (50, 99))
        + f"{statistics.median(ratios):9.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def percentile(ordered: list[float], percent: int) -> float:
    return ordered[len(ordered) * percent // 100]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--messages", type=int, default=1000)
    options = parser.parse_args()
    print(
        f"{options.messages} messages to {options.clients} clients that read;"
        f" medians of {ROUNDS} rounds"
    )
    print(f"{'milliseconds':18}{'alone':>18}{'beside stalled ones':>20}")
    print(f"{'':18}{'p50':>9}{'p99':>9}{'p50':>9}{'p99':>9}{'of p99s':>9}")
    for kind in PAUSES:
        measure(kind, options.clients, options.messages)


if __name__ == "__main__":
    main()
