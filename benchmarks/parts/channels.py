"""The cost of a channel.

Run it as ``python benchmarks/channels.py [URL ...]``. Without a URL, the brokers are memory,
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

import contextlib  # noqa: E402 - after the patches
import gc  # noqa: E402 - after the patches
import os  # noqa: E402 - after the patches
import re  # noqa: E402 - after the patches
import resource  # noqa: E402 - after the patches
import shutil  # noqa: E402 - after the patches
import socket  # noqa: E402 - after the patches
import statistics  # noqa: E402 - after the patches
import subprocess  # noqa: E402 - after the patches
import sys  # noqa: E402 - after the patches
import tempfile  # noqa: E402 - after the patches
import time  # noqa: E402 - after the patches
from collections.abc import Callable, Iterator  # noqa: E402 - after the patches
from pathlib import Path  # noqa: E402 - after the patches

import gevent  # noqa: E402 - after the patches
import gevent.pool  # noqa: E402 - after the patches
import psutil  # noqa: E402 - after the patches
from flask import Flask, request  # noqa: E402 - after the patches

from ssestream import Channels, ServerResponse, SseStream  # noqa: E402 - after the patches
from ssestream.http.outgoing import OutgoingMessage, body_of  # noqa: E402 - after the patches
from ssestream.wire import encode  # noqa: E402 - after the patches

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
        self._body = body_of(self.response)
        self.empty()

    def wake(self) -> None:
        pass

    def empty(self) -> None:
        while self._body.take_nowait(self):  # type: ignore[arg-type]
            self._body.left()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        gevent.sleep(0)


def many() -> None:
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
    print(
        f"{MANY:,} channels: {(after - before) / 1024 / MANY:.2f} KiB each beside"
        f" {(before - sinks_before) / 1024 / MANY:.2f} for its stream, {cpu:.1%} of a core idle;"
        f" a message in one takes {statistics.median(times):.2f} ms"
    )


def fan_out() -> None:
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
        last = list(followed._exchange.listener.tails.get("news").live)[-1]
        goal = last.total + MESSAGES
        for _ in range(MESSAGES):
            followed.publish("news", DATA)
            gevent.sleep(0)
        while last.total < goal:
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
    print(f"fan-out to {STREAMS}: push {push:.2f} us, channel {channel:.2f} us: {ratio:.2f} of it")
    gc.unfreeze()


def publish(url: str) -> None:
    publisher = Channels(url)
    count = 5000
    publisher.publish("rate", DATA)
    started = time.perf_counter()
    for _ in range(count):
        publisher.publish("rate", DATA)
    rate = count / (time.perf_counter() - started)
    print(f"{kind_of(url)}: {rate:,.0f} messages/s from one publisher")


def kind_of(url: str) -> str:
    return url.partition(":")[0]


@contextlib.contextmanager
def worker_of(url: str) -> Iterator[tuple[int, psutil.Process]]:
    """The port and the process of a worker."""
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0"]
    server = subprocess.Popen(
        [*command, "--worker-connections", "5000", "--graceful-timeout", "1", "channels:app"],
        cwd=Path(__file__).parent,
        env={**os.environ, "BENCHMARK_URL": url},
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
        yield port, psutil.Process(pid)
    finally:
        server.terminate()
        server.wait()


def ask(port: int, method: str, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(f"{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert b" 200 OK" in answer, answer
    return answer


def connect(port: int) -> socket.socket:
    """Connect a client and read its first bytes. HTTP/1.0 has no chunks."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(b"GET /news HTTP/1.0\r\nHost: localhost\r\n\r\n")
    received = b""
    while b":ok\n\n" not in received:
        received += sock.recv(4096)
    return sock


class Crowd:
    """Clients in another process. They read until they have the last message."""

    def __init__(self, port: int, clients: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "crowd", str(port), str(clients)],
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
    socks = gevent.pool.Pool(50).map(connect, [port] * clients)
    print(time.monotonic() - started, flush=True)
    while True:
        gevent.joinall([gevent.spawn(read_to_last, sock) for sock in socks], raise_error=True)
        now = time.monotonic()
        ages.sort()
        print(now, ages[len(ages) // 2], ages[len(ages) * 99 // 100], flush=True)
        ages.clear()


def latency(url: str, clients: int, count: int, pause: float) -> None:
    with worker_of(url) as (port, _):
        readers = Crowd(port, clients)
        if kind_of(url) == "memory":
            ask(port, "POST", f"/channel/{count}/{pause}")
        else:
            publisher = Channels(url)
            for number in range(count):
                publisher.publish("news", stamped(last=number == count - 1))
                time.sleep(pause)
        _, half, most = readers.said()
        print(
            f"{kind_of(url)}: latency, clients {clients:,}:"
            f" p50 {half * 1000:.2f} ms, p99 {most * 1000:.2f} ms"
        )
        readers.leave()


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def deliveries() -> None:
    with worker_of("memory://") as (port, process):
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
            print(
                f"worker, {count} messages to {STREAMS} clients {pace}:"
                f" {count * STREAMS / channel:,.0f} deliveries a CPU second with a channel,"
                f" {channel / loop:.2f} of the loop's CPU time; in {seconds:.2f} s"
            )
        readers.leave()


def connections() -> None:
    with worker_of("memory://") as (port, process):
        # Wait until the worker has started.
        ask(port, "GET", "/subscribers")
        crowds, before = [Crowd(port, 500)], cpu_of(process)
        rss = process.memory_info().rss
        crowds.append(Crowd(port, 1500))
        assert b"2000 here" in ask(port, "GET", "/subscribers")
        kib = (process.memory_info().rss - rss) / 1024 / 1500
        print(
            f"worker, 1500 clients connect: {1500 / crowds[1].took:,.0f} a second,"
            f" {1500 / (cpu_of(process) - before):,.0f} a CPU second; {kib:.1f} KiB each"
        )
        for each in crowds:
            each.leave()


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """Start a Redis that stores nothing on the disk, and return its URL, or None."""
    executable = shutil.which("redis-server")
    if executable is None:
        print("redis: left out, there is no redis-server here")
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


def main() -> None:
    # Each client takes a file descriptor of this process or of the worker.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    many()
    fan_out()
    deliveries()
    connections()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        urls: list[str | None] = [*sys.argv[1:]]
        if not urls:
            redis_url = stack.enter_context(redis_server())
            urls = ["memory://", f"sqlite:///{folder}/events.db", redis_url]
        for url in filter(None, urls):
            publish(url)
            latency(url, clients=1, count=300, pause=0.01)
            latency(url, clients=1000, count=80, pause=0.1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["crowd"]:
        crowd(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
