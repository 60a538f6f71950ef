"""One stream, asked for as a browser does, with the time at which each piece of it came."""

import socket
import ssl
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from ..runtime.clock import clock
from ..testing.http_reader import HttpReader
from ..wire import Decoder

#: Bytes that are read at once.
PIECE = 64 * 1024

#: Seconds for a connection, with its TLS handshake.
CONNECT_WITHIN = 10.0

#: The most bytes of a head, and of a line between two chunks. Servers take heads of 8 to 64 KiB.
MOST_HEAD = 256 * 1024

#: The most bytes of a body, unpacked, and the most messages and pieces. The doctor keeps all of
#: them, and leaves when there are more.
MOST_BODY, MOST_MESSAGES = 8 * 1024 * 1024, 100_000

#: What browsers accept: a proxy compresses for them, and would not for a client without this.
ENCODINGS = "gzip, deflate, br, zstd"

#: What `Visit` can read of them.
UNPACKED = ("gzip", "x-gzip", "deflate")


class NotHttp(Exception):
    """The server's answer is no response of HTTP/1.1."""


class _Reader(HttpReader):
    """A reader for any server. A chunk of -5 bytes would never end."""

    def _read_chunk(self) -> bool:
        goes_on = super()._read_chunk()
        if self._left is not None and self._left < 0:
            raise ValueError("a chunk of less than no bytes")
        return goes_on


class Visit:
    """A client of the stream at *url*. A context manager: at its end the client has left.

    All times are seconds since the request was sent.

    :param headers: more headers of the request: pairs of a name and a text.
    :param context: for ``https``; None for the system's certificates.
    :raise OSError: if no connection comes about; an ``ssl.SSLError`` is one.
    """

    def __init__(
        self,
        url: str,
        headers: Sequence[tuple[str, str]] = (),
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        host, is_secure = parts.hostname or "", parts.scheme == "https"
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        #: ``"h2"`` if the server would speak HTTP/2 with a browser.
        self.protocol: str | None = None
        if is_secure:
            self.protocol = offered(host, parts.port or 443, context)
        self._sock = _connect(host, parts.port or (443 if is_secure else 80), is_secure, context)
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            "Accept: text/event-stream",
            f"Accept-Encoding: {ENCODINGS}",
            "Cache-Control: no-cache",
            *(f"{name}: {text}" for name, text in headers),
        ]
        self._reader = _Reader("GET")
        self._decoder = Decoder()
        self._unpack: Callable[[bytes, int], bytes] = _as_it_is
        # Bytes that have come since the head, or since the last byte of the body.
        self._pending = 0
        self._began = clock.real()
        #: When the head came; None before.
        self.head_after: float | None = None
        #: When each piece of the body came.
        self.times: list[float] = []
        #: Each message, and when it came.
        self.messages: list[tuple[float, dict[str, str | int]]] = []
        #: Bytes of the body, unpacked, and those after the end of the last message or heartbeat.
        self.length = self.unfinished = 0
        #: How the response ended, and when; None while it is open. ``"full"`` if the doctor has
        #: left, as there was too much to keep.
        self.ended: Literal["clean", "cut", "full"] | None = None
        self.ended_after: float | None = None
        try:
            self._sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
        except OSError:
            self._sock.close()
            raise

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *error: object) -> None:
        self._sock.close()

    @property
    def status(self) -> int:
        """The status of the response; 0 before its head has come."""
        return 0 if self._reader.head is None else self._reader.head[0]

    @property
    def headers(self) -> Headers:
        """The headers of the response; none before its head has come."""
        return Headers() if self._reader.head is None else self._reader.head[1]

    @property
    def length_of_head(self) -> int:
        """The bytes of a head that has begun and has no end yet."""
        return self._pending if self._reader.head is None else 0

    @property
    def is_readable(self) -> bool:
        """Whether the events are seen: some compressions cannot be undone here."""
        return self.headers.get("Content-Encoding", "identity") in ("identity", *UNPACKED)

    @property
    def now(self) -> float:
        return clock.real() - self._began

    def listen(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Read until *condition* is true, until the end, or for *seconds*.

        :returns: whether *condition* is true.
        :raise NotHttp: if the server's answer is no response of HTTP/1.1.
        """
        until = self.now + seconds
        while not condition():
            left = until - self.now
            if self.ended is not None or left <= 0:
                return False
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(PIECE)
            except TimeoutError:
                return bool(condition())
            except OSError:
                data = b""
            self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        try:
            if data:
                self._reader.feed(data)
            else:
                self._reader.close()
        except (ValueError, IndexError) as error:
            raise NotHttp(f"the answer begins with {data[:40]!r}") from error
        now = self.now
        self._pending += len(data)
        if self.head_after is None and self._reader.head is not None:
            self.head_after = now
            self._pending = 0
            self._unpack = _unpacker(self.headers.get("Content-Encoding", ""))
        body = self._reader.take()
        if body:
            self._read(body, now)
        elif self._pending > MOST_HEAD:
            where = "head" if self.head_after is None else "line between two chunks"
            raise NotHttp(f"a {where} has more than {MOST_HEAD >> 10} KiB")
        if self._reader.is_complete or not data:
            self.ended = "clean" if self._reader.is_complete else "cut"
        elif self.length >= MOST_BODY or max(len(self.messages), len(self.times)) > MOST_MESSAGES:
            self.ended = "full"
        if self.ended is not None:
            self.ended_after = now

    def _read(self, body: bytes, now: float) -> None:
        self._pending = 0
        self.times.append(now)
        try:
            # A few bytes may unpack to very many.
            text = self._unpack(body, MOST_BODY - self.length)
        except zlib.error as error:
            raise NotHttp(f"its Content-Encoding is not true: {error}") from error
        beats = self._decoder.heartbeats
        messages = self._decoder.feed(text)
        self.messages += [(now, message) for message in messages]
        self.length += len(text)
        has_end = messages or self._decoder.heartbeats > beats
        self.unfinished = 0 if has_end else self.unfinished + len(text)


def offered(host: str, port: int, context: ssl.SSLContext | None) -> str | None:
    """The protocol that the server chooses for a browser, such as ``"h2"``; None for none.

    :raise OSError: if no connection comes about; an ``ssl.SSLError`` is one.
    """
    with _secure(host, port, context, ["h2", "http/1.1"]) as sock:
        protocol: str | None = sock.selected_alpn_protocol()
        return protocol


def _connect(host: str, port: int, is_secure: bool, context: ssl.SSLContext | None) -> Any:
    if is_secure:
        return _secure(host, port, context, ["http/1.1"])
    return socket.create_connection((host, port), timeout=CONNECT_WITHIN)


def _secure(host: str, port: int, context: ssl.SSLContext | None, protocols: list[str]) -> Any:
    context = context or ssl.create_default_context()
    context.set_alpn_protocols(protocols)
    sock = socket.create_connection((host, port), timeout=CONNECT_WITHIN)
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except TimeoutError as error:
        sock.close()
        raise ssl.SSLError(f"no handshake within {CONNECT_WITHIN:.0f} s") from error
    except OSError:
        sock.close()
        raise


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """What makes text of a body; bytes as they are for an encoding that Python does not know."""
    if encoding in UNPACKED:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress
    return _as_it_is


def _as_it_is(body: bytes, most: int) -> bytes:
    return body
