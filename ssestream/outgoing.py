"""The sending half of a connection: Node's OutgoingMessage, as a WSGI iterable.

An `OutgoingMessage` is written to by anybody; its `Body` is what the server
iterates. Three things can happen to one, each at any time and from any thread:

========================  ======================================================
``end()``                 what waits is sent, then ``finish``, then ``close``
the client leaves         what waits is dropped, ``close``
``destroy()``             what waits is dropped, the connection cut, (``error``,) ``close``
the server closes early   as when the client leaves
========================  ======================================================

``close`` comes exactly once. All of it goes through `OutgoingMessage._close`.

When the client has left, the body ends as if it were complete instead of
raising: the server's last few bytes then fail in the cut connection, which
every server takes quietly, while an exception would be reported by each
middleware on its way.
"""

import errno
import time
from collections.abc import Callable, Iterator
from types import EllipsisType

from .buffer import FrameBuffer
from .connection import Connection
from .errors import WriteAfterEnd
from .events import Emitter, Lane
from .heartbeat import BEAT, Entry, heart_of
from .hub import current_home, new_lock

#: Bytes that may wait before ``write()`` says False: Node's default for streams
#: of bytes up to version 20 (it is 64 KiB since 22), and the usual size of one
#: TLS record.
HIGH_WATER_MARK = 16 * 1024


class OutgoingMessage(Emitter):
    """What ``res`` is to a stream that is piped into it.

    Emits ``drain``, ``finish``, ``close``, ``error``, and ``pipe`` and
    ``unpipe`` with the source.
    """

    def __init__(self, lane: Lane | None = None, high_water_mark: int = HIGH_WATER_MARK) -> None:
        super().__init__(lane or Lane(current_home()))
        self._state_lock = new_lock()
        self._buffer = FrameBuffer(high_water_mark)
        self._connection: Connection | None = None
        self._reachable = True
        # Seconds of silence before a beat; None for none; ... while no stream
        # has said.
        self._heartbeat: float | EllipsisType | None = ...
        self._heart: Entry | None = None
        self._last_write = 0.0
        self._mid_line = False
        self._ended = False
        self._finished = False
        self._closed = False
        self._aborted = False
        # Called at once and not in an event's turn, as streams that are piped
        # in must know before any handler runs.
        self._at_open: list[Callable[[], object]] = []
        self._at_drain: list[Callable[[], object]] = []
        self._at_close: list[Callable[[], object]] = []

    @property
    def headers_sent(self) -> bool:
        """Whether status and headers are the server's already."""
        return self._connection is not None

    @property
    def writable_length(self) -> int:
        """Bytes written that the kernel has not got yet."""
        return self._buffer.length

    @property
    def writable_high_water_mark(self) -> int:
        """Bytes from which on `write` says False."""
        return self._buffer.high_water_mark

    @property
    def writable_need_drain(self) -> bool:
        """Whether ``drain`` is to come."""
        return self._buffer.need_drain

    @property
    def writable_ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    @property
    def writable_finished(self) -> bool:
        """Whether everything was sent, which ``finish`` tells."""
        return self._finished

    @property
    def closed(self) -> bool:
        """Whether ``close`` was or is about to be emitted."""
        return self._closed

    @property
    def destroyed(self) -> bool:
        """The same: as in Node, a stream that has ended destroys itself."""
        return self._closed

    def write(self, chunk: bytes | str) -> bool:
        """Queue *chunk*; text is sent as UTF-8. Never blocks.

        False once `writable_high_water_mark` bytes wait (write again after
        ``drain``), and after the client has left. Raises `WriteAfterEnd` after
        `end`, ``TypeError`` for anything but bytes and str. Node's
        ``response.write``.
        """
        data = _bytes(chunk)
        if self._ended:
            raise WriteAfterEnd("write() after end()")
        if self._closed:
            return False
        # An empty chunk would be the end of a chunked body to some servers.
        if not data:
            return not self._buffer.need_drain
        self._last_write = time.monotonic()
        # No beat may come between the two halves of a line, from whatever thread.
        mid_line = not data.endswith(b"\n")
        self._mid_line = self._mid_line or mid_line
        flowing = self._buffer.put(data)
        self._mid_line = mid_line
        return flowing

    def end(self, chunk: bytes | str | None = None) -> None:
        """No more writes: what is queued is sent, then the response ends.

        Raises `WriteAfterEnd` for a *chunk* after an earlier `end`. Node's
        ``response.end``.
        """
        if chunk is not None:
            self.write(chunk)
        self._ended = True
        self._buffer.end()

    def destroy(self, error: BaseException | None = None) -> None:
        """Drop what is queued and cut the connection.

        Emits ``error`` with *error* unless that is None, then ``close``. The
        client sees a broken transfer. Node's ``response.destroy``.
        """
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {type(error).__name__}")
        self._close(aborted=True, cut=True, error=error)

    def open(self, connection: Connection) -> None:
        """The server starts to send, over *connection*, what it takes from the `Body`."""
        self._connection = connection
        if self.closed:
            connection.release(cut=self._aborted)
            return
        self._reachable = connection.reachable
        connection.watch(self._lane.home, self._client_left)
        if isinstance(self._heartbeat, (int, float)):
            self._last_write = time.monotonic()
            self._heart = heart_of(self._lane.home).add(self, self._heartbeat)
            if self._closed:  # it may have left just now
                self._heart.stop()
        for opened in self._at_open:
            opened()
        self._at_open.clear()

    def server_done(self) -> None:
        """The server has finished with the body, in whatever way: `Body.close`."""
        if self._connection is not None:
            self._connection.release(cut=not self._connection.delimited)
        self._close(aborted=True)
        self._lane.run()

    def _beat(self) -> None:
        # Not into a line that is being written, nor behind what waits: a client
        # that takes nothing is not silent for want of a beat.
        if not (self._mid_line or self._buffer.length or self._ended):
            self._buffer.put(BEAT)

    def _client_left(self) -> None:
        self._close(aborted=True, cut=True)

    def _close(self, aborted: bool, cut: bool = False, error: BaseException | None = None) -> None:
        with self._state_lock:
            if self._closed:
                return
            self._closed = True
            self._aborted = aborted
            self._finished = not aborted
        if self._finished:
            self._announce("finish")
        if error is not None:
            self._announce("error", error)
        # Cut first: a server that hears of the end while it can still send would
        # take the connection for a good one, and serve what is pipelined behind.
        if cut and self._connection is not None:
            self._connection.cut()
        self._buffer.close()
        if self._heart is not None:
            self._heart.stop()
        for closed in self._at_close[:]:
            closed()
        self._at_drain.clear()
        self._at_close.clear()
        self._announce("close")


class Body:
    """The WSGI iterable of one `OutgoingMessage`.

    It has no ``__len__``, from which servers would make a Content-Length.
    """

    def __init__(self, message: OutgoingMessage) -> None:
        self._message = message

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        message = self._message
        # Being asked for more says that the last chunk is with the kernel.
        if message._buffer.give_back():
            for drained in message._at_drain[:]:
                drained()
            message._announce("drain")
        chunk = message._buffer.take()
        if chunk is not None:
            return chunk
        message._close(aborted=False)
        if message._aborted and not message._reachable:
            # With no socket to cut, only an exception keeps the server from
            # ending a broken stream as if it were whole.
            raise ConnectionResetError(errno.ECONNRESET, "the stream was destroyed")
        raise StopIteration

    def close(self) -> None:
        """The server is done (PEP 3333). Runs what is left of the handlers."""
        self._message.server_done()


def _bytes(chunk: bytes | str) -> bytes:
    if isinstance(chunk, str):
        return chunk.encode()
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a chunk is bytes or str, not {type(chunk).__name__}")
