"""End a response that was made for a request and discarded: the server never gets it.

The view raises later, or another response takes its place. The discarded response then emits
``close`` at the end of the request.
"""

from typing import Any

from flask.signals import request_tearing_down

from .view import current_context, current_request, end_unanswered, end_unsent

# In an environ: the responses that were made for the request, each with its request context.
_KEY = "ssestream.responses"


def made(environ: dict[str, Any], response: Any) -> None:
    """End *response* when the current request context ends, unless it is sent before."""
    environ[_KEY] = (*environ.get(_KEY, ()), (current_context(), response))


def sent(environ: dict[str, Any], response: Any) -> None:
    """Forget *response*, because the server has it. Does nothing if the view made several."""
    known = environ.get(_KEY)
    if known is not None and len(known) == 1 and known[0][1] is response:
        del environ[_KEY]


def end_late(response: Any) -> None:
    """End what was made for the current request after its teardown, and is not sent.

    Called when *response*, the answer to the request, is over.
    """
    end_unsent(response)
    _close_unsent()


def _tear_down(sender: object, **extra: object) -> None:
    # One receiver for streams and responses: each call of a receiver takes several microseconds.
    end_unanswered()
    _close_unsent()


def _close_unsent() -> None:
    context = current_context()
    environ = current_request().environ
    known = environ.pop(_KEY, None)
    if known is None:
        return
    # A request context may be copied to another thread. Each context ends only its own responses.
    others = tuple(pair for pair in known if pair[0] is not context)
    if others:
        environ[_KEY] = others
    for owner, response in known:
        if owner is context and not response.headers_sent:
            response.close()


request_tearing_down.connect(_tear_down)
