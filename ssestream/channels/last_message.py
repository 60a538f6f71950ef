"""The last message of a channel or a run that somebody produces: what its end was."""

from collections.abc import Callable
from typing import Literal

from ..config import app_dumps
from ..runtime.origin import log_failure
from ..wire import Message, encode

#: How what is produced goes on or has ended.
Status = Literal["running", "done", "failed", "stopped", "lost"]

#: A function that makes the last message from the status and the exception, if any.
Last = Callable[[Status, BaseException | None], Message | None]


def last_message(status: Status, error: BaseException | None) -> Message | None:
    """The usual last message: an event with the name of the status. It tells nothing of *error*."""
    return {"event": status, "data": ""}


def last_frame(last: Last, status: Status, error: BaseException | None) -> bytes | None:
    """What *last* makes, serialised; None for no message.

    If *last* fails, also with an exception that is no ``Exception``, the failure is logged, and the
    frame is that of `last_message`: something has ended, and its watchers must be told.
    """
    for make in (last, last_message):
        try:
            message = make(status, error)
            return None if message is None else encode(message, app_dumps())
        except BaseException:  # gevent.Timeout is not an Exception
            log_failure(None, "the last message could not be made by %r", make)
    return None
