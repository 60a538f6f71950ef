"""The arguments of ``python -m ssestream doctor``, and what they ask for."""

import argparse
import contextlib
import re
import shlex
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from ..brokers.url import shown
from ..header_option import header
from .app import examine_app, settings_of
from .broker import examine_broker
from .finding import Finding
from .nginx import examine_nginx
from .outside import WAIT, Outside, examine_reload, examine_url

HELP = """\
Asks for each URL as a browser does, and looks at the head, at the time of each event, at
heartbeats, at the end of the stream, and at a return with the last id. Give the app's own address
first, and then the address of each proxy before it: the first URL with a fault shows where the
fault is. Each finding says what was seen, why that matters, and what to change.

  python -m ssestream doctor http://127.0.0.1:8000/clock https://example.com/clock

Looks inside, too: at the app, at the configurations of gunicorn and nginx, and at the broker of
channels. Run it where the server runs, in the directory of the app, with the server's account and
environment.

  python -m ssestream doctor --app shop:app --gunicorn='-c gunicorn.conf.py' --broker redis://host

exit codes:
  0    no fault was found; there may be notes
  1    a fault was found
  2    wrong usage: an argument is wrong
  130  ended by Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    parser.add_argument("urls", nargs="*", metavar="URL", help="an event stream, http or https")
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
        "--wait",
        type=_seconds,
        default=WAIT,
        metavar="SECONDS",
        help=f"how long to listen to each stream (default: {WAIT:.0f}; a heartbeat comes after 15)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="take any certificate, as curl --insecure does"
    )
    parser.add_argument(
        "--reload",
        type=_pid,
        metavar="PID",
        help="send SIGHUP to gunicorn's master while a stream of the last URL is open. All open"
        " streams of that server end",
    )
    parser.add_argument(
        "--app", metavar="MODULE:APP", help="load the app, as gunicorn does, and look at its set-up"
    )
    parser.add_argument(
        "--gunicorn",
        metavar="='ARGUMENTS'",
        help="the arguments of gunicorn's command line, whose configuration is read",
    )
    parser.add_argument(
        "--nginx",
        metavar="FILE",
        help="the configuration of nginx, mostly /etc/nginx/nginx.conf, with all that it includes",
    )
    parser.add_argument("--broker", metavar="URL", help="the URL of the app's channels")


def examine(options: argparse.Namespace) -> Iterator[tuple[str, Iterator[Finding]]]:
    """What is examined, and the findings, which come as they are made.

    :raise ValueError: if nothing is asked for, or a URL is none.
    """
    if not options.urls and options.reload is not None:
        raise ValueError("--reload needs a URL, whose stream is open meanwhile")
    inside = (options.app, options.gunicorn, options.nginx, options.broker)
    if not options.urls and inside == (None,) * len(inside):
        raise ValueError("nothing to examine: give a URL, --app, --gunicorn, --nginx or --broker")
    for url in options.urls:
        _check(url)
    yield from _inside(options)
    context = ssl.create_default_context() if options.insecure else None
    if context is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    outside = Outside(options.headers, options.wait, context)
    for url in options.urls:
        yield url, examine_url(url, outside, is_last=url is options.urls[-1])
    if options.reload is not None:
        yield (
            f"a reload of process {options.reload}",
            examine_reload(options.urls[-1], options.reload, outside),
        )


def _inside(options: argparse.Namespace) -> Iterator[tuple[str, Iterator[Finding]]]:
    """The set-up: each part that *options* name."""
    workers, arguments = None, []
    if options.gunicorn is not None:
        arguments = shlex.split(options.gunicorn)
        try:
            from .gunicorn import examine_gunicorn, read_gunicorn
        except ImportError as error:
            raise ValueError(f"--gunicorn needs gunicorn in this environment: {error}") from error
        with contextlib.suppress(ValueError):  # which the findings say
            workers = read_gunicorn(arguments).workers
    if options.app is not None:
        yield f"the app {options.app}", iter(examine_app(options.app, workers))
    settings = None if options.app is None else settings_of(options.app)
    if options.gunicorn is not None:
        yield "gunicorn", iter(examine_gunicorn(arguments, settings))
    if options.nginx is not None:
        yield f"nginx, by {options.nginx}", iter(examine_nginx(options.nginx, settings))
    if options.broker is not None:
        # Without the URL, which may have a password.
        yield "the broker", iter(examine_broker(options.broker))


def _check(url: str) -> None:
    """Raise a ValueError unless *url* is the URL of a stream."""
    # It may be the URL of a broker, with a password.
    named = shown(url) if re.search("[@?%]", url) else repr(url)
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError(f"URL {named}: the host or its port is not valid") from None
    if not is_url or not url.isprintable() or " " in url:
        raise ValueError(f"a URL begins with http:// or https:// and a host, not as {named}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be seconds, above 0 and up to 3600, not {text!r}")
    return seconds


def _pid(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be the PID of gunicorn's master, not {text!r}")
    return int(text)
