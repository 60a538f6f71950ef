"""Iterables that a middleware puts around a body without changing it, and the body inside.

`gunicorn.SseWorker` may take a body out of such an iterable and send it itself.

An iterable belongs here if it hands on each chunk as it comes, and if its ``close()`` may be
called from another greenlet than that of the request.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Unwrapped(NamedTuple):
    """What was found in an iterable."""

    #: The innermost iterable that is known.
    body: object
    #: The iterable whose ``close()`` is still to be called when the body is over (PEP 3333).
    #: The body itself, if nothing around it is to be closed.
    owed: Any


class _Kind(NamedTuple):
    """What is known of a class of iterables."""

    inside: Callable[[Any], object]
    #: Whether its ``close()`` does more than close what is inside.
    closes_more: Callable[[Any], bool]


#: By the module and the name of the class. Names and no classes, since few of these packages are
#: installed at once. A subclass may do more than its parent, and is left alone.
_KINDS = {
    # Its scope holds the whole request. Some versions end a transaction in close() and have
    # more slots for that.
    ("sentry_sdk.integrations.wsgi", "_ScopedResponse"): _Kind(
        lambda outer: outer._response,
        lambda outer: set(type(outer).__slots__) != {"_response", "_scope"},
    ),
    ("werkzeug.wsgi", "ClosingIterator"): _Kind(
        lambda outer: outer._next.args[0], lambda outer: True
    ),
}

#: Iterables around iterables, at most.
_DEPTH = 10


def unwrapped(iterable: object) -> Unwrapped:
    """What is inside *iterable*: *iterable* itself if its class is not known."""
    owed = None
    for _ in range(_DEPTH):
        kind = _KINDS.get((type(iterable).__module__, type(iterable).__qualname__))
        if kind is None:
            break
        try:
            inside, closes_more = kind.inside(iterable), kind.closes_more(iterable)
        except (AttributeError, IndexError):  # a version that keeps it elsewhere
            break
        if owed is None and closes_more:
            owed = iterable
        iterable = inside
    return Unwrapped(iterable, iterable if owed is None else owed)
