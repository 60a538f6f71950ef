"""What the server iterates: the frames of an `OutgoingMessage`, as they come.

When the client has left, it ends as if it were complete instead of raising: the
server's last few bytes then fail in the cut connection, which every server
takes quietly, while an exception would be reported by each middleware on its
way.
"""

import errno
import time
from collections.abc import Iterator

from .compression import Gzip
from .diagnosis import held_back
from .outgoing import OutgoingMessage
from .statistics import books


class Body:
    """The WSGI iterable of one `OutgoingMessage`.

    It has no ``__len__``, from which servers would make a Content-Length.
    """

    def __init__(self, message: OutgoingMessage) -> None:
        self._message = message
        self._gzip: Gzip | None = None
        # What the kernel had been given before the first chunk was taken.
        self._written: int | None = None
        self._begun = False
        self._left = False

    def compress(self) -> None:
        """Gzip what is taken from now on."""
        self._gzip = Gzip()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        message = self._message
        # Being asked for more says that the last chunk is with the kernel.
        frames, length, drained = message._buffer.give_back()
        if length:
            books.count(messages=frames, bytes=length)
            if not self._left:
                self._see_it_leave()
        if drained:
            for inlet in message._inlets[:]:
                inlet.drained()
            message._announce("drain")
        chunk = message._buffer.take()
        if chunk is not None:
            if not self._begun:
                self._begin()
            return chunk if self._gzip is None else self._gzip.chunk(chunk)
        if self._gzip is not None and not message.closed:
            gzip, self._gzip = self._gzip, None
            # Its client may stall here, too.
            message._buffer.written_at = message._buffer.taken_at = time.monotonic()
            return gzip.end()
        message._close(message._retired or "ended", finished=True)
        if message._aborted and not message._reachable:
            # With no socket to cut, only an exception keeps the server from
            # ending a broken stream as if it were whole.
            raise ConnectionResetError(errno.ECONNRESET, "the stream was destroyed")
        raise StopIteration

    def close(self) -> None:
        """The server is done (PEP 3333). Runs what is left of the handlers."""
        self._message.server_done()

    def _begin(self) -> None:
        self._begun = True
        connection = self._message._connection
        if connection is not None and self._message._settings is not None:
            self._written = connection.written()

    def _see_it_leave(self) -> None:
        self._left = True
        connection = self._message._connection
        if connection is not None and self._written is not None:
            written = connection.written()
            if written == self._written:
                held_back(connection)
