"""A server that runs already, asked over its own socket."""

import http.cookiejar
import socket
import ssl
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import Any, Literal
from urllib.parse import urlsplit

import gevent.socket
import werkzeug.test
from werkzeug.datastructures import EnvironHeaders, Headers

from ..runtime.loop import hub_of_greenlet
from .http_reader import HttpReader
from .question import Question

#: Bytes that are read at once.
PIECE = 64 * 1024


class ByUrl:
    """The server behind *url*, and the cookies that it has set."""

    def __init__(self, url: str, question: Question, context: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the URL of a server begins with http:// or https://, not as {url!r}")
        self._url, self._question = f"{parts.scheme}://{parts.netloc}", question
        self._address = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._context = context
        if parts.scheme == "https" and context is None:
            self._context = ssl.create_default_context()
        self._cookies = http.cookiejar.CookieJar()

    def ask(self, last_event_id: str) -> "Asked":
        """Send the request. *last_event_id* is the id of the client's last event, or ``""``."""
        environ = self._question.environ(
            last_event_id, werkzeug.test.EnvironBuilder, base_url=self._url
        )
        headers = Headers(EnvironHeaders(environ))
        target = environ["REQUEST_URI"]
        carrier = urllib.request.Request(self._url + target)
        self._cookies.add_cookie_header(carrier)
        cookie = carrier.get_header("Cookie")
        if cookie is not None and "Cookie" not in headers:
            headers["Cookie"] = cookie
        body = environ["wsgi.input"].read()
        method = environ["REQUEST_METHOD"]
        if not body and method in ("GET", "HEAD"):
            headers.remove("Content-Length")
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in headers)]
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")

        def learn(got: Headers) -> None:
            told = Message()
            for name, text in got:
                told.add_header(name, text)
            answer: Any = _Answer(told)
            self._cookies.extract_cookies(answer, carrier)

        return Asked(self._connect(), head + body, method, learn)

    def _connect(self) -> Any:
        module: Any = socket if hub_of_greenlet() is None else gevent.socket
        sock = module.create_connection(self._address, timeout=10.0)
        if self._context is not None:
            return self._context.wrap_socket(sock, server_hostname=self._address[0])
        return sock


class _Answer:
    """The headers of a response, in the form that a cookie jar reads."""

    def __init__(self, told: Message) -> None:
        self._told = told

    def info(self) -> Message:
        return self._told


class Asked:
    """One request to a server, and the part of the response that has come."""

    is_local = False
    error: BaseException | None = None

    def __init__(
        self, sock: Any, request: bytes, method: str, learn: Callable[[Headers], None]
    ) -> None:
        self._sock, self._learn = sock, learn
        self._reader = HttpReader(method)
        self.is_stalled = False
        self.is_over = False
        self._is_closed = False
        try:
            sock.sendall(request)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)

    @property
    def head(self) -> tuple[int, Headers] | None:
        """The status and the headers; None before they have come."""
        self._read()
        return self._reader.head

    def take(self) -> bytes:
        """The bytes that have come since the last call. Never waits."""
        self._read()
        return self._reader.take()

    def stall(self, is_stalled: bool) -> None:
        """Let the client read nothing more, or read on."""
        self.is_stalled = is_stalled

    @property
    def ended(self) -> Literal["clean", "cut"] | None:
        """How the response ended; None while it is open."""
        if self._reader.is_complete:
            return "clean"
        return "cut" if self._is_closed else None

    def leave(self) -> None:
        """The client leaves: it closes its end of the connection."""
        self._sock.close()
        self.is_over = self._is_closed = True

    def _read(self) -> None:
        had_head = self._reader.head is not None
        while not (self.is_stalled or self._is_closed or self._reader.is_complete):
            try:
                data = self._sock.recv(PIECE)
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            except OSError:
                self._is_closed = True
                break
            if data:
                self._reader.feed(data)
            else:
                self._reader.close()
                self._is_closed = True
        if not had_head and self._reader.head is not None:
            self._learn(self._reader.head[1])
