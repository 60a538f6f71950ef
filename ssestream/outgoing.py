"""The sending half of a connection: Node's OutgoingMessage.

Anybody writes to it; its `body.Body` is what the server iterates. Some things can
happen to one, each at any time and from any thread:

====================================  ================================================
``end()``                             what waits is sent, then ``finish``, then ``close``
`retire`: too old, or a shutdown      what waits and a ``retry`` are sent, then the same
the client leaves                     what waits is dropped, ``close``
stalled, or more waits than may       the same, and the connection is cut
``destroy()``                         the same, with an ``error`` before if one is given
the server closes early               as when the client leaves
====================================  ================================================

``close`` comes exactly once. All of it goes through `OutgoingMessage._close`.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Protocol

from .buffer import FrameBuffer
from .connection import Connection
from .diagnosis import burst, look_at_server
from .errors import WriteAfterEnd
from .events import Emitter, Lane
from .hub import current_home, logger
from .plain import plain_bytes, plain_text
from .settings import DEFAULTS, Settings, draw
from .shared import LARGE, shared
from .statistics import Cause, books
from .upkeep import Upkeep
from .wire import first_id_block, retry_block

#: Bytes that may wait before ``write()`` says False: Node's default for streams
#: of bytes up to version 20 (it is 64 KiB since 22), and the usual size of one
#: TLS record.
HIGH_WATER_MARK = 16 * 1024

#: Of a response that is no event stream: nothing may be slipped into it.
PLAIN = dataclasses.replace(DEFAULTS, heartbeat=None, tcp_user_timeout=None)


class Inlet(Protocol):
    """One stream that is piped in, as far as the message knows it.

    Told at once and not in an event's turn, as it must know before any handler
    runs.
    """

    def drained(self) -> None: ...

    def closed(self) -> None: ...

    def retired(self, dropping: bool) -> list[bytes]:
        """It ends now: the frames that wait for it, which are sent unless *dropping*."""

    def waiting(self) -> int:
        """Bytes that wait for it."""


class OutgoingMessage(Emitter):
    """What ``res`` is to a stream that is piped into it.

    Emits ``drain``, ``finish``, ``close``, ``error``, and ``pipe`` and
    ``unpipe`` with the source.
    """

    # A dict of these and of what Flask's response has would be too large for Python
    # to share its keys among all responses.
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
        "_reachable",
        "_retired",
        "_settings",
        "_state_lock",
        "_upkeep",
    )

    def __init__(self, lane: Lane | None = None, high_water_mark: int = HIGH_WATER_MARK) -> None:
        super().__init__(lane or Lane(current_home()))
        self._state_lock = self._lane.lock
        self._buffer = FrameBuffer(high_water_mark, self._lane.lock)
        self._connection: Connection | None = None
        self._reachable = True
        # Those of an event stream. None of another response, which is as long
        # as it is.
        self._settings: Settings | None = None
        self._client: Hashable | None = None
        self._upkeep: Upkeep | None = None
        self._ended = False
        self._finished = False
        self._closed = False
        self._aborted = False
        # Why it is over, once it is.
        self._cause: Cause = "client"
        # Why it is about to end, where that is not the app's own doing.
        self._retired: Cause | None = None
        # Other tuples after every change.
        self._inlets: tuple[Inlet, ...] = ()
        self._at_begin: tuple[Callable[[], object], ...] = ()

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
        ``drain``), and once the response is over, as its client has left, it was
        destroyed or all was sent. A client for whom more than
        the setting ``max_bytes`` would wait is cut. Raises `WriteAfterEnd`
        between `end` and ``close``, ``TypeError`` for anything but bytes and str. Node's
        ``response.write``.
        """
        data = _bytes(chunk)
        # As in Node: many a handler of "close" calls end(), and a late write finds nobody.
        if self._closed or self._retired:
            return False
        if self._ended:
            raise WriteAfterEnd("write() after end()")
        # An empty chunk would be the end of a chunked body to some servers.
        if not data:
            return not self._buffer.need_drain
        # The bound is for who goes on although told False: a stream never does. What a view
        # writes before it returns is as long as it is.
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
        """No more writes: what is queued is sent, then the response ends.

        Raises as `write` for a *chunk*. Node's
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
        self._close("error", cut=True, error=error)

    # -- what is piped in

    def _join(self, alone: tuple[Inlet]) -> None:
        """Tell the inlet that is in *alone* from now on."""
        with self._state_lock:
            self._inlets = (*self._inlets, *alone) if self._inlets else alone

    def _part(self, inlet: Inlet) -> None:
        """Tell *inlet* no more, if it was told."""
        with self._state_lock:
            self._inlets = tuple(each for each in self._inlets if each is not inlet)

    # -- what the server and the schedule call

    def open(
        self,
        connection: Connection,
        settings: Settings | None = None,
        client: Hashable | None = None,
    ) -> None:
        """The server starts to send, over *connection*, what it takes from the body.

        *settings* are those of an event stream, None those of another response.
        *client* is whom it counts for.
        """
        self._connection = connection
        if self.closed:
            connection.release(cut=self._aborted)
            return
        self._reachable = connection.reachable
        connection.watch(self._lane.home, self)
        self._settings = settings
        if settings is not None:
            self._client = client
            look_at_server(connection, self._lane.home)
            if not books.open(self, settings.max_streams, client, settings.max_streams_per_client):
                self.retire("shutdown" if books.draining else "refused")
            elif settings.retry is not None:
                self._buffer.put_opening(retry_block(draw(settings.retry)))
        upkeep = self._upkeep = Upkeep(self, self._buffer, connection, settings or PLAIN)
        upkeep.begin(self._lane.home)
        if self._closed:  # just now, before there was all this to end
            books.close(self, self._cause, self._client)
            upkeep.finish()
            self._upkeep = None

    def begin(self) -> None:
        """The server asks for the first of the body: the request itself is over.

        Its teardown runs between this and `open`.
        """
        at_begin, self._at_begin = self._at_begin, ()
        for begun in at_begin:
            begun()

    def retire(self, cause: Cause) -> None:
        """Send what waits and when to come back, and end; what is written later is not sent.

        For a client that was refused, what waits is not for it.
        """
        with self._state_lock:
            if self._closed or self._retired:
                return
            self._retired = cause
        frames = [frame for inlet in self._inlets for frame in inlet.retired(cause == "refused")]
        if not self._ended:
            place = b""
            if cause == "refused":
                # But where it stands is: it comes back, and would miss what came meanwhile.
                place = first_id_block([*self._buffer.clear(), *frames])
            else:
                for frame in frames:
                    self._buffer.put(frame)
            settings = self._settings or DEFAULTS
            self._buffer.put_last(place + retry_block(draw(settings.retry_after)))
        self._buffer.end()
        logger.info("%s: ended, as %s", self._name(), _REASONS[cause])

    def cut(self, cause: Cause) -> None:
        """End it at once, without what waits."""
        if not self._closed:
            logger.info("%s: cut, as %s", self._name(), _REASONS[cause])
            # Not that of a client that has stalled for long.
            if cause == "overflow" and not self._buffer.is_stuck(0.0):
                burst(None if self._connection is None else self._connection.name)
        self._close(cause, cut=True)

    def waiting(self) -> int:
        """Bytes that wait for the client, those in the streams that are piped in too."""
        return self._buffer.length + sum(inlet.waiting() for inlet in self._inlets)

    def sent(self) -> tuple[int, int]:
        """Messages and bytes that were handed to the server."""
        return self._buffer.sent()

    def server_done(self) -> None:
        """The server has finished with the body, in whatever way."""
        if self._connection is not None:
            # A worker that stops would else wait for the next request.
            self._connection.release(
                cut=not self._connection.delimited or self._retired == "shutdown"
            )
        self._close("client")
        self._lane.run()

    def greet(self, opening: bytes) -> bool:
        """Write what opens every stream; it is no message of the app's."""
        flowing = self.write(opening)
        self._buffer.discount()
        return flowing

    def _name(self) -> str:
        return "an unsent response" if self._connection is None else self._connection.name

    def _client_left(self) -> None:
        """It has left, as the kernel says, or a send that failed."""
        self._close("client", cut=True)

    def _close(
        self,
        cause: Cause,
        cut: bool = False,
        error: BaseException | None = None,
        finished: bool = False,
    ) -> None:
        with self._state_lock:
            if self._closed:
                return
            self._closed = True
            self._cause = cause
            self._finished = finished
            self._aborted = not finished
        if finished:
            self._announce("finish")
        if error is not None:
            self._announce("error", error)
        # Cut first: a server that hears of the end while it can still send would
        # take the connection for a good one, and serve what is pipelined behind.
        if cut and self._connection is not None:
            self._connection.cut()
        self._buffer.close()
        upkeep, self._upkeep = self._upkeep, None
        if upkeep is not None:
            upkeep.finish()
        books.close(self, cause, self._client)
        with self._state_lock:
            inlets, self._inlets = self._inlets, ()
        for inlet in inlets:
            inlet.closed()
        self._announce("close")


_REASONS: dict[Cause, str] = {
    "client": "its client has left",
    "ended": "it was ended",
    "stalled": "its client took nothing for too long",
    "overflow": "more waited for its client than may",
    "age": "it was old",
    "shutdown": "the worker stops",
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
            f"a chunk of text must have UTF-8, and holds a lone surrogate at {error.start}"
        ) from None
    except ValueError as error:
        raise ValueError(f"a chunk cannot be read: {error}") from None
    raise TypeError(f"a chunk is bytes or str, not {type(chunk).__name__}")
