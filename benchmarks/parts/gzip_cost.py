"""The savings of gzip for a stream, and its cost in CPU time and memory.

Run it as ``python -m benchmarks.parts.gzip_cost [--clients 100] [--messages 500]``.

First, typical events go through zlib with several parameters, in three ways. Each event is
flushed by itself through one compressor, which stays in the processor's cache. The same goes
through `MANY` compressors in turns, as in a broadcast. And bursts of `BURST` events are
flushed together. Then a ``gevent`` worker of gunicorn broadcasts to clients with ``compress``
and without, in turns, so that other work on the machine slows both.
"""

import argparse
import itertools
import pydoc_data.topics
import random
import re
import time
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
import gevent.socket
import psutil
from flask import Flask, request

from ssestream import ServerResponse, SseStream
from ssestream.http.compression import LEVEL, MEMORY_LEVEL, WINDOW_BITS
from ssestream.wire import encode

from . import kit
from .kit import Figure, cpu_of

MODULE = "benchmarks.parts.gzip_cost"

COUNT = 2000
BURST = 20
MANY = 100
ROUNDS = 5

#: zlib's default window and memory level.
ZLIB = (15, 8)
OURS = (LEVEL, WINDOW_BITS, MEMORY_LEVEL)
PARAMETERS = [
    *((level, WINDOW_BITS, MEMORY_LEVEL) for level in (1, 6, 9)),
    *((level, *ZLIB) for level in (1, 6, 9)),
    (LEVEL, 9, 1),
    (LEVEL, 11, 4),
    (LEVEL, 13, 6),
]


# -- the events


def clock_ticks() -> Iterable[dict[str, Any]]:
    for n in range(COUNT):
        at = f"{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}"
        yield {"event": "message", "id": n, "retry": 20000, "data": at}


def small_json() -> Iterable[dict[str, Any]]:
    chance = random.Random(1)
    for n in range(COUNT):
        price = chance.randrange(1000, 90000) / 100
        data = {
            "symbol": chance.choice(["ACME", "GLOBEX", "INITECH", "HOOLI", "UMBRELLA"]),
            "bid": price,
            "ask": round(price + 0.05, 2),
            "volume": chance.randrange(10**6),
            "at": f"2026-05-04T09:{n // 60 % 60:02}:{n % 60:02}.{chance.randrange(1000):03}Z",
        }
        yield {"event": "quote", "id": n, "data": data}


def chat() -> Iterable[dict[str, Any]]:
    """English sentences, from the manual that comes with Python."""
    text = " ".join(" ".join(pydoc_data.topics.topics.values()).split())
    sentences = re.findall(r"[A-Z][^.]{20,160}\.", text)
    chance = random.Random(2)
    for n, sentence in enumerate(chance.sample(sentences, COUNT)):
        yield {"id": n, "data": {"from": f"user{chance.randrange(30)}", "text": sentence}}


def larger_json() -> Iterable[dict[str, Any]]:
    chance = random.Random(3)
    for n in range(COUNT):
        items = [
            {
                "id": f"{chance.getrandbits(64):016x}",
                "name": chance.choice(["tea", "coffee", "sugar", "milk", "bread", "butter"]),
                "quantity": chance.randrange(100),
                "price": chance.randrange(10000) / 100,
                "tags": chance.sample(["new", "sale", "organic", "fair", "local"], 2),
                "available": chance.random() < 0.8,
            }
            for _ in range(8)
        ]
        yield {"event": "order", "id": n, "data": {"order": n, "items": items}}


EVENTS = {
    "clock ticks": clock_ticks,
    "small JSON": small_json,
    "chat": chat,
    "larger JSON": larger_json,
}


# -- zlib alone


def compressor(level: int, window_bits: int, memory_level: int) -> Any:
    return zlib.compressobj(level, zlib.DEFLATED, 16 + window_bits, memory_level)


def through(
    parameters: tuple[int, int, int], chunks: list[bytes], compressors: int = 1
) -> tuple[float, float]:
    """The compressed share of the bytes, and the least CPU seconds for a chunk of all rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        made = [compressor(*parameters) for _ in range(compressors)]
        length = 0
        began = time.process_time()
        for chunk in chunks:
            for gzip in made:
                length += len(gzip.compress(chunk) + gzip.flush(zlib.Z_SYNC_FLUSH))
        best = min(best, time.process_time() - began)
    return length / compressors / sum(map(len, chunks)), best / compressors / len(chunks)


def state_of(parameters: tuple[int, int, int], chunks: list[bytes], count: int = 100) -> float:
    """The memory of one compressor between two events, in KiB."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    made = []
    for _ in range(count):
        gzip = compressor(*parameters)
        for chunk in chunks[:20]:
            gzip.compress(chunk)
            gzip.flush(zlib.Z_SYNC_FLUSH)
        made.append(gzip)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / count / 1024


def each_event() -> Iterator[Figure]:
    """Level, window and memory level name the parameters; `OURS` is what ssestream takes."""
    for name, events in EVENTS.items():
        frames = [encode(event) for event in events()]
        bursts = [b"".join(frames[n : n + BURST]) for n in range(0, COUNT, BURST)]
        yield Figure(name, sum(map(len, frames)) / COUNT, "bytes an event")
        for parameters in PARAMETERS:
            single, seconds = through(parameters, frames)
            _, in_turns = through(parameters, frames[:100], MANY)
            burst, burst_seconds = through(parameters, bursts)
            what = f"{name} {parameters}"
            yield Figure(what, state_of(parameters, frames), "KiB")
            yield Figure(what, single, "of a byte")
            yield Figure(what, seconds * 1e6, "us")
            yield Figure(what, in_turns * 1e6, "us in turns")
            yield Figure(what, burst, "of a byte, in bursts")
            yield Figure(what, burst_seconds / BURST * 1e6, "us in bursts")


# -- a broadcast

app = Flask(__name__)
# No client may be cut when it gets everything at once.
app.config.update(SSESTREAM_MAX_MESSAGES=COUNT, SSESTREAM_MAX_BYTES=2**30)
streams: set[SseStream] = set()


@app.get("/<kind>")
def stream(kind: str) -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request, compress=kind == "gzip")
    sse_stream.pipe(res)
    streams.add(sse_stream)
    res.on("close", lambda: streams.discard(sse_stream))
    return res


@app.post("/publish/<name>/<int:messages>/<pace>")
def publish(name: str, messages: int, pace: str) -> dict[str, int]:
    for event in itertools.islice(EVENTS[name](), messages):
        frame = encode(event)
        for sse_stream in streams:
            sse_stream.push(frame)
        if pace == "paced":
            gevent.sleep(0)
    clients = len(streams)
    for sse_stream in list(streams):
        sse_stream.end()
    return {"clients": clients}


def connect(port: int, kind: str) -> Any:
    sock = gevent.socket.create_connection(("127.0.0.1", port))
    sock.sendall(
        f"GET /{kind} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(4096)
    assert (b"Content-Encoding: gzip" in received) == (kind == "gzip")
    return sock


def read_all(sock: Any) -> int:
    received = 0
    while data := sock.recv(1 << 18):
        received += len(data)
    sock.close()
    return received


def broadcast(
    port: int, worker: psutil.Process, kind: str, name: str, pace: str, clients: int, messages: int
) -> tuple[float, int]:
    """Measure the worker's CPU seconds, and the bytes on the wire."""
    readers = [gevent.spawn(read_all, connect(port, kind)) for _ in range(clients)]
    before = cpu_of(worker)
    with gevent.socket.create_connection(("127.0.0.1", port)) as publisher:
        path = f"/publish/{name.replace(' ', '%20')}/{messages}/{pace}"
        publisher.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while data := publisher.recv(4096):
            answer += data
    assert f'"clients":{clients}'.encode() in answer, answer
    gevent.joinall(readers, raise_error=True)
    after = cpu_of(worker)
    return after - before, sum(reader.value for reader in readers)


def broadcasts(clients: int, messages: int) -> Iterator[Figure]:
    with kit.worker(f"{MODULE}:app") as (port, worker):
        for pace in ("paced", "burst"):
            for name in EVENTS:
                best = {"plain": (float("inf"), 0), "gzip": (float("inf"), 0)}
                for _ in range(3):
                    for kind in best:
                        found = broadcast(port, worker, kind, name, pace, clients, messages)
                        best[kind] = min(best[kind], found)
                (plain, plain_bytes), (gzip, gzip_bytes) = best["plain"], best["gzip"]
                what = f"{messages} {name}, {pace}, to {clients} clients"
                yield Figure(f"{what}, plain", plain, "CPU seconds")
                yield Figure(f"{what}, gzip", gzip, "CPU seconds")
                yield Figure(f"{what}, gzip", gzip / plain if plain else 0, "of plain's CPU time")
                yield Figure(f"{what}, gzip", gzip_bytes / plain_bytes, "of plain's bytes")


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    if not options.worker_only:
        yield from each_event()
    yield from broadcasts(options.clients, options.messages)


def main() -> None:
    parser = kit.parser(MODULE, __doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--worker-only", action="store_true", help="leave out zlib alone")
    kit.main(MODULE, parser.parse_args(), measure)


if __name__ == "__main__":
    main()
