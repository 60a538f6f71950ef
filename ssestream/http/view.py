"""End a stream with the Flask request that it was made with.

A view may make a stream and then not send it: the view raises, aborts, or returns something
else, or an ``after_request`` function replaces the response. Nobody would ever read or close such
a stream. Its subscriptions would go on, and its ``"close"`` handlers would never run.

The response decides when the stream ends:

* The stream is piped into the response, or is its body: the response ends the stream.
* The body is complete, such as a text, or browsers do not read a stream with this status: the
  stream ends at once.
* Any other body may be made from the stream: the stream ends when the body ends.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import flask
from flask.signals import request_finished

from ..plain import reader_of
from .async_view import cancelled_tasks, note_loop
from .diagnosis import cancelled_with_view, never_piped

# The proxy of the current request context. Since Flask 3.2 the app context is also the request
# context, and the old name is deprecated. Typed as Any, because type checkers take the proxy for
# its target.
_context: Any = vars(flask.globals).get("request_ctx", flask.globals.app_ctx)

#: Returns the context of the current request itself. Raises ``RuntimeError`` outside of requests.
#: A view may copy its context to another thread: then one request has several contexts.
current_context: Callable[[], Any] = reader_of(_context)

#: Returns the current request itself. Raises ``RuntimeError`` outside of requests.
current_request: Callable[[], Any] = reader_of(flask.request)

_KEY = "ssestream.streams"


class Belonging:
    """A stream that may belong to a request: the part that this module needs."""

    __slots__ = ()

    def is_carried_by(self, response: Any) -> bool:
        """Whether *response* sends the stream: it is piped in, or is the body."""
        raise NotImplementedError

    def is_forgotten_by(self, response: Any) -> bool:
        """Whether a view returned *response* and forgot to pipe the stream into it.

        A stream that was forgotten keeps a note of that.
        """
        raise NotImplementedError

    @property
    def waits_for_response(self) -> bool:
        """Whether the stream is open, and no server iterates it or has a response that sends it."""
        raise NotImplementedError

    def request_over(self) -> None:
        """End the stream, because its request is over and no response sends the stream."""
        raise NotImplementedError


def belong(environ: dict[str, Any], stream: Belonging) -> None:
    """End *stream* with its request, if *environ* is the environ of the current Flask request.

    Call it in a Flask request only.
    """
    note_loop(environ)
    context = current_context()
    if current_request().environ is environ:
        environ[_KEY] = (*environ.get(_KEY, ()), (context, stream))


def belongs(stream: Belonging) -> bool:
    """Whether *stream* belongs to the current Flask request, and its view has not returned yet."""
    if not flask.has_request_context():
        return False
    context = current_context()
    known = current_request().environ.get(_KEY, ())
    return any(owner is context and each is stream for owner, each in known)


def _take_streams() -> list[Belonging]:
    """Remove and return the streams that belong to the current request context."""
    context = current_context()
    environ = current_request().environ
    known = environ.pop(_KEY, None)
    if known is None:
        return []
    # A request context may be copied to another thread. Each context ends only its own streams.
    others = tuple(pair for pair in known if pair[0] is not context)
    if others:
        environ[_KEY] = others
    return [stream for owner, stream in known if owner is context]


def _answered(sender: object, response: Any, **extra: object) -> None:
    tasks = cancelled_tasks(current_request().environ)
    if tasks:
        cancelled_with_view(tasks)
    unsent = [stream for stream in _take_streams() if not stream.is_carried_by(response)]
    if not unsent:
        return
    # Call it for every stream, and not in any(): a forgotten stream also keeps a note of that.
    forgotten = [stream for stream in unsent if stream.is_forgotten_by(response)]
    if forgotten:
        never_piped()
    end_with(response, unsent)


def end_with(response: Any, unsent: list[Belonging]) -> None:
    """End the streams *unsent*, which *response* does not send: at once, or when its body ends."""
    if not unsent:
        return
    body = getattr(response, "response", None)
    end = functools.partial(end_all, unsent)
    complete = isinstance(body, (list, tuple, str, bytes, bytearray))
    if complete or not 200 <= response.status_code < 300:
        end()
    else:
        response.call_on_close(end)


def end_unanswered() -> None:
    """End the streams of the current request that got no response, or were made after it.

    Called when the request is torn down (see ``discarded``).
    """
    end_all(_take_streams())


def end_unsent(response: Any) -> None:
    """End the streams of the current request that *response*, which is over, did not send.

    Called when a function that ran on after its request has ended (see ``discarded``).
    """
    end_all(stream for stream in _take_streams() if not stream.is_carried_by(response))


def end_all(streams: Iterable[Belonging]) -> None:
    for stream in streams:
        stream.request_over()


request_finished.connect(_answered)
