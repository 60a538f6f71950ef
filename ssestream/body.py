"""What the server iterates: the frames of an `OutgoingMessage`, as they come.

When the client has left, it ends as if it were complete instead of raising: the
server's last few bytes then fail in the cut connection, which every server
takes quietly, while an exception would be reported by each middleware on its
way.
"""

import errno
from collections.abc import Iterator

from .buffer import Bell
from .clock import clock
from .compression import Gzip
from .diagnosis import held_back, may_be_held_back
from .outgoing import OutgoingMessage
from .uncopyable import Uncopyable


class Body(Uncopyable):
    """The WSGI iterable of one `OutgoingMessage`.

    It has no ``__len__``, from which servers would make a Content-Length.
    """

    _only_one = "what is taken from it is taken from its response"

    __slots__ = ("_begun", "_gzip", "_left", "_message", "_plain", "_written")

    def __init__(self, message: OutgoingMessage) -> None:
        self._message = message
        self._gzip: Gzip | None = None
        # What the kernel had been given before the first chunk was taken.
        self._written: int | None = None
        self._begun = False
        self._left = False
        # Whether chunks go as they are and the first one has been looked after.
        self._plain = False

    def compress(self) -> None:
        """Gzip what is taken from now on."""
        self._gzip = Gzip()

    def goes_alone(self) -> None:
        """Nothing is between it and the socket that could hold back what is taken."""
        self._begun = self._left = True

    @property
    def message(self) -> OutgoingMessage:
        """Whose it is."""
        return self._message

    @property
    def is_plain(self) -> bool:
        """Whether what is taken is what was put."""
        return self._gzip is None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        buffer = self._message._buffer
        # Being asked for more says that the last chunk is with the kernel.
        if buffer.taken_at:
            drained = buffer.give_back()
            if drained or not self._left:
                self._has_left(drained)
        if not self._plain and self._message._at_begin:
            self._message.begin()
        chunk = buffer.take()
        return chunk if chunk and self._plain else self._encoded(chunk)

    def take_now(self, bell: Bell) -> bytes:
        """The next chunk; empty while there is none, and then *bell* is rung when there is.

        For who does not wait in ``next()``. Raises ``StopIteration`` as that does.
        """
        chunk = self._message._buffer.take_now(bell)
        return chunk if chunk == b"" else self._encoded(chunk)

    def left(self) -> None:
        """The chunk taken last is with the kernel."""
        self._has_left(self._message._buffer.give_back())

    def _has_left(self, drained: bool) -> None:
        if not self._left:
            self._see_it_leave()
        if drained:
            message = self._message
            for inlet in message._inlets:
                inlet.drained()
            message._announce("drain")

    def _encoded(self, chunk: bytes | None) -> bytes:
        message = self._message
        if chunk is not None:
            if not self._begun:
                self._begin()
            if self._gzip is not None:
                return self._gzip.chunk(chunk)
            self._plain = True
            return chunk
        if self._gzip is not None and not message.closed:
            gzip, self._gzip = self._gzip, None
            # Its client may stall here, too.
            message._buffer.written_at = message._buffer.taken_at = clock.now()
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
        if connection is None or self._message._settings is None:
            return
        if may_be_held_back():
            self._written = connection.written()

    def _see_it_leave(self) -> None:
        self._left = True
        connection = self._message._connection
        if connection is not None and self._written is not None:
            written = connection.written()
            if written == self._written:
                held_back(connection)
