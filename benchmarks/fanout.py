"""Broadcast to many clients: ssestream against a bare queue and generator.

Run it as ``python benchmarks/fanout.py [--clients 200] [--messages 500]``.

Both are views of one app in one worker of gunicorn's gevent kind, and are
measured in turns, so that what slows the machine slows both. The clients are
greenlets of this process and only read. Each message is serialised once and
handed to every client's queue, in both.

paced
    The publisher gives way after each message, and each is delivered by itself.
burst
    All messages are written before anything can be sent.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.queue
import gevent.socket
import psutil
from flask import Flask, Response, request

from ssestream import ServerResponse, SseStream
from ssestream.wire import encode

ROUNDS = 3
LAST = b"event: last\n"

app = Flask(__name__)
streams: set[SseStream] = set()
queues: set[Any] = set()


@app.get("/ssestream")
def with_ssestream() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    streams.add(sse_stream)
    res.on("close", lambda: streams.discard(sse_stream))
    return res


@app.get("/queue")
def with_queue() -> Response:
    queue: Any = gevent.queue.Queue()

    def frames() -> Iterator[bytes]:
        queues.add(queue)
        try:
            yield b":ok\n\n"
            while True:
                yield queue.get()
        finally:
            queues.discard(queue)

    return Response(frames(), mimetype="text/event-stream")


@app.post("/publish/<kind>/<int:messages>/<pace>")
def publish(kind: str, messages: int, pace: str) -> dict[str, int]:
    for number in range(messages):
        event = "last" if number == messages - 1 else "tick"
        data = {"number": number, "text": "x" * 80}
        if kind == "ssestream":
            frame = encode({"event": event, "id": number, "data": data})
            for sse_stream in streams:
                sse_stream.push(frame)
        else:
            frame = f"event: {event}\nid: {number}\ndata: {json.dumps(data)}\n\n".encode()
            for queue in queues:
                queue.put(frame)
        if pace == "paced":
            gevent.sleep(0)
    return {"clients": len(streams) + len(queues)}


def connect(port: int, kind: str) -> Any:
    sock = gevent.socket.create_connection(("127.0.0.1", port))
    sock.sendall(f"GET /{kind} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    received = b""
    while b":ok\n\n" not in received:
        received += sock.recv(4096)
    return sock


def read_all(sock: Any) -> None:
    tail = b""
    while LAST not in tail:
        data = sock.recv(1 << 18)
        assert data, "the server hung up"
        tail = tail[-len(LAST) :] + data


def measure(
    port: int, worker: psutil.Process, kind: str, pace: str, clients: int, messages: int
) -> tuple[float, float]:
    """Seconds until the last client has the last message, and the worker's CPU seconds."""
    socks = [connect(port, kind) for _ in range(clients)]
    readers = [gevent.spawn(read_all, sock) for sock in socks]
    before, began = worker.cpu_times(), time.perf_counter()
    with gevent.socket.create_connection(("127.0.0.1", port)) as publisher:
        publisher.sendall(
            f"POST /publish/{kind}/{messages}/{pace} HTTP/1.1\r\n"
            "Host: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while data := publisher.recv(4096):
            answer += data
        assert f'"clients":{clients}'.encode() in answer, answer
        gevent.joinall(readers, raise_error=True)
    seconds, after = time.perf_counter() - began, worker.cpu_times()
    for sock in socks:
        sock.close()
    # A bare generator notices at its second write that its client has left.
    while kind == "queue" and clients_of(port):
        gevent.sleep(0.05)
    return seconds, after.user + after.system - before.user - before.system


def clients_of(port: int) -> int:
    with gevent.socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            b"POST /publish/queue/1/paced HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answer = b""
        while data := sock.recv(4096):
            answer += data
    found = re.search(rb'"clients":(\d+)', answer)
    assert found, answer
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--messages", type=int, default=500)
    options = parser.parse_args()
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "fanout:app"]
    server = subprocess.Popen(
        [*command, "--worker-connections", "5000", "--graceful-timeout", "1"],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        port = pid = 0
        for line in server.stderr:
            if listening := re.search(r"Listening at: http://[\d.]+:(\d+)", line):
                port = int(listening[1])
            if booting := re.search(r"Booting worker with pid: (\d+)", line):
                pid = int(booting[1])
                break
        worker = psutil.Process(pid)
        deliveries = options.clients * options.messages
        print(f"{options.messages} messages to {options.clients} clients, best of {ROUNDS}")
        print(f"{'':8}{'':12}{'seconds':>9}{'CPU s':>8}{'deliveries per CPU s':>22}")
        for pace in ("paced", "burst"):
            best = {}
            for _ in range(ROUNDS):
                for kind in ("queue", "ssestream"):
                    found = measure(port, worker, kind, pace, options.clients, options.messages)
                    best[kind] = min(best.get(kind, found), found, key=lambda pair: pair[1])
            for kind, (seconds, cpu) in best.items():
                print(f"{pace:8}{kind:12}{seconds:9.2f}{cpu:8.2f}{deliveries / cpu:22,.0f}")
            ratio = best["ssestream"][1] / best["queue"][1]
            print(f"{pace:8}ssestream takes {ratio:.2f} times the CPU time of the queue")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
