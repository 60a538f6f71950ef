"""Warn of a view that writes for long before it returns.

A WSGI server gets a response when the view returns it, and sends nothing before. Code that was
written for Express often loops and writes in the view, and its client gets nothing. Only writes in
the context of the request count: a timer may write while the view still prepares something.

A response that the server has costs nothing here: its buffer is an ordinary `OutputBuffer`.
"""

from typing import Any

import flask

from ..runtime.clock import clock
from .diagnosis import view_writes_on
from .origin import known_call_queue
from .output import OutputBuffer
from .view import Belonging, belongs

#: Seconds for which a view may write before it returns.
LONG = 1.0

#: In an environ: when its view first wrote.
_SINCE_KEY = "ssestream.written_since"


class UnreturnedBuffer(OutputBuffer):
    """The buffer of a response until its view has returned it; see `returned`.

    A class of its own, so that the buffer of an open stream has nothing to check. Another thread
    may make the buffer an ordinary one while a method here runs: the methods use no `super` and
    nothing that only this class has.
    """

    __slots__ = ()

    def put(self, frame: bytes) -> bool:
        _look(self._lock)
        return OutputBuffer.put(self, frame)

    def put_if_clear(self, frame: bytes, messages: int) -> bool:
        # A frame without a message is the library's own.
        if messages:
            _look(self._lock)
        return OutputBuffer.put_if_clear(self, frame, messages)

    def look(self) -> None:
        """Warn if the view of this response writes now, and has written for long."""
        _look(self._lock)

    def become_ordinary(self) -> None:
        self.__class__ = OutputBuffer  # type: ignore[assignment]


def _look(lock: Any) -> None:
    """Warn if the view of the response with this *lock* writes now, and has written for long."""
    if flask.has_request_context():
        environ = flask.request.environ
        call_queue = known_call_queue(environ)
        # A request and its response share a lock.
        if call_queue is not None and call_queue.lock is lock:
            _written(environ)


def returned(buffer: OutputBuffer) -> None:
    """Let *buffer* be an ordinary `OutputBuffer`: the server has its response."""
    if type(buffer) is UnreturnedBuffer:
        buffer.become_ordinary()


def look_at_queue(stream: Belonging, pipes: tuple[Any, ...]) -> None:
    """Warn if a view writes for long into the queue of *stream*, which has these *pipes*."""
    for pipe in pipes:
        buffer = pipe.buffer
        if type(buffer) is UnreturnedBuffer:
            UnreturnedBuffer.look(buffer)
            return
    if not pipes and belongs(stream):
        _written(flask.request.environ)


def _written(environ: dict[str, Any]) -> None:
    now = clock.real()
    if now - environ.setdefault(_SINCE_KEY, now) > LONG:
        view_writes_on()
