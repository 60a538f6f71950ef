"""The arguments of ``python -m ssestream top``, and what they ask for."""

import argparse
import http.client
import io
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from ..header_option import header
from ..runtime.clock import clock
from .screen import Screen, screen_of, text_of

HELP = """\
Shows which clients are open on which channels, and what waits for them. URL is a view of the app
that returns OpenStreams.view() (docs/watching.rst). The view belongs behind the app's own check, so
give the header that it asks for.

  python -m ssestream top http://127.0.0.1:8000/streams --header 'Authorization: Bearer ...'

It goes on until Ctrl-C, and needs the package rich: pip install 'ssestream[top]'. With --once it
prints one look as plain text, and needs nothing.
"""

#: Seconds between two looks, and for one answer.
INTERVAL, PATIENCE = 1.0, 10.0

#: The most bytes of an answer. A process tells of 500 streams, with some 200 bytes for each.
LARGEST = 16 * 1024 * 1024


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is no answer: it mostly leads to a log-in, and would get the headers."""

    def redirect_request(self, *args: object) -> None:
        return None


class _InTime(io.RawIOBase):
    """The bytes that come from *sock*: at most `LARGEST`, and all within `PATIENCE`.

    The timeout of a socket is for each piece, and a server may send byte by byte.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # The connection closes its socket before the answer is read, and this file keeps it open.
        self._file = sock.makefile("rb", buffering=0)
        self._until = clock.real() + PATIENCE
        self._left = LARGEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise OSError(f"its answer has more than {LARGEST >> 20} MiB")
        seconds = self._until - clock.real()
        try:
            if seconds <= 0:
                raise TimeoutError
            self._sock.settimeout(seconds)
            length = self._file.readinto(memoryview(buffer)[: self._left])
        except TimeoutError:
            raise TimeoutError(f"its answer has no end within {PATIENCE:g} s") from None
        self._left -= length or 0
        return length

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_InTime(sock))


class _Plain(http.client.HTTPConnection):
    response_class = _Answer


class _Secure(http.client.HTTPSConnection):
    response_class = _Answer


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, request)


_opener = urllib.request.build_opener(_NoRedirect, _Http, _Https)


class NoAnswer(Exception):
    """The app has not answered with its streams."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    parser.add_argument("address", metavar="URL", help="the view of the app, http or https")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=header,
        dest="headers",
        metavar="'NAME: VALUE'",
        help="one more header of each request, such as a cookie; may be given several times",
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL,
        metavar="SECONDS",
        help=f"how long to wait between two looks (default: {INTERVAL:.0f})",
    )
    parser.add_argument("--once", action="store_true", help="print one look as plain text")


def run(options: argparse.Namespace, write: Callable[[str], object]) -> None:
    """Show what *options* ask for. *write* prints text.

    :raise ValueError: if the URL is none, or ``rich`` is missing.
    :raise NoAnswer: if the app gives no answer at the first look.
    """
    if urlsplit(options.address).scheme not in ("http", "https"):
        raise ValueError("the URL of a view begins with http:// or https://")
    first = _look(options)
    if options.once:
        write(text_of(screen_of_answer(first)))
        return
    try:
        from .rich import show
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ValueError(
            "top needs the package rich: pip install 'ssestream[top]', or give --once"
        ) from None
    show(_screens(options, screen_of_answer(first)))


def screen_of_answer(answer: bytes, earlier: Screen | None = None, seconds: float = 0.0) -> Screen:
    """The screen for the bytes of an answer.

    :raise NoAnswer: if it is not that of `OpenStreams.view`.
    """
    try:
        return screen_of(json.loads(answer), earlier, seconds)
    except (ValueError, RecursionError) as error:
        raise NoAnswer("the answer is not that of OpenStreams.view()") from error


def _screens(options: argparse.Namespace, screen: Screen) -> Iterator[Screen | str]:
    at = clock.real()
    yield screen
    while True:
        time.sleep(options.interval)
        try:
            now = clock.real()
            screen = screen_of_answer(_look(options), screen, now - at)
            at = now
            yield screen
        except NoAnswer as error:
            # A reload of the app, perhaps.
            yield str(error)


def _look(options: argparse.Namespace) -> bytes:
    request = urllib.request.Request(options.address, headers=dict(options.headers))
    try:
        with _opener.open(request, timeout=PATIENCE) as answer:
            text: bytes = answer.read(LARGEST)
            return text
    except urllib.error.HTTPError as error:
        with error:
            raise NoAnswer(f"{options.address} answers with {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"{options.address} does not answer: {error}") from None


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be from 0.1 to 3600 seconds, not {text!r}")
    return seconds
