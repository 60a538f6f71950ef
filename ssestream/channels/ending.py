"""Why channels end a stream, and when: a stream goes on while one of its channels goes on."""

from collections.abc import Iterable

from ..runtime.loop import logger
from ..stream import SseStream, flow_of
from .cursor import Cursor
from .tail import Tails

#: Reasons in the log for the end of a stream. The name of the channel follows.
WAS_CUT = "cut() took away its access to the channel"
MAY_BE_CUT = "entries that are lost may have taken away its access to the channel"
UNHEARD_CUT = "it subscribed while the broker was away, and may have lost its access to the channel"
WAS_CLOSED = "close_channel() ended the streams of the channel"
HAS_ENDED = "each of its channels has ended, the last of them"
UNHEARD_CLOSE = "it subscribed while the broker was away, and may have missed the end of"


def end(stream: SseStream, why: str, name: str | None) -> None:
    """End *stream*. *why* is the reason for the log, and *name* the channel concerned, if any."""
    if not stream.destroyed:
        connection = flow_of(stream).connection
        logger.info(
            "%s: ended, as %s%s",
            "a stream of no request" if connection is None else connection.name,
            why,
            "" if name is None else f" {name!r}",
        )
    stream.end()


def note_end(tails: Tails, cursor: Cursor) -> None:
    """Note that *cursor* has passed the end of its log, and end its stream if that was the last."""
    with tails.lock:
        tail = tails.of(cursor)
        if tail is not None:
            tail.finish(cursor)
    end_if_over(tails, cursor)


def end_if_over(tails: Tails, cursor: Cursor) -> None:
    """End the stream of *cursor* if all its channels have ended. The log names that of *cursor*."""
    subscription = cursor.subscription
    # The view may be about to follow the channels that are carried.
    if subscription.carried or subscription.closed:
        return
    if have_finished(tails, subscription.cursors):
        # With the id that comes before the end, the client gets the answer that there is nothing
        # more.
        subscription.end_stream(HAS_ENDED, cursor.name)


def have_finished(tails: Tails, cursors: Iterable[Cursor]) -> bool:
    """Whether each of *cursors* has passed the end of its log."""
    with tails.lock:
        pairs = [(tails.of(each), each) for each in cursors]
        return all(tail is not None and tail.has_finished(each) for tail, each in pairs)
