"""What a channel costs.

Run it as ``python benchmarks/channels.py [URL ...]``; without a URL the broker in
memory and one in a new SQLite file are measured.

fan-out
    One message to 1,000 streams that follow a channel, against a loop of ``push``
    over the same streams with a frame that is made already. Taken in turns.
publish
    Messages a second of one publisher, and the time from ``publish`` until the
    stream of a subscriber has it, one message at a time.
channels
    What 10,000 channels with an idle subscriber each take, and a message in one of
    them.
"""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import gevent  # noqa: E402

from ssestream import Channels, SseStream  # noqa: E402
from ssestream.outgoing import OutgoingMessage  # noqa: E402

STREAMS, ROUNDS, MESSAGES = 1000, 15, 10
MANY = 10_000
DATA = {"data": "x" * 100}
FRAME = b"id: news=0123abcd.123456\ndata: " + b"x" * 100 + b"\n\n"


class Sink:
    """A stream and where it flows to, which is emptied by hand."""

    def __init__(self) -> None:
        self.stream = SseStream()
        self.response = self.stream.pipe(OutgoingMessage())


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        gevent.sleep(0)


def fan_out() -> None:
    channels = Channels(history=100_000)
    sinks = [Sink() for _ in range(STREAMS)]
    for sink in sinks:
        channels.subscribe(sink.stream, "news")
    gc.collect()
    gc.freeze()

    def bare() -> None:
        for _ in range(MESSAGES):
            for sink in sinks:
                sink.stream.push(FRAME)
            gevent.sleep(0)

    def through_channel() -> None:
        goal = channels.channel("news").statistics().delivered + MESSAGES * STREAMS
        for _ in range(MESSAGES):
            channels.publish("news", DATA)
            gevent.sleep(0)
        wait_for(lambda: channels.channel("news").statistics().delivered >= goal)

    def timed(function: Callable[[], None]) -> float:
        started = time.perf_counter()
        function()
        taken = time.perf_counter() - started
        for sink in sinks:
            sink.response._buffer.clear()
        return taken / MESSAGES / STREAMS * 1e6

    rounds = [(timed(bare), timed(through_channel), timed(bare)) for _ in range(ROUNDS)]
    ratio = statistics.median(channel / ((one + two) / 2) for one, channel, two in rounds)
    push = statistics.median(one for one, _, _ in rounds)
    channel = statistics.median(channel for _, channel, _ in rounds)
    print(f"fan-out to {STREAMS}: push {push:.2f} us, channel {channel:.2f} us: {ratio:.2f} of it")


def publish(url: str) -> None:
    channels = Channels(url, history=100_000)
    count, times = 2000, []
    started = time.perf_counter()
    for _ in range(count):
        channels.publish("news", DATA)
    rate = count / (time.perf_counter() - started)
    sink = Sink()
    channels.subscribe(sink.stream, "news")
    for _ in range(500):
        before = sink.response.writable_length
        started = time.perf_counter()
        channels.publish("news", DATA)
        wait_for(lambda before=before: sink.response.writable_length > before)  # type: ignore[misc]
        times.append((time.perf_counter() - started) * 1000)
        sink.response._buffer.clear()
    times.sort()
    half, most = times[len(times) // 2], times[len(times) * 99 // 100]
    kind = url.partition(":")[0]
    print(f"{kind}: {rate:,.0f} messages/s, latency p50 {half:.3f} ms, p99 {most:.3f} ms")
    sink.stream.destroy()


def many() -> None:
    def kib() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    gc.unfreeze()
    channels = Channels()
    before = kib()
    sinks = [Sink() for _ in range(MANY)]
    streams = kib()
    for number, sink in enumerate(sinks):
        channels.subscribe(sink.stream, f"channel-{number}")
    gevent.sleep(0.05)
    after = kib()
    times = []
    for _ in range(20):
        length = sinks[7].response.writable_length
        started = time.perf_counter()
        channels.publish("channel-7", DATA)
        wait_for(lambda length=length: sinks[7].response.writable_length > length)  # type: ignore[misc]
        times.append((time.perf_counter() - started) * 1000)
    print(
        f"{MANY:,} channels: {(after - streams) / MANY:.2f} KiB each beside"
        f" {(streams - before) / MANY:.2f} for its stream;"
        f" a message in one takes {statistics.median(times):.2f} ms"
    )


def main() -> None:
    many()
    fan_out()
    with tempfile.TemporaryDirectory() as folder:
        for url in sys.argv[1:] or ["memory://", f"sqlite:///{folder}/events.db"]:
            publish(url)


if __name__ == "__main__":
    main()
