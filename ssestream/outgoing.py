"""The sending half of a connection: Node's OutgoingMessage, as a WSGI iterable.

An `OutgoingMessage` is written to by anybody; its `Body` is what the server
iterates. Some things can happen to one, each at any time and from any thread:

====================================  ================================================
``end()``                             what waits is sent, then ``finish``, then ``close``
`retire`: too old, or a shutdown      what waits and a ``retry`` are sent, then the same
the client leaves                     what waits is dropped, ``close``
stalled, or more waits than may       the same, and the connection is cut
``destroy()``                         the same, with an ``error`` before if one is given
the server closes early               as when the client leaves
====================================  ================================================

``close`` comes exactly once. All of it goes through `OutgoingMessage._close`.

When the client has left, the body ends as if it were complete instead of
raising: the server's last few bytes then fail in the cut connection, which
every server takes quietly, while an exception would be reported by each
middleware on its way.
"""

import dataclasses
import errno
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol

from .buffer import FrameBuffer
from .connection import Connection
from .errors import WriteAfterEnd
from .events import Emitter, Lane
from .hub import current_home, logger, new_lock
from .schedule import Appointment, schedule_of
from .settings import DEFAULTS, Settings, chance, draw
from .statistics import Cause, books

#: Bytes that may wait before ``write()`` says False: Node's default for streams
#: of bytes up to version 20 (it is 64 KiB since 22), and the usual size of one
#: TLS record.
HIGH_WATER_MARK = 16 * 1024

#: What is sent into silence: a comment without the blank line, as some clients
#: choke on an empty event.
BEAT = b":\n"

#: A beat comes after this part of the interval or later, at random, so that
#: streams which fell silent together (a broadcast, a restart) do not beat
#: together for ever. Old streams end spread over the same part of their age.
EARLIEST = 0.8

#: Of a response that is no event stream: nothing may be slipped into it.
PLAIN = dataclasses.replace(DEFAULTS, heartbeat=None)


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

    def __init__(self, lane: Lane | None = None, high_water_mark: int = HIGH_WATER_MARK) -> None:
        super().__init__(lane or Lane(current_home()))
        self._state_lock = new_lock()
        self._buffer = FrameBuffer(high_water_mark)
        self._connection: Connection | None = None
        self._reachable = True
        # Those of an event stream. None of another response, which is as long
        # as it is.
        self._settings: Settings | None = None
        self._client: Hashable | None = None
        self._appointment: Appointment | None = None
        self._old_at = float("inf")
        # When the client last took something, as far as looks tell, and what the
        # kernel had for it then.
        self._looked_at = 0.0
        self._unsent: int | None = None
        self._last_write = 0.0
        self._mid_line = False
        self._ended = False
        self._finished = False
        self._closed = False
        self._aborted = False
        # Why it is about to end, where that is not the app's own doing.
        self._retired: Cause | None = None
        self._inlets: list[Inlet] = []
        self._at_open: list[Callable[[], object]] = []

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
        ``drain``), and after the client has left. A client for whom more than
        the setting ``max_bytes`` would wait is cut. Raises `WriteAfterEnd`
        after `end`, ``TypeError`` for anything but bytes and str. Node's
        ``response.write``.
        """
        data = _bytes(chunk)
        if self._ended:
            raise WriteAfterEnd("write() after end()")
        if self._closed or self._retired:
            return False
        # An empty chunk would be the end of a chunked body to some servers.
        if not data:
            return not self._buffer.need_drain
        # The bound is for who goes on although told False: a stream never does.
        settings = self._settings
        if (
            settings is not None
            and self._buffer.need_drain
            and self._buffer.length + len(data) > settings.max_bytes
        ):
            self.cut("overflow")
            return False
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
        self._close("error", cut=True, error=error)

    # -- what the server and the schedule call

    def open(
        self,
        connection: Connection,
        settings: Settings | None = None,
        client: Hashable | None = None,
    ) -> None:
        """The server starts to send, over *connection*, what it takes from the `Body`.

        *settings* are those of an event stream, None those of another response.
        *client* is whom it counts for.
        """
        self._connection = connection
        if self.closed:
            connection.release(cut=self._aborted)
            return
        self._reachable = connection.reachable
        connection.watch(self._lane.home, self._client_left)
        self._last_write = now = time.monotonic()
        self._settings = settings
        if settings is not None:
            self._client = client
            if not books.open(self, settings.max_streams, client, settings.max_streams_per_client):
                self.retire("shutdown" if books.draining else "refused")
            elif settings.retry is not None:
                self._buffer.put(b"retry: %d\n\n" % draw(settings.retry), message=False)
            if settings.max_age is not None:
                self._old_at = now + settings.max_age * chance.uniform(EARLIEST, 1.0)
        due = self._look_after(now)
        if due is not None:
            self._appointment = schedule_of(self._lane.home).add(due, self._look_after)
        if self._closed:  # it may have left just now, before there was all this to end
            books.close(self, "client", self._client)
            if self._appointment is not None:
                self._appointment.cancel()
        for opened in self._at_open:
            opened()
        self._at_open.clear()

    def retire(self, cause: Cause) -> None:
        """Send what waits and when to come back, and end; what is written later is not sent.

        For a client that was refused, what waits is not for it.
        """
        with self._state_lock:
            if self._closed or self._retired:
                return
            self._retired = cause
        frames = [frame for inlet in self._inlets[:] for frame in inlet.retired(cause == "refused")]
        if not self._ended:
            if cause == "refused":
                self._buffer.clear()
            else:
                for frame in frames:
                    self._buffer.put(frame)
            settings = self._settings or DEFAULTS
            # A line that was begun by hand is ended first.
            end_of_line = b"\n\n" if self._mid_line else b""
            pause = b"retry: %d\n\n" % draw(settings.retry_after)
            self._buffer.put(end_of_line + pause, message=False)
        self._buffer.end()
        logger.info("%s: ended, as %s", self._name(), _REASONS[cause])

    def cut(self, cause: Cause) -> None:
        """End it at once, without what waits."""
        if not self._closed:
            logger.info("%s: cut, as %s", self._name(), _REASONS[cause])
        self._close(cause, cut=True)

    def waiting(self) -> int:
        """Bytes that wait for the client, those in the streams that are piped in too."""
        return self._buffer.length + sum(inlet.waiting() for inlet in self._inlets[:])

    def server_done(self) -> None:
        """The server has finished with the body, in whatever way: `Body.close`."""
        if self._connection is not None:
            # A worker that stops would else wait for the next request.
            self._connection.release(
                cut=not self._connection.delimited or self._retired == "shutdown"
            )
        self._close("client")
        self._lane.run()

    def _look_after(self, now: float) -> float | None:
        """Whatever is due: a beat, the end of a stalled or an old stream. When next to look."""
        settings = self._settings or PLAIN
        if self._closed:
            return None
        nexts = [float("inf")]
        if settings.send_timeout is not None:
            stalled_at = self._stalled_at(now, settings.send_timeout)
            if now >= stalled_at:
                self.cut("stalled")
                return None
            nexts.append(stalled_at)
        if now >= self._old_at:
            self._old_at = float("inf")
            self.retire("age")
        if settings.heartbeat is not None and not self._retired:
            if now - self._last_write >= settings.heartbeat * EARLIEST:
                self._beat()
                self._last_write = now
            pause = settings.heartbeat * chance.uniform(EARLIEST, 1.0)
            nexts.append(self._last_write + pause)
        nexts.append(self._old_at)
        due = min(nexts)
        return None if due == float("inf") else due

    def _stalled_at(self, now: float, timeout: float) -> float:
        """When the client counts as stalled, if it takes nothing until then."""
        # Looked at twice within the time: once to see what there is, once whether
        # it is less.
        half = timeout / 2
        taken_at = self._buffer.taken_at
        if not taken_at or self._connection is None:
            return now + half
        unsent = self._connection.unsent()
        fewer = unsent is not None and self._unsent is not None and unsent < self._unsent
        if taken_at > self._looked_at or fewer:
            # Another chunk, or less of this one. A full buffer has no room for more
            # before a good part of it has left, and a slow client is not a stalled one.
            self._looked_at, self._unsent = now, unsent
        return self._looked_at + half

    def _beat(self) -> None:
        # Not into a line that is being written, nor behind what waits: a client
        # that takes nothing is not silent for want of a beat.
        if not (self._mid_line or self._buffer.length or self._ended):
            self._buffer.put(BEAT, message=False)
            books.count(heartbeats=1)

    def greet(self, opening: bytes) -> bool:
        """Write what opens every stream; it is no message of the app's."""
        flowing = self.write(opening)
        self._buffer.discount()
        return flowing

    def _name(self) -> str:
        return "an unsent response" if self._connection is None else self._connection.name

    def _client_left(self) -> None:
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
        if self._appointment is not None:
            self._appointment.cancel()
        books.close(self, cause, self._client)
        for inlet in self._inlets[:]:
            inlet.closed()
        self._inlets.clear()
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
        frames, length, drained = message._buffer.give_back()
        if length:
            books.count(messages=frames, bytes=length)
        if drained:
            for inlet in message._inlets[:]:
                inlet.drained()
            message._announce("drain")
        chunk = message._buffer.take()
        if chunk is not None:
            return chunk
        message._close(message._retired or "ended", finished=True)
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
