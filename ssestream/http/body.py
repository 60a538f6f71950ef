"""Body: the server's end of a response, the iterable that yields its frames.

When the client has left, the iterable simply ends and does not raise. The server then
sends its last few bytes into a connection that is cut, and every server takes this
quietly. An exception would be reported by the server and by each middleware.
"""

import errno
from collections.abc import Iterator

from ..runtime.clock import clock
from ..runtime.uncopyable import Uncopyable
from .compression import Gzip
from .diagnosis import held_back, may_be_held_back, standard_way
from .outgoing import OutgoingMessage
from .output import Wakeable


class Body(Uncopyable):
    """The WSGI iterable of one `OutgoingMessage`.

    It has no ``__len__``, because servers would make a Content-Length of it.
    """

    _only_one = "what is taken from it is taken from its response"

    __slots__ = ("_begun", "_gzip", "_left", "_outgoing", "_plain", "_written")

    def __init__(self, outgoing: OutgoingMessage) -> None:
        self._outgoing = outgoing
        self._gzip: Gzip | None = None
        # Bytes that the kernel had before the first chunk. None if this stream is not examined
        # (see `diagnosis`).
        self._written: int | None = None
        self._begun = False
        self._left = False
        # Whether chunks need no encoding and the first one has passed `_encoded`.
        self._plain = False

    def compress(self) -> None:
        """Compress every later chunk with gzip."""
        self._gzip = Gzip()

    def goes_alone(self) -> None:
        """Say that chunks go straight to the socket, so that nothing can hold them back."""
        self._begun = self._left = True

    @property
    def outgoing(self) -> OutgoingMessage:
        """The response that this is the body of."""
        return self._outgoing

    @property
    def is_plain(self) -> bool:
        """Whether chunks are sent as they were written, without compression."""
        return self._gzip is None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        buffer = self._outgoing._buffer
        # The server asks for more, so the kernel has the last chunk.
        if buffer.taken_at:
            drained = buffer.mark_sent()
            if drained or not self._left:
                self._has_left(drained)
        if not self._plain and self._outgoing._at_begin:
            self._outgoing.begin()
        chunk = buffer.take()
        return chunk if chunk and self._plain else self._encoded(chunk)

    def take_nowait(self, waker: Wakeable) -> bytes:
        """The next chunk. Returns ``b""`` if none waits, and wakes *waker* when one does.

        For a reader that does not wait in ``next()``. Raises ``StopIteration`` at the end, as
        ``next()`` does.
        """
        chunk = self._outgoing._buffer.take_nowait(waker)
        return chunk if chunk == b"" else self._encoded(chunk)

    def left(self) -> None:
        """The kernel has the chunk that was taken last."""
        self._has_left(self._outgoing._buffer.mark_sent())

    def _has_left(self, drained: bool) -> None:
        if not self._left:
            self._see_it_leave()
        if drained:
            outgoing = self._outgoing
            for inlet in outgoing._inlets:
                inlet.drained()
            outgoing._emit_soon("drain")

    def _encoded(self, chunk: bytes | None) -> bytes:
        outgoing = self._outgoing
        if chunk is not None:
            if not self._begun:
                self._begin()
            if self._gzip is not None:
                return self._gzip.chunk(chunk)
            self._plain = True
            return chunk
        if self._gzip is not None and not outgoing.closed:
            gzip, self._gzip = self._gzip, None
            # Note the time: the client may also stall while it takes the end of the gzip data.
            outgoing._buffer.written_at = outgoing._buffer.taken_at = clock.now()
            return gzip.end()
        outgoing._close(outgoing._retired or "ended", finished=True)
        if outgoing._aborted and not outgoing._reachable:
            # Without a socket to cut, an exception is the only way to stop the server from
            # ending a broken stream like a complete one.
            raise ConnectionResetError(errno.ECONNRESET, "the stream was destroyed")
        raise StopIteration

    def close(self) -> None:
        """The server is done with the body (PEP 3333). Runs the handlers that wait."""
        self._outgoing.server_done()

    def _begin(self) -> None:
        self._begun = True
        connection = self._outgoing._connection
        if connection is None or self._outgoing._settings is None:
            return
        standard_way(self._outgoing)
        if may_be_held_back():
            self._written = connection.written()

    def _see_it_leave(self) -> None:
        self._left = True
        connection = self._outgoing._connection
        if connection is not None and self._written is not None:
            written = connection.written()
            if written == self._written:
                held_back(connection)
