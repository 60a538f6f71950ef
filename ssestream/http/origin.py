"""The request that code runs for: its call queue, and its name in the log."""

import functools
from typing import Any

import flask

from ..runtime.calls import CallQueue
from ..runtime.forking import process
from ..runtime.frames import worker_of_gunicorn
from ..runtime.loop import current_loop, logger
from ..runtime.origin import Origin, running_origin

#: Origins that are kept. Most streams of a process have one of a few paths.
KEPT = 256

_CALL_QUEUE_KEY = "ssestream.call_queue"


def call_queue_of(environ: dict[str, Any]) -> CallQueue:
    """Return the call queue of a request, which its streams and its response share."""
    call_queue: CallQueue | None = environ.get(_CALL_QUEUE_KEY)
    if call_queue is None:
        call_queue = environ[_CALL_QUEUE_KEY] = CallQueue(current_loop(), origin_of(environ))
        if process.begin():
            process.listens(worker_of_gunicorn())
        if environ.get("wsgi.multiprocess"):
            process.has_others()
        if process.left_behind:
            _tell_left_behind()
    return call_queue


def _tell_left_behind() -> None:
    """Warn of what was begun before the server forked this process, and does not run here."""
    for what, how, again, names in process.take_left_behind():
        logger.warning(
            "a %s that was %s before this process was forked (gunicorn --preload) runs in the"
            " parent process only, and not here: %s. %s it in gunicorn's post_worker_init, or"
            " leave out --preload",
            what,
            how,
            ", ".join(names),
            again,
        )


def known_call_queue(environ: dict[str, Any]) -> CallQueue | None:
    """The call queue that `call_queue_of` has made for the request, or None."""
    call_queue: CallQueue | None = environ.get(_CALL_QUEUE_KEY)
    return call_queue


@functools.lru_cache(KEPT)
def _origin(path: str, endpoint: str | None) -> Origin:
    # A client may have chosen the path. repr() escapes what could begin another entry.
    view = "" if endpoint is None else f" (endpoint {endpoint!r})"
    return Origin(f"{path!r}{view}", {"path": path, "endpoint": endpoint})


def origin_of(environ: dict[str, Any]) -> Origin:
    """The origin of code that runs for the request of *environ*."""
    path = environ.get("PATH_INFO", "")
    if not path.isascii():
        # WSGI hands bytes over as Latin-1; a URL is UTF-8.
        path = path.encode("latin-1", "replace").decode("utf-8", "replace")
    # Flask's request has an endpoint, and Werkzeug's has none.
    return _origin(path, getattr(environ.get("werkzeug.request"), "endpoint", None))


def current_origin() -> Origin | None:
    """The origin of the calling code; None if it runs for no request."""
    if flask.has_request_context():
        return origin_of(flask.request.environ)
    return running_origin()
