"""The cost of a channel.

Run it as ``python -m benchmarks.parts.channels [URL ...]``. Without a URL, the brokers are memory,
a new SQLite file, and a new Redis if there is a ``redis-server``.

channels
    The memory and CPU time of a process with 10,000 channels and an idle subscriber for each.
fan-out
    One message to 1,000 streams of a channel, compared with a loop of ``push`` over the same
    streams with a frame that was made before. The two take turns.
publish
    Messages a second of one publisher in one process.
latency
    The time from ``publish`` until a client has the message over HTTP, from a ``gevent``
    worker of gunicorn, with one client and with 1,000. With 1,000, the ages at all clients
    count. The publisher is this process; for memory it is the worker.
worker
    Such a worker with 1,000 clients: the CPU time of a channel compared with the loop of
    ``push``, in turns, with the sending. Also the connecting, and the memory.

Messages contain the time of their publishing. All processes of a machine read the same
clock. The clients are greenlets of another process.
"""

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402 - after the patches
import contextlib  # noqa: E402 - after the patches
import gc  # noqa: E402 - after the patches
import os  # noqa: E402 - after the patches
import re  # noqa: E402 - after the patches
import shutil  # noqa: E402 - after the patches
import socket  # noqa: E402 - after the patches
import statistics  # noqa: E402 - after the patches
import subprocess  # noqa: E402 - after the patches
import sys  # noqa: E402 - after the patches
import tempfile  # noqa: E402 - after the patches
import time  # noqa: E402 - after the patches
from collections.abc import Callable, Iterator  # noqa: E402 - after the patches

import gevent  # noqa: E402 - after the patches
import gevent.pool  # noqa: E402 - after the patches
import psutil  # noqa: E402 - after the patches
from flask import Flask, request  # noqa: E402 - after the patches

from ssestream import Channels, ServerResponse, SseStream  # noqa: E402 - after the patches
from ssestream.http.outgoing import OutgoingMessage, body_of  # noqa: E402 - after the patches
from ssestream.wire import encode  # noqa: E402 - after the patches

from ..beside import search_path  # noqa: E402 - after the patches
from . import kit  # noqa: E402 - after the patches
from .kit import Figure, ask, connect, cpu_of  # noqa: E402 - after the patches

MODULE = "benchmarks.parts.channels"
STREAMS, ROUNDS, MESSAGES = 1000, 15, 10
MANY = 10_000
DATA = {"data": "x" * 100}
FRAME = b"id: news=0123abcd.123456\ndata: " + b"x" * 100 + b"\n\n"
STAMP = re.compile(rb"data: ([\d.]+) ")
LAST = b"event: last\n"

# The code that runs in the worker.

app = Flask(__name__)
channels = Channels(os.environ.get("BENCHMARK_URL", "memory://"))
streams: set[SseStream] = set()


@app.get("/news")
def news() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    channels.subscribe(sse_stream, "news")
    streams.add(sse_stream)
    res.on("close", lambda: streams.discard(sse_stream))
    return res


@app.post("/<way>/<int:count>/<float:pause>")
def send(way: str, count: int, pause: float) -> str:
    for number in range(count):
        message = stamped(last=number == count - 1)
        if way == "channel":
            channels.publish("news", message)
        else:
            frame = encode({**message, "id": f"news=0123abcd.{number}"})
            for sse_stream in streams:
                sse_stream.push(frame)
        if pause:
            time.sleep(pause)
    return "sent"


@app.get("/subscribers")
def subscribers() -> str:
    return f"{channels.channel('news').subscribers} here"


def stamped(last: bool) -> dict[str, str]:
    """A message of about 150 bytes."""
    stamp = f"{time.monotonic():.7f} ".ljust(100, "x")
    return {"event": "last" if last else "tick", "data": stamp}


# The code that runs in the measuring process.


class Sink:
    """A stream and its destination, which is emptied by hand."""

    #: This object is also its reader's waker, and ignores the ringing.
    loop = None

    def __init__(self) -> None:
        self.stream = SseStream()
        self.response = self.stream.pipe(OutgoingMessage())
        self._buffer = body_of(self.response).buffer
        self.empty()

    def wake(self) -> None:
        pass

    def empty(self) -> None:
        while self._buffer.take_nowait(self):  # type: ignore[arg-type]
            self._buffer.mark_sent()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        gevent.sleep(0)


def many() -> Iterator[Figure]:
    me = psutil.Process()
    sinks_before = me.memory_info().rss
    sinks = [Sink() for _ in range(MANY)]
    before = me.memory_info().rss
    followed = Channels()
    for number, sink in enumerate(sinks):
        followed.subscribe(sink.stream, f"channel-{number}")
    gevent.sleep(0.5)
    after = me.memory_info().rss
    cpu = time.process_time()
    gevent.sleep(3)
    cpu = (time.process_time() - cpu) / 3
    times = []
    for _ in range(20):
        length = sinks[7].response.writable_length
        started = time.perf_counter()
        followed.publish("channel-7", DATA)
        wait_for(lambda length=length: sinks[7].response.writable_length > length)  # type: ignore[misc]
        times.append((time.perf_counter() - started) * 1000)
    what = f"{MANY:,} channels"
    yield Figure(f"{what}, each", (after - before) / 1024 / MANY, "KiB")
    yield Figure(f"{what}, the stream of each", (before - sinks_before) / 1024 / MANY, "KiB")
    yield Figure(f"{what}, idle", cpu * 100, "% of a core")
    yield Figure(f"{what}, a message in one", statistics.median(times), "ms")


def fan_out() -> Iterator[Figure]:
    followed = Channels(history=100_000)
    sinks = [Sink() for _ in range(STREAMS)]
    for sink in sinks:
        followed.subscribe(sink.stream, "news")
    gc.collect()
    gc.freeze()

    def bare() -> None:
        for _ in range(MESSAGES):
            for sink in sinks:
                sink.stream.push(FRAME)
            gevent.sleep(0)

    def through_channel() -> None:
        # Wait for the last stream only. To ask all streams would cost as much as the sending.
        last = sinks[-1].response
        # An event is at most six digits of its id shorter than the frame.
        goal = last.writable_length + MESSAGES * (len(FRAME) - 6)
        for _ in range(MESSAGES):
            followed.publish("news", DATA)
            gevent.sleep(0)
        while last.writable_length < goal:
            gevent.sleep(0.001)

    def timed(function: Callable[[], None]) -> float:
        # Measure CPU time, as a listener waits for the loop now and then.
        started = time.process_time()
        function()
        taken = time.process_time() - started
        for sink in sinks:
            sink.empty()
        return taken / MESSAGES / STREAMS * 1e6

    rounds = [(timed(bare), timed(through_channel), timed(bare)) for _ in range(ROUNDS)]
    ratio = statistics.median(channel / ((one + two) / 2) for one, channel, two in rounds)
    push = statistics.median(one for one, _, _ in rounds)
    channel = statistics.median(channel for _, channel, _ in rounds)
    yield Figure(f"fan-out to {STREAMS}, push", push, "us a stream")
    yield Figure(f"fan-out to {STREAMS}, channel", channel, "us a stream")
    yield Figure(f"fan-out to {STREAMS}, channel", ratio, "of push")
    gc.unfreeze()


def publish(url: str) -> Iterator[Figure]:
    publisher = Channels(url)
    count = 5000
    publisher.publish("rate", DATA)
    started = time.perf_counter()
    for _ in range(count):
        publisher.publish("rate", DATA)
    rate = count / (time.perf_counter() - started)
    yield Figure(f"{kind_of(url)}, one publisher", rate, "messages a second")


def kind_of(url: str) -> str:
    return url.partition(":")[0]


class Crowd:
    """Clients in another process. They read until they have the last message."""

    def __init__(self, port: int, clients: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE, "--crowd", str(port), str(clients)],
            env={**os.environ, "PYTHONPATH": search_path()},
            stdout=subprocess.PIPE,
            text=True,
        )
        #: The seconds that it took to connect.
        self.took = self.said()[0]

    def said(self) -> list[float]:
        assert self.process.stdout is not None
        return [float(word) for word in self.process.stdout.readline().split()]

    def leave(self) -> None:
        self.process.terminate()
        self.process.wait()


def crowd(port: int, clients: int) -> None:
    """Print how long connecting took. Then, each time that all clients have the last message,
    print the time, and the 50th and 99th percentile of the messages' ages.
    """
    ages: list[float] = []

    def read_to_last(sock: socket.socket) -> None:
        rest, last = b"", False
        while not last:
            data = sock.recv(1 << 16)
            now = time.monotonic()
            assert data, "the server hung up"
            *frames, rest = (rest + data).split(b"\n\n")
            for frame in frames:
                if stamp := STAMP.search(frame):
                    ages.append(now - float(stamp[1]))
                    last = LAST in frame

    started = time.monotonic()
    socks = gevent.pool.Pool(50).map(lambda _: connect(port, "/news"), range(clients))
    print(time.monotonic() - started, flush=True)
    while True:
        gevent.joinall([gevent.spawn(read_to_last, sock) for sock in socks], raise_error=True)
        now = time.monotonic()
        ages.sort()
        print(now, ages[len(ages) // 2], ages[len(ages) * 99 // 100], flush=True)
        ages.clear()


def latency(url: str, clients: int, count: int, pause: float) -> Iterator[Figure]:
    with kit.worker(f"{MODULE}:app", BENCHMARK_URL=url) as (port, _):
        readers = Crowd(port, clients)
        if kind_of(url) == "memory":
            ask(port, "POST", f"/channel/{count}/{pause}")
        else:
            publisher = Channels(url)
            for number in range(count):
                publisher.publish("news", stamped(last=number == count - 1))
                time.sleep(pause)
        _, half, most = readers.said()
        what = f"{kind_of(url)}, latency with {clients:,}"
        yield Figure(f"{what}, p50", half * 1000, "ms")
        yield Figure(f"{what}, p99", most * 1000, "ms")
        readers.leave()


def deliveries() -> Iterator[Figure]:
    with kit.worker(f"{MODULE}:app") as (port, process):
        readers = Crowd(port, STREAMS)
        for pace, count, pause in ("one at a time", 60, 0.06), ("all at once", 200, 0.0):
            # The first round of each is a warm-up.
            spent: dict[str, list[float]] = {"loop": [], "channel": []}
            for way in ["loop", "channel"] * 4:
                before, started = cpu_of(process), time.monotonic()
                ask(port, "POST", f"/{way}/{count}/{pause}")
                seconds = readers.said()[0] - started
                spent[way].append(cpu_of(process) - before)
            loop, channel = (statistics.median(each[1:]) for each in spent.values())
            what = f"worker, {count} messages {pace}"
            yield Figure(what, count * STREAMS / channel, "deliveries a CPU second")
            yield Figure(what, channel / loop, "of the loop's CPU time")
            yield Figure(what, seconds, "seconds")
        readers.leave()


def connections() -> Iterator[Figure]:
    with kit.worker(f"{MODULE}:app") as (port, process):
        # Wait until the worker has started.
        ask(port, "GET", "/subscribers")
        crowds, before = [Crowd(port, 500)], cpu_of(process)
        rss = process.memory_info().rss
        crowds.append(Crowd(port, 1500))
        assert b"2000 here" in ask(port, "GET", "/subscribers")
        kib = (process.memory_info().rss - rss) / 1024 / 1500
        what = "worker, 1500 clients connect"
        yield Figure(what, 1500 / crowds[1].took, "a second")
        yield Figure(what, 1500 / (cpu_of(process) - before), "a CPU second")
        yield Figure(what, kib, "KiB each")
        for each in crowds:
            each.leave()


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """Start a Redis that stores nothing on the disk, and return its URL, or None."""
    executable = shutil.which("redis-server")
    if executable is None:
        print("redis: left out, there is no redis-server here", file=sys.stderr)
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [executable, "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    yield from many()
    yield from fan_out()
    yield from deliveries()
    yield from connections()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        urls: list[str | None] = [*options.urls]
        if not urls:
            redis_url = stack.enter_context(redis_server())
            urls = ["memory://", f"sqlite:///{folder}/events.db", redis_url]
        for url in filter(None, urls):
            yield from publish(url)
            yield from latency(url, clients=1, count=300, pause=0.01)
            yield from latency(url, clients=1000, count=80, pause=0.1)


def main() -> None:
    parser = kit.parser(MODULE, __doc__)
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--crowd", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        crowd(*options.crowd)
    else:
        kit.main(MODULE, options, measure)


if __name__ == "__main__":
    main()
