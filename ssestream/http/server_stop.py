"""What the stop of a server does to open streams, where an app must know or do something."""

import signal
import sys
from pathlib import Path
from typing import Any

from ..runtime.frames import callers, is_of_gunicorn, module_of

#: Servers that end with their process at SIGTERM, by the module whose code calls the app.
_END_AT_SIGTERM = {
    "cheroot.workers.threadpool": "cheroot",
    "gevent.pywsgi": "gevent.pywsgi",
    "waitress.task": "waitress",
}

_CUTS = " cuts open streams when it stops or reloads"

#: What the app's developer can do.
_CALL = "Let the app end them first"
_NOTHING = "An app cannot end them first there"
_HOOK = (
    "Use -k ssestream.gunicorn.SseWorker, or import post_worker_init of ssestream.gunicorn in"
    " gunicorn.conf.py"
)


def cut_at_stop(keeper: str | None, cooperative: bool) -> tuple[str, str] | None:
    """What the stop of the server of the calling thread does to open streams, and what to do.

    None if the app has installed a function that may end them first, and on any other server.

    :param keeper: the server, if it keeps the client's socket to itself.
    :param cooperative: whether the server runs greenlets.
    """
    if keeper == "granian":
        return "granian waits for open streams when it stops, and may cut them", _NOTHING
    # mod_wsgi and uWSGI make these modules in their own processes. They are on no disk.
    if keeper == "mod_wsgi":
        functions = getattr(sys.modules.get("mod_wsgi"), "shutdown_callbacks", None)
        return None if functions else (keeper + _CUTS, _CALL)
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is not None:
        if not cooperative:
            return "uWSGI without --gevent" + _CUTS, _NOTHING
        return None if hasattr(uwsgi, "atexit") else ("uWSGI" + _CUTS, _CALL)
    handler = signal.getsignal(signal.SIGTERM)
    if is_of_gunicorn(getattr(handler, "__self__", None)):
        stopping: Any = sys.modules.get("ssestream.gunicorn.stopping")
        is_known = stopping is not None and stopping.ends_streams()
        return None if is_known else ("gunicorn's worker" + _CUTS, _HOOK)
    if not _catches_sigterm():
        for frame in callers():
            server = _END_AT_SIGTERM.get(module_of(frame))
            if server is not None:
                return server + _CUTS, _CALL
    return None


def _catches_sigterm() -> bool:
    """Whether a function of this process is called at SIGTERM. True where that is not known."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return True
    # gevent and others install a handler behind Python's back.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return True
    caught = status.partition("SigCgt:")[2].split(maxsplit=1)
    return not caught or bool(int(caught[0], 16) >> signal.SIGTERM - 1 & 1)
