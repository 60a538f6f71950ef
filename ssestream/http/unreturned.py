"""End a response that was made for a request and never sent.

The view raises later, or another response takes its place. Then the response emits ``close`` at
the end of the request.
"""

from typing import Any

import flask
from flask.signals import request_tearing_down

from .view import current_context

# In an environ: the responses that were made for the request, each with its request context.
_KEY = "ssestream.responses"


def made(environ: dict[str, Any], response: Any) -> None:
    """End *response* with the current request context, if it is not sent before."""
    environ[_KEY] = (*environ.get(_KEY, ()), (current_context(), response))


def sent(environ: dict[str, Any], response: Any) -> None:
    """Forget *response*, which the server has, if it is the only one that was made."""
    known = environ.get(_KEY)
    if known is not None and len(known) == 1 and known[0][1] is response:
        del environ[_KEY]


def _close_unsent(sender: object, **extra: object) -> None:
    context = current_context()
    environ = flask.request.environ
    known = environ.pop(_KEY, None)
    if known is None:
        return
    # A request context may be copied to another thread. Each context ends only its own responses.
    others = tuple(pair for pair in known if pair[0] is not context)
    if others:
        environ[_KEY] = others
    for whose, response in known:
        if whose is context and not response.headers_sent:
            response.close()


request_tearing_down.connect(_close_unsent)
