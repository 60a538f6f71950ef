"""Why channels end a stream, and the end itself."""

from ..runtime.loop import logger
from ..stream import SseStream, flow_of

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
