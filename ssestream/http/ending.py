"""Ending: what the end of a response means to its client, as functions without state.

A client of a feed takes a clean end for "come back later", and comes back. A client that reads an
answer takes a clean end for the end of the answer. The setting ``on_shutdown`` says which of the
two a stream is. So the end of an answer that is not whole must be a cut: a connection that breaks
before the last chunk.
"""

import re
from collections.abc import Iterable, Sequence

from ..settings import Settings, draw
from ..wire import come_back_block, encode
from .registry import BREAKING, Cause

# A block with only an id, or the beginning of any other id.
_FIRST_ID = re.compile(rb"\n\n(id: [^\r\n]*\n\n)|[\r\n]id[:\r\n]")


def is_answer(settings: Settings) -> bool:
    """Whether the client takes a clean end for the end of an answer."""
    return settings.on_shutdown in ("finish", "cut")


def is_cut(cause: Cause | None, settings: Settings) -> bool:
    """Whether a response that ends for *cause* is cut when all that waits is sent.

    With None, nothing but the app ends the response. Such an end is clean.
    """
    return cause in BREAKING or (cause == "refused" and is_answer(settings))


def cause_of_whole(cause: Cause) -> Cause:
    """The cause for which a response ends that is whole, although *cause* should end it.

    A whole response is not broken off. So a breaking cause becomes a clean one.
    """
    if cause in BREAKING:
        return "shutdown" if cause == "interrupted" else "ended"
    return cause


def last_block(
    cause: Cause, settings: Settings, is_whole: bool, dropped: Sequence[bytes | memoryview]
) -> bytes:
    """The bytes that the client gets last. No bytes if the end says everything.

    *is_whole* is whether the app has ended the response. *dropped* are the frames that a refused
    client does not get. It needs their first id when it comes back, unless an event has it.
    """
    if cause == "interrupted":
        message = settings.interrupted
        if message is None:
            return b""
        return message if isinstance(message, bytes) else encode(message)
    if cause in BREAKING or is_whole:
        return b""
    return _first_id_block(dropped) + come_back_block(draw(settings.retry_after))


def _first_id_block(frames: Iterable[bytes | memoryview]) -> bytes:
    """The block of the first id in *frames*, if it has only an id. No bytes if an event has it."""
    found = _FIRST_ID.search(b"\n\n" + b"".join(frames))
    return (found and found[1]) or b""
