"""A reader slower than its channel is a cursor on the log: it holds little and loses nothing."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.socket
import gevent.util
import psutil
import pytest

from ssestream import Channels
from ssestream.settings import DEFAULTS
from tests.kit.servers import Server, ask

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

FAST, SLOW = 200, 50

MESSAGES, SIZE = 2500, 1024

#: Bytes that a slow client reads in a second.
PACE = 5 * 1024

#: Messages published at once, and how many there may be that a fast client has not
#: got yet: fewer than make a stream fall behind, whatever else the machine does.
BURST, AHEAD = 50, 200

#: Bytes by which the worker may grow. All that the slow ones have not read is twice
#: as much; half of what may wait in each of their streams is 25 MiB.
GROWTH = 64 << 20

#: Seconds in which something must have got on. Others may use the machine.
PATIENCE = 100.0

#: Bytes that the kernel may keep for a slow client, and for one that is slow no longer. With
#: few, the kernel drops part of what comes and is sent that again after 0.2 s or more: it
#: would take minutes to catch up.
LITTLE, MUCH = 4096, 1 << 20


#: The check of an event's id, behind what comes before it.
CHECKS = re.compile(rb"(?m)^(id: news=\w+\.\d+)\.[0-9a-f]{6}$")


def frame(log: str, number: int) -> bytes:
    data = f"{number} ".ljust(SIZE, ".")
    return f"id: news={log}.{number}\ndata: {data}\n\n".encode()


class Reader:
    """A client that compares what it gets with what it must get, byte by byte."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.sock: Any = gevent.socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", port))
        self.sock.sendall(b"GET /news?channels=news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        #: Taken out of its chunks.
        self.body = bytearray()
        self._raw = bytearray()
        self._lines = bytearray()
        self._left = 0
        while b"\r\n\r\n" not in self._raw:
            self._raw += self.sock.recv(4096)
        head, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0]
        self._raw = bytearray(rest)
        self._unchunk()
        self.read_until(b":ok\n\n")
        self.body.clear()
        #: Bytes that it has of what it must get.
        self.have = 0

    def __del__(self) -> None:
        self.sock.close()

    def read_until(self, mark: bytes) -> None:
        while mark not in self.body:
            self.read()

    def read(self, most: int = 65536) -> int:
        data = self.sock.recv(most)
        assert data, "the stream was cut"
        self._raw += data
        self._unchunk()
        return len(data)

    def check(self, expected: bytes) -> None:
        assert expected.startswith(bytes(self.body), self.have), (
            f"after {self.have} bytes came {bytes(self.body[:100])!r}"
            f" instead of {expected[self.have : self.have + 100]!r}"
        )
        self.have += len(self.body)
        self.body.clear()

    def read_all(self, expected: bytes) -> None:
        self.check(expected)
        while self.have < len(expected):
            self.read()
            self.check(expected)

    def read_slowly(self, expected: bytes, hurry: gevent.event.Event) -> None:
        due = time.monotonic()
        while not hurry.is_set():
            due += self.read(PACE // 10) / PACE
            self.check(expected)
            hurry.wait(max(0.0, due - time.monotonic()))
        self.hurry()
        self.read_all(expected)

    def hurry(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MUCH)

    def _unchunk(self) -> None:
        while self._raw:
            if self._left:
                piece = self._raw[: self._left]
                del self._raw[: len(piece)]
                self._left -= len(piece)
                self._lines += piece
            else:
                line, mark, _ = self._raw.partition(b"\r\n")
                if not mark:
                    break
                del self._raw[: len(line) + 2]
                # The line end behind a chunk's data is an empty line.
                self._left = int(line, 16) if line else 0
        # Without the checks of the ids, which nobody knows beforehand.
        whole = self._lines.rfind(b"\n") + 1
        self.body += CHECKS.sub(rb"\1", self._lines[:whole])
        del self._lines[:whole]


class House:
    """A worker with one channel, and whoever publishes to it."""

    def __init__(self, server: Server, publisher: Channels | None) -> None:
        self.server = server
        #: In this process; None where only the worker itself can.
        self._publisher = publisher
        self.published = 0

    def publish(self, count: int) -> None:
        first = self.published + 1
        if self._publisher is None:
            self.ask("POST", f"/publish/news?first={first}&count={count}&size={SIZE}")
        else:
            for number in range(first, first + count):
                self._publisher.publish("news", {"data": f"{number} ".ljust(SIZE, ".")})
        self.published += count

    def ask(self, method: str, path: str) -> bytes:
        return ask(self.server.port, path, method, gevent.socket.create_connection, PATIENCE)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.ask("GET", "/state"))
        return state

    def resident(self) -> int:
        return int(psutil.Process(self.server.worker_pid()).memory_info().rss)

    def stacks(self) -> str:
        """Where all greenlets of this process are, and all threads of the worker."""
        before = len(self.server.log())
        os.kill(self.server.worker_pid(), signal.SIGUSR2)
        end = time.monotonic() + 5
        while "most recent call" not in self.server.log()[before:] and time.monotonic() < end:
            time.sleep(0.05)
        return "\n".join([*gevent.util.format_run_info(), self.server.log()[before:]])

    @contextmanager
    def within(self, seconds: float, what: Callable[[], str]) -> Iterator[None]:
        """Fail after *seconds*, and say what was waited for and where everybody is."""
        with gevent.Timeout(seconds) as timeout:
            try:
                yield
            except gevent.Timeout as error:
                if error is not timeout:
                    raise
                words = f"waited {seconds:g} s in vain for {what()}"
                raise AssertionError(f"{words}\n{self.stacks()}") from None

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self.within(PATIENCE, lambda: what):
            while not condition():
                gevent.sleep(0.01)


@contextmanager
def house(
    kind: str, broker: str, serve: Callable[..., Server], folder: Path, history: int
) -> Iterator[House]:
    url = "memory://" if broker == "memory" else f"sqlite:///{folder / 'events.db'}"
    config = {
        "SSESTREAM_URL": url,
        "SSESTREAM_HISTORY": history,
        # What comes is compared byte by byte.
        "SSESTREAM_HEARTBEAT": None,
        "SSESTREAM_ID_BLOCKS": False,
        # A crowded machine may leave a client without its turn for long.
        "SSESTREAM_SEND_TIMEOUT": PATIENCE,
    }
    env = {"CHANNELS_CONFIG": json.dumps(config), "CHANNELS_LOOK": "1"}
    server = serve(kind, "tests.servers.apps.channels:app", env=env)
    yield House(server, None if broker == "memory" else Channels(url, history=history))


def look_at(greenlets: list[gevent.Greenlet]) -> bool:
    """Whether all are done; raises what any of them has raised."""
    done = [each for each in greenlets if each.ready()]
    for each in done:
        each.get()
    return len(done) == len(greenlets)


def progress(readers: list[Reader], expected: bytes) -> str:
    has = sorted(reader.have for reader in readers)
    done = has.count(len(expected))
    return f"{len(has) - done} of {len(has)} readers, which have {has[0]} to {has[-1]} bytes"


def log_of(reader: Reader) -> str:
    """The identity of the log, from the first event."""
    reader.read_until(b"\n\n")
    found = re.match(rb"id: news=(\w+)\.1\n", bytes(reader.body))
    assert found is not None
    return found[1].decode()


@pytest.mark.long
def test_slow_readers_lose_nothing_hold_little_and_hold_up_nobody(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    with house("SseWorker", "sqlite", serve, tmp_path, history=2 * MESSAGES) as loop:
        fast = [Reader(loop.server.port) for _ in range(FAST)]
        slow = [Reader(loop.server.port, receive_buffer=LITTLE) for _ in range(SLOW)]
        assert loop.state()["subscribers"] == FAST + SLOW
        before = most = loop.resident()

        loop.publish(1)
        log = log_of(fast[0])
        frames = [frame(log, number) for number in range(1, MESSAGES + 1)]
        expected = b"".join(frames)
        ends = [0]
        for one in frames:
            ends.append(ends[-1] + len(one))
        hurry = gevent.event.Event()
        runs = [gevent.spawn(reader.read_all, expected) for reader in fast]
        crawls = [gevent.spawn(reader.read_slowly, expected, hurry) for reader in slow]

        with loop.within(2 * PATIENCE, lambda: progress(fast, expected)):
            while loop.published < MESSAGES:
                loop.publish(min(BURST, MESSAGES - loop.published))
                enough = ends[max(0, loop.published - AHEAD)]
                while any(reader.have < enough for reader in fast):
                    look_at(runs)
                    gevent.sleep(0.01)
                most = max(most, loop.resident())
                look_at(crawls)
            loop.wait_for(lambda: look_at(runs), "the fast")
        assert all(reader.have == len(expected) for reader in fast)

        # They have everything, and the slow ones are nowhere near it.
        assert all(reader.have < len(expected) / 2 for reader in slow)
        loop.wait_for(
            lambda: loop.state()["lagging"] == SLOW, "all slow streams, and no other, to lag"
        )
        state = loop.state()
        assert state["open"] == FAST + SLOW
        # At no time did one of the fast lag, nor hold any stream more than it may.
        assert state["most"]["lagging"] == SLOW
        assert DEFAULTS.max_bytes // 4 < state["most"]["waiting"] <= DEFAULTS.max_bytes

        hurry.set()
        with loop.within(2 * PATIENCE, lambda: progress(slow, expected)):
            while not look_at(crawls):
                most = max(most, loop.resident())
                gevent.sleep(0.1)
        assert all(reader.have == len(expected) for reader in slow)
        loop.wait_for(lambda: loop.state()["lagging"] == 0, "the slow to be live again")
        state = loop.state()
        assert state["gaps"] == 0
        assert state["most"]["lagging"] == SLOW
        assert state["most"]["waiting"] <= DEFAULTS.max_bytes
        assert most - before < GROWTH

        # And live they are: one more comes to all.
        loop.publish(1)
        for reader in (*fast, *slow):
            reader.have = 0
            reader.read_all(frame(log, MESSAGES + 1))


@pytest.mark.long_except("SseWorker-memory")
@pytest.mark.parametrize(
    ("kind", "broker"), [("SseWorker", "memory"), ("gevent", "memory"), ("gevent", "sqlite")]
)
def test_whoever_falls_out_of_the_history_is_told_in_the_stream_and_counted(
    kind: str, broker: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    kept = 100
    with house(kind, broker, serve, tmp_path, history=kept) as loop:
        reader = Reader(loop.server.port, receive_buffer=LITTLE)
        loop.publish(1)
        log = log_of(reader)
        while loop.published < 3000:
            loop.publish(BURST)
            # An answer lets the worker hear of the burst: it must not fall out itself.
            loop.state()
        loop.wait_for(lambda: loop.state()["lagging"] == 1, "the stream to lag")
        assert loop.state()["gaps"] == 0

        last = frame(log, loop.published)
        reader.hurry()
        reader.read_until(last)
        frames = bytes(reader.body).split(b"\n\n")
        at = frames.index(b"event: gap\ndata: news")
        frames = [each + b"\n\n" for each in frames[:-1]]
        # All from the first that fit into the stream, then the word, then all that are kept.
        assert frames[:at] == [frame(log, number) for number in range(1, at + 1)]
        rest = range(loop.published - kept + 1, loop.published + 1)
        assert frames[at + 1 :] == [frame(log, number) for number in rest]
        assert at + 1 < rest[0]
        assert loop.state()["gaps"] == 1
        assert loop.server.wait_for(event="gap")["name"] == "news"
