"""Find the client's socket in the environ of a request, on each server."""

import sys
from collections.abc import Mapping
from typing import Any

from ..runtime.loop import logger
from .hangup import fileno
from .lent_socket import LentSocket

# The keys of the environ under which servers put the socket: gunicorn's gevent, gthread and
# sync workers, its gevent_pywsgi worker, Werkzeug's development server.
_ENVIRON_KEYS = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")

# gunicorn puts this key into the environ of an HTTP/2 request. The socket of such a request
# also carries other requests, so it must not be watched or cut.
_HTTP2_KEY = "gunicorn.http2.send_trailers"

# waitress puts a method of its channel under this key. The channel has the socket.
_WAITRESS_KEY = "waitress.client_disconnected"

_UWSGI_KEY = "uwsgi.version"

_MOD_WSGI_KEY = "mod_wsgi.version"


def find_socket(environ: Mapping[str, Any]) -> Any:
    """The client's socket of *environ*. None where the server keeps it out of reach."""
    if _HTTP2_KEY in environ:
        return None
    for key in _ENVIRON_KEYS:
        if _is_socket(environ.get(key)):
            return environ[key]
    # gevent.pywsgi and wsgiref put the file of the request's body into the environ. There is
    # a socket inside this file.
    source = environ.get("wsgi.input")
    for reader in (getattr(source, "rfile", None), source):
        sock = getattr(getattr(reader, "raw", None), "_sock", None)
        if _is_socket(sock):
            return sock
    fd = _descriptor_of(environ)
    if fd >= 0:
        try:
            return LentSocket(fd)
        except OSError:  # closed just now
            pass
    logger.debug("no client socket in the environ of %r", environ.get("SERVER_SOFTWARE"))
    return None


def keeper_of_socket(environ: Mapping[str, Any]) -> str | None:
    """The server of *environ*, if it gives out no socket at all. None for every other server."""
    if _MOD_WSGI_KEY in environ:
        return "mod_wsgi"
    return "granian" if environ.get("SERVER_SOFTWARE") == "Granian" else None


def _descriptor_of(environ: Mapping[str, Any]) -> int:
    """The descriptor of a socket that the server closes by itself; -1 if there is none."""
    if _WAITRESS_KEY in environ:
        channel = getattr(environ[_WAITRESS_KEY], "__self__", None)
        return fileno(getattr(channel, "socket", None))
    # uWSGI makes this module in its own processes, and it is on no disk. It knows the request
    # by the calling thread or greenlet.
    uwsgi: Any = sys.modules.get("uwsgi") if _UWSGI_KEY in environ else None
    return -1 if uwsgi is None else int(uwsgi.connection_fd())


def _is_socket(value: Any) -> bool:
    return hasattr(value, "setsockopt") and fileno(value) >= 0
