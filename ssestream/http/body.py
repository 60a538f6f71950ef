"""Body: the server's end of a response, from its opening to its end.

The app holds an `outgoing.OutgoingMessage`, and never sees its body. The server iterates the
body and sends its frames. The following can happen at any time and from any thread:

====================================  ================================================
``end()``                             send what waits; emit ``finish``, then ``close``
`Body.retire`: too old, or a          send what waits and a ``retry``; then the same
shutdown
`Body.retire`: its source has failed, send what waits; then cut the connection
or it could not finish in time
the client leaves                     drop what waits; emit ``close``
stalled, or more waits than allowed   the same, and the connection is cut
``destroy()``                         the same; ``error`` comes first if one is given
the server closes early               as when the client leaves
====================================  ================================================

``close`` comes exactly once. All these ways go through `Body.finish`.

When the client has left, the iterable simply ends and does not raise. The server then
sends its last few bytes into a connection that is cut, and every server takes this
quietly. An exception would be reported by the server and by each middleware.
"""

import errno
import socket
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from ..runtime.calls import CallQueue
from ..runtime.emitter import emit_soon
from ..runtime.forking import process
from ..runtime.loop import logger
from ..runtime.uncopyable import Uncopyable
from ..runtime.waker import Wakeable, wake_all
from ..settings import DEFAULTS, PLAIN, Settings, draw
from ..wire import retry_block
from .compression import Gzip
from .connection import Connection
from .diagnosis import burst, held_back, look_at_server, may_be_held_back, standard_way
from .ending import cause_of_whole, is_answer, is_cut, last_block
from .inlet import Inlet, when_written
from .keepalive import Keepalive
from .output import OutputBuffer
from .registry import BREAKING, REASONS, Cause, registry


class Body(Uncopyable):
    """The WSGI iterable of *outgoing*, an `OutgoingMessage`, and all of its state.

    It has no ``__len__``, because servers would make a Content-Length of it.
    """

    _only_one = "what is taken from it is taken from its response"

    __slots__ = (
        "_at_begin",
        "_begun",
        "_client",
        "_gzip",
        "_has_sent",
        "_keepalive",
        "_plain",
        "_written",
        "buffer",
        "call_queue",
        "cause",
        "connection",
        "ended",
        "finished",
        "inlets",
        "outgoing",
        "over",
        "reachable",
        "retired",
        "settings",
    )

    def __init__(self, outgoing: Any, call_queue: CallQueue, buffer: OutputBuffer) -> None:
        #: The response that the app holds. None after `done`, so that the two are no cycle.
        self.outgoing = outgoing
        self.call_queue = call_queue
        self.buffer = buffer
        #: The connection that the response is sent over; None before the server has the head.
        self.connection: Connection | None = None
        #: Whether there is a socket, which shows a departure and can be cut.
        self.reachable = True
        #: The settings of an event stream. None for any other response: its body has an end of
        #: its own.
        self.settings: Settings | None = None
        self._client: Hashable | None = None
        self._keepalive: Keepalive | None = None
        #: Whether the app has called ``end()``.
        self.ended = False
        #: Whether everything was sent.
        self.finished = False
        #: Whether the response is over, and ``close`` was emitted or is about to be.
        self.over = False
        #: Why the response is over. Valid once it is.
        self.cause: Cause = "client"
        #: Why the server is ending the response; None while it is not.
        self.retired: Cause | None = None
        #: The streams that are piped in. A tuple is never changed, only replaced, so that it can
        #: be read without the lock.
        self.inlets: tuple[Inlet, ...] = ()
        # The functions that `begin` calls.
        self._at_begin: tuple[Callable[[], object], ...] = ()
        self._gzip: Gzip | None = None
        # Bytes that the kernel had before the first chunk. None if this stream is not examined
        # (see `diagnosis`).
        self._written: int | None = None
        # Whether the first chunk was taken, and whether it was sent.
        self._begun = False
        self._has_sent = False
        # Whether chunks need no encoding and the first one has passed `_encoded`.
        self._plain = False

    @property
    def is_copy(self) -> bool:
        """Whether this process is a job, and the response is a copy of its parent's."""
        return process.is_job and self.call_queue.is_copy

    @property
    def closed(self) -> bool:
        """Whether the response is over, or is a copy in a job."""
        # As in `is_copy`, without the call: each stream asks several times in its life.
        return self.over or (process.is_job and self.call_queue.is_copy)

    @property
    def aborted(self) -> bool:
        """Whether the response is over, and not everything was sent."""
        return self.over and not self.finished

    @property
    def name(self) -> str:
        """The name of the connection, for the log."""
        return "an unsent response" if self.connection is None else self.connection.name

    @property
    def in_hand(self) -> bool:
        """Whether the server has a chunk and has not asked for the next one."""
        return self.buffer.taken_at != 0.0

    def waiting(self) -> int:
        """Bytes that wait for the client here and in the streams that are piped in."""
        return self.buffer.length + sum(inlet.waiting() for inlet in self.inlets)

    def sent(self) -> tuple[int, int]:
        """Messages and bytes that were handed to the kernel."""
        return self.buffer.sent()

    # -- the streams that are piped in

    def add_inlet(self, inlet: tuple[Inlet]) -> None:
        """Notify the one inlet in the tuple *inlet* from now on. Most bodies keep this tuple."""
        with self.call_queue.lock:
            self.inlets = (*self.inlets, *inlet) if self.inlets else inlet

    def remove_inlet(self, inlet: Inlet) -> None:
        """Notify *inlet* no more. Does nothing if it was not added."""
        with self.call_queue.lock:
            self.inlets = tuple(each for each in self.inlets if each is not inlet)

    # -- from the opening to the end

    def open(
        self,
        connection: Connection,
        settings: Settings | None = None,
        client: Hashable | None = None,
    ) -> None:
        """The server starts to iterate the body and to send it over *connection*.

        *settings* are those of an event stream; None for any other response. *client*
        is the key by which ``max_streams_per_client`` counts; None is not counted.
        """
        self.connection = connection
        if self.closed:
            connection.release(cut=self.aborted)
            return
        self.reachable = connection.reachable
        connection.watch(self.call_queue.loop, self)
        self.settings = settings
        if settings is not None:
            self._client = client
            if not registry.open(
                self,
                settings.max_streams,
                client,
                settings.max_streams_per_client,
                settings.on_shutdown == "finish",
            ):
                self.retire("shutdown" if registry.draining else "refused")
            elif settings.retry is not None:
                self.buffer.put_opening(retry_block(draw(settings.retry)))
            # Afterwards, since this stream counts among those that hold a thread.
            look_at_server(connection, self.call_queue.loop)
        keepalive = self._keepalive = Keepalive(self, self.buffer, connection, settings or PLAIN)
        keepalive.begin(self.call_queue.loop)
        if self.over:  # it was over before `_keepalive` was there to finish
            registry.close(self, self.cause, self._client)
            keepalive.finish()
            self._keepalive = None

    def open_empty(self, connection: Connection) -> None:
        """The server sends the head over *connection*, and no body. No source may start."""
        self.connection = connection

    def when_begun(self, function: Callable[[], object]) -> None:
        """Let `begin` call *function*."""
        self._at_begin = (*self._at_begin, function)

    def begin(self) -> None:
        """The server asks for the first chunk of the body: the request itself is over.

        The teardown of the request runs between `open` and this.
        """
        at_begin, self._at_begin = self._at_begin, ()
        for begun in at_begin:
            begun()

    def compress(self) -> None:
        """Compress every later chunk with gzip."""
        self._gzip = Gzip()

    def skip_examination(self) -> None:
        """Do not examine whether chunks are held back: they go straight to the socket."""
        self._begun = self._has_sent = True

    @property
    def is_plain(self) -> bool:
        """Whether chunks are sent as they were written, without compression."""
        return self._gzip is None

    def end(self) -> None:
        """The app writes nothing more: end the response when the queue is sent."""
        self.ended = True
        self.buffer.end()

    @property
    def goes_on(self) -> bool:
        """Whether nothing but the app ends the response yet."""
        return self.retired is None

    @property
    def breaks_off(self) -> bool:
        """Whether the response ends with a cut when everything that waits is sent."""
        return is_cut(self.retired, self.settings or DEFAULTS)

    def retire(self, cause: Cause) -> None:
        """End the response: send the queue, then tell the client when to come back.

        Later writes are dropped. With the cause "refused" the queue is dropped too,
        because the client was never let in. With a cause in `BREAKING` the response ends
        with a cut and without a ``retry``, unless the app has ended it. With the cause
        "shutdown" the setting ``on_shutdown`` decides.
        """
        settings = self.settings or DEFAULTS
        if cause == "shutdown" and is_answer(settings):
            if settings.on_shutdown == "cut":
                self.cut(cause)
                return
            if registry.may_finish:
                return
            cause = "interrupted"
        is_complete = any(inlet.is_complete for inlet in self.inlets)
        with self.call_queue.lock:
            if self.over or self.retired or self.is_copy:
                return
            is_whole = self.ended or (is_complete and cause in BREAKING)
            if is_whole:
                cause = cause_of_whole(cause)
            self.retired = cause
        frames = [frame for inlet in self.inlets for frame in inlet.retired(cause == "refused")]

        def end() -> None:
            dropped: list[bytes | memoryview] = []
            wakers: list[Wakeable] = []
            if not self.ended:
                if cause == "refused":
                    dropped = [*self.buffer.clear(), *frames]
                else:
                    for frame in frames:
                        self.buffer.put_together(frame, 1, wakers)
            self.buffer.put_together(last_block(cause, settings, is_whole, dropped), 0, wakers)
            self.buffer.end()
            wake_all(wakers)
            logger.info("%s: ended, because %s", self.name, REASONS[cause])

        # The id of the last frame would cover a frame that an app's write() has not written yet.
        when_written(self.inlets, end)

    def cut(self, cause: Cause) -> None:
        """Drop the queue, cut the connection and end the response, at once."""
        if not self.over:
            logger.info("%s: cut, because %s", self.name, REASONS[cause])
            # No warning about the app if the client had stalled before.
            if cause == "overflow" and not self.buffer.is_stuck(0.0):
                burst(None if self.connection is None else self.connection.name)
        self.finish(cause, cut=True)

    def connection_lost(self) -> None:
        """The client has left: the kernel says so, or a send has failed."""
        self.finish("client", cut=True)

    def finish(
        self,
        cause: Cause,
        cut: bool = False,
        error: BaseException | None = None,
        finished: bool = False,
    ) -> None:
        """End the response at once, unless it is over. *finished* says that all was sent."""
        with self.call_queue.lock:
            if self.over or self.is_copy:
                return
            outgoing, connection = self.outgoing, self.connection
            if connection is not None:
                connection.owe_close(True)
            # Set `finished` before `over`: other threads read both without the lock.
            self.finished = finished
            self.over = True
            self.cause = cause
        # Another thread may call `done` from here on, so *outgoing* was read under the lock.
        if finished:
            emit_soon(outgoing, "finish")
        if error is not None:
            emit_soon(outgoing, "error", error)
        # Cut first. A server that learns of the end while it can still send would keep the
        # connection, and would serve the next request on it.
        if cut and connection is not None:
            connection.cut(mark=cause != "client")
        self.buffer.close()
        keepalive, self._keepalive = self._keepalive, None
        if keepalive is not None:
            keepalive.finish()
        registry.close(self, cause, self._client)
        with self.call_queue.lock:
            inlets, self.inlets = self.inlets, ()
        for inlet in inlets:
            inlet.closed()
        emit_soon(outgoing, "close")
        if connection is not None:
            connection.owe_close(False)

    def close(self) -> None:
        """The server is done with the body (PEP 3333). Runs the handlers that wait."""
        try:
            if self.outgoing is not None:
                self.outgoing.close()
        finally:
            # A close() of the app's own may raise.
            self.done()

    def done(self) -> None:
        """The server is done with the response: it has sent all, or it has given up."""
        if self.is_copy:
            return
        if self.connection is not None:
            # Without the cut a stopping worker would wait for the client's next request.
            ends = registry.draining and self.settings is not None
            ends = ends or not self.connection.delimited
            # A generator around the body closes it before the server has sent the last chunk.
            framed = self.finished and self.connection.delimited
            how = socket.SHUT_RD if framed else socket.SHUT_RDWR
            self.connection.release(ends and not self.connection.closes_itself, how)
        self.finish("client")
        self.outgoing = None
        self.call_queue.run()

    # -- what the server iterates

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        buffer = self.buffer
        # The server asks for more, so the kernel has the last chunk.
        if buffer.taken_at:
            self.mark_sent()
        if not self._plain and self._at_begin:
            self.begin()
        chunk = buffer.take()
        return chunk if chunk and self._plain else self._encoded(chunk)

    def take_nowait(self, waker: Wakeable) -> bytes:
        """The next chunk. Returns ``b""`` if none waits, and wakes *waker* when one does.

        For a reader that does not wait in ``next()``. Raises ``StopIteration`` at the end, as
        ``next()`` does.
        """
        chunk = self.buffer.take_nowait(waker)
        return chunk if chunk == b"" or (chunk and self._plain) else self._encoded(chunk)

    def mark_sent(self) -> None:
        """The kernel has the chunk that was taken last."""
        drained = self.buffer.mark_sent()
        if drained or not self._has_sent:
            self._after_sending(drained)

    def _after_sending(self, drained: bool) -> None:
        if not self._has_sent:
            self._check_first_chunk()
        if drained:
            for inlet in self.inlets:
                inlet.drained()
            outgoing = self.outgoing
            if outgoing is not None:
                emit_soon(outgoing, "drain")

    def _encoded(self, chunk: bytes | None) -> bytes:
        if chunk is None:
            return self._last_chunk()
        if not self._begun:
            self._begin_examination()
        if self._gzip is not None:
            return self._gzip.chunk(chunk)
        self._plain = True
        return chunk

    def _last_chunk(self) -> bytes:
        """The end of the gzip data. If there is none, end the response and raise."""
        if self._gzip is not None and not (self.closed or self.breaks_off):
            gzip, self._gzip = self._gzip, None
            # The client may also stall while it takes the end of the gzip data.
            self.buffer.take_trailer()
            return gzip.end()
        self.finish(self.retired or "ended", cut=self.breaks_off, finished=not self.breaks_off)
        if self.aborted and not self.reachable:
            # Without a socket to cut, an exception is the only way to stop the server from
            # ending a broken stream like a complete one.
            raise ConnectionResetError(errno.ECONNRESET, "the stream was destroyed")
        raise StopIteration

    def _begin_examination(self) -> None:
        self._begun = True
        if self.connection is None or self.settings is None:
            return
        standard_way(self)
        if may_be_held_back():
            self._written = self.connection.written()

    def _check_first_chunk(self) -> None:
        """Warn if the kernel has got nothing, although the server asks for the second chunk."""
        self._has_sent = True
        if self.connection is not None and self._written is not None:
            written = self.connection.written()
            if written == self._written:
                held_back(self.connection)
