"""End a stream when its ticket expires."""

import time

from ..runtime.clock import clock
from ..runtime.loop import logger
from ..settings import draw
from ..stream import SseStream, flow_of
from ..timers import Timer, clear_timeout, set_timeout
from ..wire import come_back_block

#: Milliseconds between two looks at the wall clock. Somebody may set that clock.
LOOK_MS = 60_000.0


def end_at(sse_stream: SseStream, expires_at: float) -> None:
    """End *sse_stream* at *expires_at*, in seconds since 1970 by the wall clock.

    A wall clock that is set back does not let the stream live longer. Its client gets the waiting
    messages and a ``retry`` within ``retry_after``. A client that takes a clean end for the end of
    an answer (``on_shutdown``) is cut instead.
    """
    _Expiry(sse_stream, expires_at).begin()


class _Expiry:
    def __init__(self, sse_stream: SseStream, expires_at: float) -> None:
        self._stream = sse_stream
        self._expires_at = expires_at
        self._deadline = clock.now() + expires_at - time.time()
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Look at the clock until the stream is over."""
        self._stream.on("close", self._closed)
        self._look()

    def _look(self) -> None:
        left = min(self._expires_at - time.time(), self._deadline - clock.now())
        if self._stream.destroyed:
            return
        if left <= 0:
            self._end()
        else:
            self._timer = set_timeout(self._look, min(left * 1000, LOOK_MS))

    def _closed(self) -> None:
        if self._timer is not None:
            clear_timeout(self._timer)

    def _end(self) -> None:
        stream, flow = self._stream, flow_of(self._stream)
        connection, settings = flow.connection, flow.settings
        logger.info(
            "%s: ended, as its ticket has expired",
            "a stream of no request" if connection is None else connection.name,
        )
        if settings.on_shutdown in ("finish", "cut"):
            # Its client takes a clean end for the end of an answer.
            stream.destroy()
            return
        flow.write_uncounted(come_back_block(draw(settings.retry_after)))
        stream.end()
