"""Many clients of nginx in one thread, that cost little. They do what an EventSource does."""

import contextlib
import heapq
import select
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ssestream.wire import Decoder
from tests.kit.servers import Patience

#: Seconds that a client waits before it comes back, unless it is told: those of Chromium.
PAUSE = 3.0

#: Seconds between two looks of `Audience.run_until`.
LOOK = 0.05


class Arrival(NamedTuple):
    """A message at a client. *sent* and *received* are of the clock that all processes share."""

    number: int
    sent: float
    received: float


class Break(NamedTuple):
    """The time without a stream, and the processes that had the stream before and have it now."""

    began: float
    ended: float
    before: int
    after: int


class Client:
    """One client of one channel. The messages are numbered from 1 on."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.sock: socket.socket | None = None
        #: The process that has its stream; None while it has none.
        self.worker: int | None = None
        self.arrivals: list[Arrival] = []
        self.breaks: list[Break] = []
        self.gaps = 0
        self.doubles = 0
        self.is_in_order = True
        self._last_event_id = ""
        self._retry = PAUSE
        self._head: bytes | None = b""
        self._decoder = Decoder()
        self._lost: tuple[float, int] | None = None
        self._numbers: set[int] = set()

    def connect(self, port: int) -> socket.socket:
        self.sock = sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(("127.0.0.1", port))
        return sock

    def ask(self) -> None:
        """Send the request. With HTTP/1.0, nginx takes the chunks' frames off."""
        assert self.sock is not None
        lines = [f"GET /news?channels={self.channel} HTTP/1.0", "Host: localhost"]
        lines.append("Accept: text/event-stream")
        if self._last_event_id:
            lines.append(f"Last-Event-ID: {self._last_event_id}")
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())

    def feed(self, data: bytes, now: float) -> int:
        """Take *data* in, and give the number of new messages."""
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = None if end else head
            if not end:
                return 0
            self._open(head.decode(), now)
        count = 0
        for message in self._decoder.feed(data):
            count += self._take(message, now)
        return count

    def _open(self, head: str, now: float) -> None:
        _, found, rest = head.partition("X-Worker: ")
        if not found:
            return  # nginx answers by itself, with a ``retry``
        self.worker = int(rest.split("\r\n")[0])
        if self._lost is not None:
            self.breaks.append(Break(self._lost[0], now, self._lost[1], self.worker))
            self._lost = None

    def _take(self, message: dict[str, Any], now: float) -> int:
        if "id" in message:
            self._last_event_id = message["id"]
        if "retry" in message:
            self._retry = message["retry"] / 1000
        if message.get("event") == "gap":
            self.gaps += 1
            return 0
        if "data" not in message:
            return 0
        number, sent, _ = message["data"].split(" ", 2)
        arrival = Arrival(int(number), float(sent), now)
        if arrival.number in self._numbers:
            self.doubles += 1
        elif self.arrivals and arrival.number < self.arrivals[-1].number:
            self.is_in_order = False
        self._numbers.add(arrival.number)
        self.arrivals.append(arrival)
        return 1

    def lose(self, now: float) -> float:
        """Close the connection. Gives the seconds to wait."""
        assert self.sock is not None
        self.sock.close()
        self.sock = None
        self._head, self._decoder = b"", Decoder()
        if self.worker is not None:
            self._lost = (now, self.worker)
            self.worker = None
        return self._retry

    def has(self, number: int) -> bool:
        return number in self._numbers

    def missing(self, last: int) -> int:
        """How many of the messages up to *last* it never had, since its first."""
        first = self.arrivals[0].number if self.arrivals else 1
        return sum(number not in self._numbers for number in range(first, last + 1))


class Audience:
    """The clients of one nginx. All is done in `run_until`."""

    def __init__(self, port: int, channels: list[str]) -> None:
        self.clients = [Client(channel) for channel in channels]
        #: Messages that have arrived, at all clients.
        self.count = 0
        self._port = port
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, Client] = {}
        self._coming = [(0.0, number) for number in range(len(channels))]

    def run_until(self, condition: Callable[[], Any], what: str, patience: float = 60.0) -> None:
        """Serve the clients until *condition* is true."""
        left = Patience(patience, what)
        while not condition():
            left.look()
            self._run(LOOK)

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._run(min(left, LOOK))

    @property
    def is_whole(self) -> bool:
        return all(client.worker is not None for client in self.clients)

    def close(self) -> None:
        for client in self.clients:
            if client.sock is not None:
                client.sock.close()
        self._epoll.close()

    def _run(self, seconds: float) -> None:
        now = time.monotonic()
        while self._coming and self._coming[0][0] <= now:
            _, number = heapq.heappop(self._coming)
            client = self.clients[number]
            descriptor = client.connect(self._port).fileno()
            self._by_descriptor[descriptor] = client
            self._epoll.register(descriptor, select.EPOLLOUT)
        for descriptor, events in self._epoll.poll(seconds):
            client = self._by_descriptor[descriptor]
            try:
                if events & select.EPOLLOUT:
                    client.ask()
                    self._epoll.modify(descriptor, select.EPOLLIN)
                    continue
                assert client.sock is not None
                data = client.sock.recv(1 << 16)
            except BlockingIOError:
                continue
            except ConnectionError:
                data = b""
            if data:
                self.count += client.feed(data, time.monotonic())
            else:
                self._lose(descriptor)

    def _lose(self, descriptor: int) -> None:
        client = self._by_descriptor.pop(descriptor)
        self._epoll.unregister(descriptor)
        now = time.monotonic()
        pause = client.lose(now)
        heapq.heappush(self._coming, (now + pause, self.clients.index(client)))
