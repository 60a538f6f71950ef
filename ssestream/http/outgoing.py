"""OutgoingMessage: the app's end of a response, as Node's OutgoingMessage.

The app and its streams write to an `OutgoingMessage`. The server iterates its
`body.Body`. The following can happen at any time and from any thread:

====================================  ================================================
``end()``                             send what waits; emit ``finish``, then ``close``
`retire`: too old, or a shutdown      send what waits and a ``retry``; then the same
the client leaves                     drop what waits; emit ``close``
stalled, or more waits than allowed   the same, and the connection is cut
``destroy()``                         the same; ``error`` comes first if one is given
the server closes early               as when the client leaves
====================================  ================================================

``close`` comes exactly once. All these ways go through `OutgoingMessage._close`.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Protocol

from ..errors import WriteAfterEnd
from ..plain import plain_bytes, plain_text
from ..runtime.emitter import CallQueue, Emitter
from ..runtime.forking import process
from ..runtime.loop import current_loop, logger
from ..settings import DEFAULTS, Settings, draw
from ..wire import first_id_block, retry_block
from .connection import Connection
from .diagnosis import burst, look_at_server, written_in_a_job
from .interning import LARGE, shared
from .keepalive import Keepalive
from .output import OutputBuffer
from .registry import Cause, registry

#: Bytes that may wait before ``write()`` returns False. Node has the same default for streams
#: of bytes up to version 20 (64 KiB since 22). It is also the usual size of a TLS record.
HIGH_WATER_MARK = 16 * 1024

#: The settings of a response that is no event stream. It gets no heartbeat, because a comment
#: would damage its body.
PLAIN = dataclasses.replace(DEFAULTS, heartbeat=None, tcp_user_timeout=None)


class Inlet(Protocol):
    """One stream that is piped in, as far as the response knows it.

    Its methods are called at once, and not as handlers of an event, because the
    stream must know before any handler of the app runs.
    """

    def drained(self) -> None: ...

    def closed(self) -> None: ...

    def retired(self, dropping: bool) -> list[bytes]:
        """The response ends. Returns the frames that the stream holds for it.

        *dropping* says that the response will not send them.
        """

    def waiting(self) -> int:
        """Bytes that the stream holds for the response."""


class OutgoingMessage(Emitter):
    """The part of ``res`` that streams are piped into. `ServerResponse` adds the head.

    Emits ``drain``, ``finish``, ``close`` and ``error``, and ``pipe`` and ``unpipe``
    with the stream.
    """

    # Slots keep the instance's dict small. With these names beside those of Flask's response,
    # Python could not share the dict's keys among all responses.
    __slots__ = (
        "_aborted",
        "_at_begin",
        "_buffer",
        "_cause",
        "_client",
        "_closed",
        "_connection",
        "_ended",
        "_finished",
        "_inlets",
        "_keepalive",
        "_reachable",
        "_retired",
        "_settings",
        "_state_lock",
    )

    def __init__(
        self,
        call_queue: CallQueue | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
        buffer: type[OutputBuffer] = OutputBuffer,
    ) -> None:
        super().__init__(call_queue or CallQueue(current_loop()))
        self._state_lock = self._call_queue.lock
        self._buffer = buffer(high_water_mark, self._call_queue.lock)
        self._connection: Connection | None = None
        self._reachable = True
        # The settings of an event stream. None for any other response: its body has an end of
        # its own.
        self._settings: Settings | None = None
        self._client: Hashable | None = None
        self._keepalive: Keepalive | None = None
        self._ended = False
        self._finished = False
        self._closed = False
        self._aborted = False
        # Why the response is over. Valid once it is closed.
        self._cause: Cause = "client"
        # Why the server is ending the response; None while it is not.
        self._retired: Cause | None = None
        # A tuple is never changed, only replaced, so that it can be read without the lock.
        self._inlets: tuple[Inlet, ...] = ()
        self._at_begin: tuple[Callable[[], object], ...] = ()

    @property
    def headers_sent(self) -> bool:
        """Whether the status and the headers were handed to the server."""
        return self._connection is not None

    @property
    def writable_length(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._buffer.length

    @property
    def writable_high_water_mark(self) -> int:
        """Waiting bytes at which `write` returns False."""
        return self._buffer.high_water_mark

    @property
    def writable_need_drain(self) -> bool:
        """Whether ``drain`` will come."""
        return self._buffer.need_drain

    @property
    def writable_ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    @property
    def writable_finished(self) -> bool:
        """Whether everything was sent (``finish``)."""
        return self._finished

    @property
    def closed(self) -> bool:
        """Whether ``close`` was emitted or is about to be.

        Also True in a child process that a view forks, because the response there is a copy.
        """
        return self._closed or self._is_lost()

    @property
    def destroyed(self) -> bool:
        """The same as `closed`: as in Node, a response that has ended is destroyed."""
        return self.closed

    def write(self, chunk: bytes | str) -> bool:
        """Queue *chunk*. Text is sent as UTF-8. Never blocks.

        Returns False when `writable_high_water_mark` bytes wait: write again after
        ``drain``. Also returns False when the response is over: its client has left,
        it was destroyed, or everything was sent. If more than the setting
        ``max_bytes`` would wait for the client, the client is cut.

        Raises `WriteAfterEnd` between `end` and ``close``. Raises ``TypeError`` for
        anything but bytes and str, and ``ValueError`` for text that has no UTF-8 or
        bytes that cannot be read. Node's ``response.write``.
        """
        data = _bytes(chunk)
        if process.is_job and self._call_queue.is_lost:
            written_in_a_job()
            return False
        # As in Node: many handlers of "close" call end(), and a later write is no error.
        if self._closed or self._retired:
            return False
        if self._ended:
            raise WriteAfterEnd("write() after end()")
        # Some servers would take an empty chunk for the end of a chunked body.
        if not data:
            return not self._buffer.need_drain
        # The bound is for an app that goes on writing after False; a stream never does. There
        # is no bound for a view that has not returned yet, because nothing can be sent before
        # that.
        if (
            self._buffer.need_drain
            and self._connection is not None
            and self._buffer.length + len(data) > (self._settings or PLAIN).max_bytes
        ):
            self.cut("overflow")
            return False
        if self._buffer.need_drain:
            data = shared(data)
        elif len(data) > LARGE:
            data = shared.large(data)
        return self._buffer.put(data)

    def end(self, chunk: bytes | str | None = None) -> None:
        """Take no more writes. The queue is sent, then the response ends.

        *chunk* is written before that; None writes nothing. Raises as `write` does
        for *chunk*. Node's ``response.end``.
        """
        if chunk is not None:
            self.write(chunk)
        self._ended = True
        self._buffer.end()

    def destroy(self, error: BaseException | None = None) -> None:
        """Drop the queue and cut the connection. The client sees a broken transfer.

        If *error* is not None, the response emits ``error`` with it first. Then comes
        ``close``. Raises ``TypeError`` for an *error* that is no exception. Node's
        ``response.destroy``.
        """
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {type(error).__name__}")
        self._close("error", cut=True, error=error)

    # -- the streams that are piped in

    def _join(self, alone: tuple[Inlet]) -> None:
        """Notify the inlet in *alone*, a tuple of one, from now on."""
        with self._state_lock:
            self._inlets = (*self._inlets, *alone) if self._inlets else alone

    def _part(self, inlet: Inlet) -> None:
        """Notify *inlet* no more. Does nothing if it was not joined."""
        with self._state_lock:
            self._inlets = tuple(each for each in self._inlets if each is not inlet)

    # -- methods for the server and for upkeep

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
        self._connection = connection
        if self.closed:
            connection.release(cut=self._aborted)
            return
        self._reachable = connection.reachable
        connection.watch(self._call_queue.loop, self)
        self._settings = settings
        if settings is not None:
            self._client = client
            if not registry.open(
                self, settings.max_streams, client, settings.max_streams_per_client
            ):
                self.retire("shutdown" if registry.draining else "refused")
            elif settings.retry is not None:
                self._buffer.put_opening(retry_block(draw(settings.retry)))
            # Afterwards, since this stream counts among those that hold a thread.
            look_at_server(connection, self._call_queue.loop)
        upkeep = self._keepalive = Keepalive(self, self._buffer, connection, settings or PLAIN)
        upkeep.begin(self._call_queue.loop)
        if self._closed:  # it was closed before `_keepalive` was there to finish
            registry.close(self, self._cause, self._client)
            upkeep.finish()
            self._keepalive = None

    def begin(self) -> None:
        """The server asks for the first chunk of the body: the request itself is over.

        The teardown of the request runs between `open` and this.
        """
        at_begin, self._at_begin = self._at_begin, ()
        for begun in at_begin:
            begun()

    def retire(self, cause: Cause) -> None:
        """End the response: send the queue, then tell the client when to come back.

        Later writes are dropped. With the cause "refused" the queue is dropped too,
        because the client was never let in.
        """
        with self._state_lock:
            if self._closed or self._retired or self._is_lost():
                return
            self._retired = cause
        frames = [frame for inlet in self._inlets for frame in inlet.retired(cause == "refused")]
        if not self._ended:
            place = b""
            if cause == "refused":
                # Keep the client's place in its channels: it needs the id when it comes back.
                place = first_id_block([*self._buffer.clear(), *frames])
            else:
                for frame in frames:
                    self._buffer.put(frame)
            settings = self._settings or DEFAULTS
            self._buffer.put_last(place + retry_block(draw(settings.retry_after)))
        self._buffer.end()
        logger.info("%s: ended, because %s", self._name(), _REASONS[cause])

    def cut(self, cause: Cause) -> None:
        """Drop the queue, cut the connection and end the response, at once."""
        if not self._closed:
            logger.info("%s: cut, because %s", self._name(), _REASONS[cause])
            # No warning about the app if the client had stalled before.
            if cause == "overflow" and not self._buffer.is_stuck(0.0):
                burst(None if self._connection is None else self._connection.name)
        self._close(cause, cut=True)

    def waiting(self) -> int:
        """Bytes that wait for the client here and in the streams that are piped in."""
        return self._buffer.length + sum(inlet.waiting() for inlet in self._inlets)

    def _in_hand(self) -> bool:
        """Whether the server has a chunk and has not asked for the next one."""
        return self._buffer.taken_at != 0.0

    def sent(self) -> tuple[int, int]:
        """Messages and bytes that were handed to the kernel."""
        return self._buffer.sent()

    def server_done(self) -> None:
        """The server is done with the body: it has sent all, or it has given up."""
        if self._is_lost():
            return
        if self._connection is not None:
            # Without the cut a stopping worker would wait for the client's next request.
            self._connection.release(
                cut=not self._connection.delimited or self._retired == "shutdown"
            )
        self._close("client")
        self._call_queue.run()

    def greet(self, opening: bytes) -> bool:
        """Write *opening*, the opening comment. It does not count as a message."""
        flowing = self.write(opening)
        self._buffer.discount()
        return flowing

    def _name(self) -> str:
        return "an unsent response" if self._connection is None else self._connection.name

    def _connection_lost(self) -> None:
        """The client has left: the kernel says so, or a send has failed."""
        self._close("client", cut=True)

    def _close(
        self,
        cause: Cause,
        cut: bool = False,
        error: BaseException | None = None,
        finished: bool = False,
    ) -> None:
        with self._state_lock:
            if self._closed or self._is_lost():
                return
            self._closed = True
            self._cause = cause
            self._finished = finished
            self._aborted = not finished
        if finished:
            self._emit_soon("finish")
        if error is not None:
            self._emit_soon("error", error)
        # Cut first. A server that learns of the end while it can still send would keep the
        # connection, and would serve the next request on it.
        if cut and self._connection is not None:
            self._connection.cut()
        self._buffer.close()
        upkeep, self._keepalive = self._keepalive, None
        if upkeep is not None:
            upkeep.finish()
        registry.close(self, cause, self._client)
        with self._state_lock:
            inlets, self._inlets = self._inlets, ()
        for inlet in inlets:
            inlet.closed()
        self._emit_soon("close")


_REASONS: dict[Cause, str] = {
    "client": "its client has left",
    "ended": "the app ended it",
    "stalled": "its client took nothing for too long",
    "overflow": "more waited for its client than is allowed",
    "age": "it was old (see max_age)",
    "shutdown": "the worker is stopping",
    "refused": "there are too many streams",
    "error": "it was destroyed",
}


def _bytes(chunk: bytes | str) -> bytes:
    if type(chunk) is bytes:
        return chunk
    try:
        if isinstance(chunk, str):
            return plain_text(chunk).encode()
        if isinstance(chunk, (bytes, bytearray, memoryview)):
            return plain_bytes(chunk)
    except UnicodeEncodeError as error:
        raise ValueError(
            "a chunk of text must be valid UTF-8, but it has a lone surrogate at"
            f" character {error.start}"
        ) from None
    except ValueError as error:
        raise ValueError(f"a chunk cannot be read: {error}") from None
    raise TypeError(f"a chunk is bytes or str, not {type(chunk).__name__}")
