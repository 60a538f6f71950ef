"""A stream that is made with a request belongs to it, and ends with it.

A view may begin a stream and then refuse: it raises, it aborts, it returns something
else, an ``after_request`` puts another answer in its place. Nobody would ever read such a
stream or close it, and what it follows, and what was to end with it, would go on.

Of the answer that is sent, three kinds matter:

* a response that the stream is piped into, or whose body the stream is: it ends the stream;
* a body that is complete, such as a text, or a status that no browser reads a stream
  of: the stream is of no more use;
* any other body may be made of the stream, which ends when the body does.
"""

import functools
from typing import Any, Protocol

import flask
from flask.globals import request_ctx
from flask.signals import request_finished, request_tearing_down

# To its type the proxy is what it stands for, and has no such method.
_request_context: Any = request_ctx

_KEY = "ssestream.streams"


class Belonging(Protocol):
    """The stream, as far as its request knows it."""

    def _leads_to(self, response: object) -> bool:
        """Whether it is piped into *response*."""

    def _request_over(self) -> None:
        """Its request is over, and has not sent it."""


def belong(environ: dict[str, Any], stream: Belonging) -> None:
    """*stream* was made with the request of *environ*: if that is Flask's, end it with it."""
    if not flask.has_request_context():
        return
    context = _request_context._get_current_object()
    if context.request.environ is environ:
        environ[_KEY] = (*environ.get(_KEY, ()), (context, stream))


def _take_streams() -> list[Belonging]:
    """Those of the current request, which it knows no more."""
    context = _request_context._get_current_object()
    environ = context.request.environ
    known = environ.pop(_KEY, None)
    if known is None:
        return []
    # Of a request that was copied to another thread, each ends what is its own.
    others = tuple(pair for pair in known if pair[0] is not context)
    if others:
        environ[_KEY] = others
    return [stream for whose, stream in known if whose is context]


def _answered(sender: object, response: Any, **extra: object) -> None:
    body = getattr(response, "response", None)
    left = [
        stream
        for stream in _take_streams()
        if stream is not body and not stream._leads_to(response)
    ]
    if not left:
        return
    end = functools.partial(_end, left)
    complete = isinstance(body, (list, tuple, str, bytes, bytearray))
    if complete or not 200 <= response.status_code < 300:
        end()
    else:
        response.call_on_close(end)


def _over(sender: object, **extra: object) -> None:
    # There was no answer, or it was not known any more.
    _end(_take_streams())


def _end(streams: list[Belonging]) -> None:
    for stream in streams:
        stream._request_over()


request_finished.connect(_answered)
request_tearing_down.connect(_over)
