"""The connections that count as ``worker_connections``: greenlets, and streams without one."""

from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet
from gevent.pool import Pool

from ..http.body import Body
from .sender import Sender

#: The function that a `Sender` calls at its end.
OnEnd = Callable[[Sender], object]


class Serving(Greenlet):
    """The greenlet of one connection."""

    #: The pool in which the connection has its place.
    pool: "Connections"

    #: The class of the app's last answer, or the code of a generator; None while there is none.
    answer: Any = None

    def serve_in(self, pool: "Connections") -> None:
        self.pool = pool

    def note_answer(self, answer: Any) -> None:
        self.answer = answer


def note_answer(answer: Any) -> None:
    """Note the *answer* of the app to the current request, for the log."""
    greenlet = gevent.getcurrent()
    if isinstance(greenlet, Serving):
        greenlet.note_answer(answer)


class Connections(Pool):
    """The connections that count as ``worker_connections``: greenlets, and streams without one."""

    def __init__(self, size: int) -> None:
        super().__init__(size, greenlet_class=Serving)
        #: Takes a sender's stream out. One function serves all streams of the pool.
        self.discard_stream: OnEnd = lambda sender: self.discard(sender.body)

    def hand_on(self, greenlet: Any, stream: Body) -> None:
        """Give the place of *greenlet* to *stream*. The place is never free in between."""
        # No other greenlet runs between the two calls, so none can take the place.
        self.discard(greenlet)
        self.add(stream)
