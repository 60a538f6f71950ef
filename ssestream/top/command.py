"""The arguments of ``python -m ssestream top``, and what they ask for."""

import argparse
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
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

#: The most bytes of an answer.
LARGEST = 64 * 1024 * 1024


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is no answer: it mostly leads to a log-in, and would get the headers."""

    def redirect_request(self, *args: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


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
        raise ValueError(f"the URL of a view begins with http:// or https://: {options.address!r}")
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
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{options.address} does not answer: {error}") from None


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be from 0.1 to 3600 seconds, not {text!r}")
    return seconds
