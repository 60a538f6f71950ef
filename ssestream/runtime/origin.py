"""The origin of code that runs later: what the log says of it when it fails.

A handler, a callback, a source or a timer runs after its request is over. Without an origin,
the log could not say to which view a failure belongs.
"""

import contextvars
from typing import Any, NamedTuple

from .loop import logger


class Origin(NamedTuple):
    """The request that code runs for. The log needs no more of it than this."""

    #: The request in a line of the log.
    text: str
    #: The attributes of the log record, for formatters and services that collect errors.
    attributes: dict[str, str | None]


# A timer has the origin of the code that sets it.
_running: contextvars.ContextVar[Origin | None] = contextvars.ContextVar(
    "ssestream.runtime.origin", default=None
)


def running_origin() -> Origin | None:
    """The origin that `enter` has given to the calling code; None if there is none."""
    return _running.get()


def enter(context: contextvars.Context, origin: Origin | None) -> None:
    """Give *origin* to all code that runs in *context*."""
    if origin is not None:
        context.run(_running.set, origin)


def log_failure(origin: Origin | None, text: str, *args: object, exc_info: Any = True) -> None:
    """Log at ERROR that code of *origin* has failed."""
    if origin is None:
        logger.error(text, *args, exc_info=exc_info)
    else:
        logger.error("%s: " + text, origin.text, *args, exc_info=exc_info, extra=origin.attributes)
