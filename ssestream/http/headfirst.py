"""How to send the head of a response before there is a body."""

import itertools
from collections.abc import Iterator
from typing import Any

#: The modules of servers whose ``write()`` sends the head. An empty first chunk of the body
#: does not have this effect on all of them.
_SERVERS = ("gunicorn.", "gevent.", "werkzeug.serving", "wsgiref.", "waitress.", "cheroot.")


def is_of_server(write: Any) -> bool:
    """Whether *write* comes from a server and not from a middleware.

    If a middleware that captures a response gets a call of ``write()``, it takes this for
    the app's way to send the whole body (PEP 3333). Then it waits for the end of the
    stream. WebOb's and Pyramid's do so.
    """
    return callable(write) and str(getattr(write, "__module__", "")).startswith(_SERVERS)


class HeadFirst:
    """A body with an empty first chunk. Most servers send the head when they get it."""

    def __init__(self, body: Any) -> None:
        self._chunks = itertools.chain((b"",), body)
        self.close = body.close

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks
