"""The function of a ``@handler`` that the calling code belongs to, if it belongs to one.

Streams and timers are below handlers. They ask here for the function that uses them: a
function that writes too fast waits in ``write()``, and a timer keeps its response in use.
"""

import contextvars
from typing import Any


class Writer:
    """A running function, as streams and timers know it."""

    __slots__ = ()

    def wait_for(self, stream: Any, call_queue: object, bodies: list[Any]) -> None:
        """Wait while *stream* has no room. End the function if the client of both has left.

        *call_queue* is the queue of *stream*, and *bodies* are the bodies that it is piped into.
        """
        raise NotImplementedError

    def hold(self, timer: Any) -> None:
        """Note that the function has set *timer*."""
        raise NotImplementedError


_running: contextvars.ContextVar[Writer | None] = contextvars.ContextVar(
    "ssestream.runtime.writer", default=None
)


def running_writer() -> Writer | None:
    """The function that the calling code runs in, or None."""
    return _running.get()


def let_wait(stream: Any, call_queue: object, bodies: list[Any]) -> None:
    """Let the function that the calling code runs in wait for *stream*: see `Writer.wait_for`."""
    writer = _running.get()
    if writer is not None:
        writer.wait_for(stream, call_queue, bodies)


def enter_writer(context: contextvars.Context, writer: Writer) -> None:
    """Let all code that runs in *context* belong to *writer*."""
    context.run(_running.set, writer)
