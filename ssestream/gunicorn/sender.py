"""Sends a response's body over its own socket, without a greenlet and without the server.

A server keeps a greenlet, its stack, the request and its environ as long as a response
lasts, and sends through several layers. A `Sender` needs only a non-blocking socket, and
runs in the hub's loop when there is something to do:

* The first write in a turn of the loop is one ``send`` in the writer. Everything else that is
  written in this turn leaves in the next turn, with one ``send`` for each stream (see ``flush``).
* If the socket takes only a part, the rest is kept until the kernel reports room. Meanwhile
  nothing more is taken from the body, so that all bounds hold.
* A broadcast sends without this code, if it can: it frames an event once for all sockets (see
  ``cohort``).

The body is framed as HTTP/1.1 does it (chunked, RFC 9112, section 7.1). For HTTP/1.0 the end
of the connection ends the body. If anything fails here, only its own stream is broken off,
and the socket is closed.
"""

import contextlib
import functools
import math
import socket
from collections.abc import Callable
from typing import Any

from ..http.body import Body
from ..http.output import CHUNK
from ..http.registry import registry
from ..runtime.clock import clock
from ..runtime.loop import Loop, logger
from ..runtime.wheel import TimerHandle, wheel_of
from ..wire import LAST_CHUNK, chunk_of
from .flush import SocketReader, flush_of, send_each

#: Seconds in which the socket must take the last chunk, a few bytes, if the stream has no
#: send timeout.
LAST_SECONDS = 15.0

#: Seconds between two looks at this deadline and at whether the worker stops.
LOOK = 1.0

#: The most bytes that are read at the end, if the client has sent more after its request.
#: When a socket is closed over unread bytes, the kernel drops the bytes that it has not sent
#: yet (RFC 9112, section 9.6).
UNREAD = 1024 * 1024


class Sender(SocketReader):
    """Sends one response. All methods but `begin` and `wake` are called in its loop.

    The sender owns *sock* and closes it. If *chunked* is False, the body is sent without
    framing. *on_end* is called with the sender at the end, for any cause. It may block.
    """

    __slots__ = (
        "_chunked",
        "_deadline",
        "_ended",
        "_flush",
        "_on_end",
        "_plain",
        "_rest",
        "_taken",
        "body",
        "buffer",
    )

    def __init__(
        self,
        body: Body,
        sock: Any,
        chunked: bool,
        on_end: "Callable[[Sender], object]",
    ) -> None:
        self.body = body
        self.sock = sock
        self._chunked = chunked
        self._on_end = on_end
        self._plain = body.is_plain
        # The framed bytes that the socket has not taken yet; None if it has taken all.
        self._rest: memoryview | None = None
        # Checks that the socket takes the last chunk in time; None before.
        self._deadline: TimerHandle | None = None
        # The number of bytes of a body that is not plain: after compression, for example.
        self._taken = 0
        self._ended = False
        self.buffer = body.buffer
        self._flush = flush_of(body.call_queue.loop)

    def begin(self, head: bytes) -> None:
        """Send *head*, and from now on everything that is written."""
        self.buffer.guard_with(self)
        self.body.skip_examination()
        self.body.begin()
        # The head leaves in one segment with what waits.
        piece = head + self.next_piece() if self.buffer.length else head
        if not self._ended and self.has_sent(piece, *send_each([self.sock], [piece])):
            self.wake()

    def break_off(self) -> None:
        """Destroy the response: the client sees a broken transfer."""
        try:
            self.body.finish("error", cut=True)
        finally:
            self._end()

    @property
    def sent(self) -> int:
        """The number of sent bytes of the body, without the chunks' framing."""
        return self.body.sent()[1] if self._plain else self._taken

    @property
    def loop(self) -> Loop:
        return self._flush.loop

    def wake(self) -> None:
        """Wake the sender: there is more to send, or the body has ended. Thread-safe."""
        flush = self._flush
        if flush.loop.here():
            self._wake_here()
        else:
            flush.loop.call(self._wake_here)

    def _wake_here(self) -> None:
        body, buffer = self.body, self.buffer
        # At once: a broadcast must not overtake the bytes that wait now.
        buffer.leave()
        if body.ended or body.over or body.retired:
            # Not at once: the response would be over before the call that ends it returns.
            self._flush.add(self)
        elif self._flush.send(self) and self._rest is not None:
            # The loop can send the rest only after the writer. So the client counts as slow
            # only from the next turn on.
            buffer.taken_since(math.inf)
            self._flush.add(self)

    # -- what goes out

    def wake_now(self, _: None = None) -> None:
        """Send what waits, or end. Only a broadcast that has handed over a frame calls this."""
        self._flush.add(self)

    def next_piece(self) -> bytes:
        if self._ended:
            return b""
        try:
            if self.body.aborted:
                self._end()
                return b""
            if self._rest is not None:
                if self.buffer.taken_at == math.inf:
                    self.buffer.taken_since(clock.now())
                return b""
            try:
                chunk = self.body.take_nowait(self)
            except StopIteration:
                self._finish()
                return b""
            if not self._plain:
                self._taken += len(chunk)
            return chunk_of(chunk) if chunk and self._chunked else chunk
        except Exception:
            self._fail()
            return b""

    def has_sent(self, piece: bytes | memoryview, count: int) -> bool:
        try:
            if count == len(piece):
                self.body.mark_sent()
                return not self.buffer.fall_asleep(self)
            if count < 0:
                self._send_failed()
            else:
                self._keep_rest(memoryview(piece)[count:])
        except Exception:
            self._fail()
        return False

    def _fail(self) -> None:
        logger.exception("%s: its stream failed", self.body.name)
        if self._rest is None:
            # Something was lost, so nothing may follow.
            self._rest = memoryview(b"")
        # Not at once: a writer may be sending, and the response would be over before its call
        # returns. So would a handler's function, which ends only if the loop ends its response.
        self.loop.call(self._cut_failed)

    def _cut_failed(self) -> None:
        try:
            self.break_off()
        except Exception:
            logger.exception("%s: it was cut, and cutting it failed", self.body.name)

    def sent_partly(self, framed: bytes, sent: int, length: int, messages: int) -> None:
        """Go on with *framed*, of which the socket took only *sent* bytes from another sender.

        *framed* holds *messages* messages, of *length* bytes without framing. A *sent* of -1
        means that the connection is broken.
        """
        try:
            if sent < 0:
                self._send_failed()
            else:
                self.buffer.take_unput(length, messages)
                self._keep_rest(memoryview(framed)[sent:])
        except Exception:
            self._fail()

    def _keep_rest(self, rest: memoryview) -> None:
        self._rest = rest
        connection = self.body.connection
        assert connection is not None
        connection.when_writable(self._go_on)

    def _go_on(self) -> None:
        rest, self._rest = self._rest, None
        if self._ended or rest is None:
            return
        [count] = send_each([self.sock], [rest])
        if self.body.closed and count == len(rest):
            self._end()
        elif self.has_sent(rest, count):
            self._flush.add(self)

    # -- the end

    def _finish(self) -> None:
        """Send the last chunk and end, as the body is complete or was broken off."""
        if self.body.aborted or not self._chunked:
            self._end()
            return
        [count] = send_each([self.sock], [LAST_CHUNK])
        if count == len(LAST_CHUNK):
            self._end()
        elif count < 0:
            self._send_failed()
        else:
            self._keep_rest(memoryview(LAST_CHUNK)[count:])
            # The response is closed, so its keepalive no longer looks at the client.
            settings = self.body.settings
            seconds = LAST_SECONDS if settings is None else settings.send_timeout or LAST_SECONDS
            now = clock.now()
            give_up = functools.partial(self._give_up, now + seconds)
            self._deadline = wheel_of(self.loop).add(now + LOOK, give_up)
            connection = self.body.connection
            assert connection is not None
            connection.replace_owner(self)

    def _give_up(self, at: float, now: float) -> float | None:
        if now < at and not registry.draining:
            return now + LOOK
        self._end()
        return None

    def _send_failed(self) -> None:
        # If the response was cut before, this call does nothing.
        self.body.connection_lost()
        self._end()

    def connection_lost(self) -> None:
        """The client has left before it got the last chunk."""
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._rest = None
        if self._deadline is not None:
            self._deadline.cancel()
        body = self.body
        try:
            self.buffer.leave()
            self.buffer.guard_with(None)
            if body.connection is not None:
                body.connection.release(cut=body.aborted)
            if body.breaks_off:
                self._read_unread()
            elif not body.aborted:
                # A child process may have a copy of the socket, which close() leaves open.
                self._say_end()
                self._read_unread()
        finally:
            self.sock.close()
            self.loop.spawn(self._close_body)

    def _say_end(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _read_unread(self) -> None:
        try:
            for _ in range(UNREAD // CHUNK):
                if len(self.sock.recv(CHUNK)) < CHUNK:
                    return
        except OSError:  # nothing to read, or the client has left
            pass

    def _close_body(self) -> None:
        try:
            self.body.close()
        finally:
            # After the handlers of ``close``: another thread or greenlet may run them.
            self.body.call_queue.call_soon(self._on_end, self)
