"""Clients that read strictly and note what they saw: a connection, and an answer on it."""

import socket
import struct
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
from gevent.lock import BoundedSemaphore

from tests.kit import servers
from tests.long.soak import text

#: Seconds after which whoever waits for the server gives up, and the run has failed.
PATIENCE = 60.0

#: Connections that a server has not answered yet: fewer than the shortest queue
#: for them, gevent's 128. A kernel whose queue is full resorts to SYN cookies, and
#: then may reset connections of which no server ever hears.
arriving = BoundedSemaphore(64)

# Linux's; chooses the port at connect(), so that each address has all of them.
IP_BIND_ADDRESS_NO_PORT = 24


class Answer:
    """What one client saw of one answer. It reads HTTP and the event stream by itself."""

    def __init__(self, key: str, size: int = 10, first: int = 1, head: bool = False):
        self.key = key
        #: What may have become of the stream: causes, "refused", and None if it
        #: may not have been opened. The behaviour sets it.
        self.may_be: set[str | None] = set()
        #: How many messages make it whole, where it is to be read to its end.
        self.whole: int | None = None
        #: Whether messages may be missing, as the server may drop some.
        self.lossy = False
        self.head = head
        self.size = size

        self.status = 0
        self.messages = 0
        self.missed = 0
        self.beats = 0
        self.retries = 0
        self.ok = False
        self.bytes = 0
        #: Read to the last chunk. An answer without chunks never is.
        self.clean = False
        #: Nothing more comes: it is clean, or the connection has ended.
        self.over = False
        self.faults: list[str] = []

        self._next = first
        self._chunked = False
        self._left = 0
        self._rest = b""
        self._id = -1
        self._data = ""

    @property
    def answered(self) -> bool:
        return self.status != 0

    def take(self, raw: bytearray) -> None:
        """Take what is this answer's from the beginning of *raw*."""
        while raw and not self.over:
            if not self.status:
                head, mark, _ = raw.partition(b"\r\n\r\n")
                if not mark:
                    return
                del raw[: len(head) + 4]
                self._take_head(bytes(head))
            elif not self._chunked:
                self._take_body(bytes(raw))
                raw.clear()
            elif self._left:
                piece = bytes(raw[: self._left])
                del raw[: len(piece)]
                self._left -= len(piece)
                self._take_body(piece)
            elif raw.startswith(b"0\r\n\r\n"):
                del raw[:5]
                self.clean = self.over = True
            else:
                line, mark, _ = raw.partition(b"\r\n")
                if not mark or line == b"0":
                    return
                del raw[: len(line) + 2]
                # The line end behind a chunk's data is an empty line.
                self._left = int(line, 16) if line else 0

    def _take_head(self, head: bytes) -> None:
        self.status = int(head.split()[1])
        self._chunked = b"transfer-encoding: chunked" in head.lower()
        if self.status != 200:
            self.faults.append(f"was answered {self.status}")
        elif b"text/event-stream" not in head:
            self.faults.append("was answered with something else than a stream")
        if self.head:
            self.clean = self.over = True

    def _take_body(self, data: bytes) -> None:
        self.bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            name, _, value = line.decode().partition(": ")
            if name == ":":
                self.beats += 1
            elif name == ":ok":
                self.ok = True
            elif name == "retry":
                self.retries += 1
            elif name == "event" and value == "ssestream-retry":
                pass  # the block that ends a stream: a ``retry`` follows
            elif name == "id":
                self._id = int(value)
            elif name == "data":
                self._data = value
            elif line:
                self.faults.append(f"got the line {line[:60]!r}")
            elif self._id >= 0:
                self._take_message()

    def _take_message(self) -> None:
        if self._id < self._next or (self._id > self._next and not self.lossy):
            self.faults.append(f"got message {self._id} where {self._next} was to come")
        if self._data != text(self._id, self.size):
            self.faults.append(f"got message {self._id} with other data than was written")
        self.messages += 1
        self.missed += self._id - self._next
        self._next, self._id, self._data = self._id + 1, -1, ""


class Line:
    """A connection to the server."""

    def __init__(self, port: int, address: str, receive_buffer: int | None = None) -> None:
        self._raw = bytearray()
        #: The longest time in seconds between two reads, as the loop may be late.
        self.pause = 0.0
        self.sock: Any = gevent.socket.socket()
        self.sock.settimeout(PATIENCE)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.sock.bind((address, 0))
        arriving.acquire()
        self._arriving = True
        self.sock.connect(("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(
        self,
        answer: Answer,
        until: Callable[[Answer], object] = lambda answer: False,
        at_once: int = 65536,
        pause: float = 0.0,
    ) -> None:
        """Read *answer* on, *until* that is true or nothing more comes."""
        last = time.monotonic()
        while True:
            answer.take(self._raw)
            if answer.over or until(answer):
                return
            if pause:
                gevent.sleep(pause)
                self.pause = max(self.pause, time.monotonic() - last)
                last = time.monotonic()
            try:
                data = self.sock.recv(at_once)
            except ConnectionError:
                data = b""
            self._arrived()
            if not data:
                answer.over = True
                return
            self._raw += data

    def fin(self) -> None:
        self._arrived()
        self.sock.close()

    def rst(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.fin()

    def _arrived(self) -> None:
        if self._arriving:
            self._arriving = False
            arriving.release()

    def half_close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # cut already
            pass


def request(
    path: str,
    *headers: str,
    method: str = "GET",
    version: str = "1.1",
    **arguments: Any,
) -> bytes:
    query = urllib.parse.urlencode(arguments)
    lines = [f"{method} {path}?{query} HTTP/{version}", "Host: localhost", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def ask(port: int, path: str, method: str = "GET") -> bytes:
    """What the server says of itself."""
    return servers.ask(port, path, method, gevent.socket.create_connection, PATIENCE)
