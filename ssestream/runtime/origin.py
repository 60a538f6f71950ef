"""The request that opened a stream, for what the log says of an app's failures.

A handler, a callback, a source or a timer runs when its request is over, so nothing that
reports errors could say otherwise which view the failure belongs to.
"""

import contextvars
import functools
from typing import Any, NamedTuple

import flask

from .loop import logger

#: Origins that are kept. Most streams of a process have one of a few paths.
KEPT = 256


class Origin(NamedTuple):
    """One for all requests with the same path and endpoint."""

    path: str
    #: The name of the view; None outside of Flask.
    endpoint: str | None

    def __str__(self) -> str:
        # A client may have chosen the path. repr() escapes what could begin another entry.
        view = "" if self.endpoint is None else f" (endpoint {self.endpoint!r})"
        return f"{self.path!r}{view}"


_origin = functools.lru_cache(KEPT)(Origin)

# What runs for a request that is over; a timer that it sets has the same origin.
_running: contextvars.ContextVar[Origin | None] = contextvars.ContextVar(
    "ssestream.runtime.origin", default=None
)


def origin_of(environ: dict[str, Any]) -> Origin:
    """That of the request of *environ*."""
    path = environ.get("PATH_INFO", "")
    if not path.isascii():
        # WSGI hands bytes over as Latin-1; a URL is UTF-8.
        path = path.encode("latin-1", "replace").decode("utf-8", "replace")
    # Flask's request has an endpoint, and Werkzeug's has none.
    return _origin(path, getattr(environ.get("werkzeug.request"), "endpoint", None))


def current_origin() -> Origin | None:
    """That of the code that runs now; None where it runs for no request."""
    if flask.has_request_context():
        return origin_of(flask.request.environ)
    return _running.get()


def enter(context: contextvars.Context, origin: Origin | None) -> None:
    """Let what is run in *context* have *origin*."""
    if origin is not None:
        context.run(_running.set, origin)


def log_failure(origin: Origin | None, text: str, *args: object, exc_info: Any = True) -> None:
    """Say at ERROR what went wrong, and for which request.

    The record has ``path`` and ``endpoint``, too, for formatters and services that
    collect errors.
    """
    if origin is None:
        logger.error(text, *args, exc_info=exc_info)
    else:
        logger.error("%s: " + text, origin, *args, exc_info=exc_info, extra=origin._asdict())
