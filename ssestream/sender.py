"""A body sent over a socket of its own, with no greenlet and nothing of the server's.

A server keeps a greenlet, its stack, the request and its environ for as long as
a response lasts, and sends through several layers. A `Sender` needs a socket
that does not block, and runs in the hub's loop when there is something to do:

* what is written in one turn of the loop leaves with one ``send``, when the loop
  next comes round (`Sender.wake`);
* what the socket does not take is kept, and goes on when the kernel says that
  there is room; nothing more is taken from the body meanwhile, so that all the
  bounds hold;
* a broadcast does not even come by here, but calls `Sender.send` with what is
  framed once for all (see ``fanout``).

It frames the body as HTTP/1.1 does (chunked, RFC 9112, section 7.1) or, for
HTTP/1.0, ends it with the connection. Whatever fails in here breaks its own
stream off, and no socket stays behind.
"""

import contextlib
import functools
import socket
from collections.abc import Callable
from typing import Any

from .body import Body
from .buffer import CHUNK
from .clock import clock
from .connection import SEND_FLAGS
from .hub import Home, logger
from .outgoing import OutgoingMessage
from .schedule import Appointment, schedule_of
from .statistics import books
from .wire import LAST_CHUNK, chunk_of

#: Chunks of one stream that are sent before others have their turn.
CHUNKS = 4

#: Seconds for the end of a body, which is a few bytes, where the stream has no
#: send timeout of its own to say.
LAST_SECONDS = 15.0

#: Seconds between two looks at whether that is over: as long as others have when
#: their worker stops.
LOOK = 1.0

#: Bytes of what a client has sent behind its request that are read at the end: the
#: kernel takes back what it has not sent yet of a connection that is closed over
#: unread bytes (RFC 9112, section 9.6).
BEHIND = 1024 * 1024


class Sender:
    """That of one response. All but `ring` is called in the loop of its home.

    *sock* is its own to close. *head* is sent before the body. *on_end* is called
    in the end, whatever the cause, where it may block.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_deadline",
        "_ended",
        "_on_end",
        "_plain",
        "_rest",
        "_taken",
        "buffer",
        "home",
        "message",
        "sock",
    )

    def __init__(
        self,
        body: Body,
        message: OutgoingMessage,
        sock: Any,
        chunked: bool,
        on_end: "Callable[[Sender], object]",
    ) -> None:
        self._body = body
        self.message = message
        #: For what is framed already while nothing waits, as well. What it does not take is
        #: for `keep`.
        self.sock = sock
        self._chunked = chunked
        self._on_end = on_end
        self._plain = body.is_plain
        # What is in hand and the socket has not taken.
        self._rest: memoryview | None = None
        # For the end of the body, while the socket does not take it.
        self._deadline: Appointment | None = None
        # Bytes taken from the body, where they are not those that were put.
        self._taken = 0
        self._ended = False
        self.buffer = message._buffer
        self.home: Home = message._lane.home

    def begin(self, head: bytes) -> None:
        """Send *head*, and from now on what comes."""
        self.buffer.guard = self
        if self._chunked and self._plain:
            self.buffer.direct = self
        self._body.goes_alone()
        self.message.begin()
        if self.buffer.length:
            self._take(head)
        elif self._put_out(head):
            self.wake()

    def break_off(self) -> None:
        """It cannot go on, and the client is to see that."""
        try:
            self.message.destroy()
        finally:
            self._end()

    @property
    def sent(self) -> int:
        """Bytes of the body, as the client has it but for the chunks' framing."""
        return self.message.sent()[1] if self._plain else self._taken

    def ring(self) -> None:
        """There is more, or nothing more will come. From any thread."""
        if self.home.here():
            self._ring_here()
        else:
            self.home.call(self._ring_here)

    def _ring_here(self) -> None:
        # At once, as nothing may be sent past what waits now.
        self._leave()
        self.home.in_turn((self.wake,))

    def _leave(self) -> None:
        convoy = self.buffer.convoy
        if convoy is not None:
            convoy.leave(self)

    # -- what goes out

    def wake(self, _: None = None) -> None:
        """There may be more to send, or an end. For `Home.in_turn`."""
        if self._ended:
            return
        try:
            if self.message._aborted:
                self._end()
            elif self._rest is None:
                self._take()
        except Exception:
            self._fail()

    def _fail(self) -> None:
        logger.exception("%s: its stream failed", self.message._name())
        self.break_off()

    def _take(self, head: bytes = b"") -> None:
        """Send what the body has, with *head* before it in the same segment."""
        for _ in range(CHUNKS):
            try:
                chunk = self._body.take_now(self)
            except StopIteration:
                self._finish()
                return
            if not self._plain:
                self._taken += len(chunk)
            if not chunk or not self._put_out(head + (chunk_of(chunk) if self._chunked else chunk)):
                return
            head = b""
            self._body.left()
        self.home.in_turn((self.wake,))

    def _put_out(self, data: bytes | memoryview) -> bool:
        """Whether all of *data* has left; if not, it will, or it is over."""
        try:
            sent = self.sock.send(data, SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return False
        if sent == len(data):
            return True
        self._keep_rest(memoryview(data)[sent:])
        return False

    def keep(self, framed: bytes, sent: int, length: int, messages: int) -> None:
        """The socket took *sent* bytes of *framed*: so many messages, *length* without framing.

        Of a socket that is broken, it took -1.
        """
        try:
            if sent < 0:
                self._lose()
            else:
                self.buffer.take_unput(length, messages)
                self._keep_rest(memoryview(framed)[sent:])
        except Exception:
            self._fail()

    def _keep_rest(self, rest: memoryview) -> None:
        self._rest = rest
        connection = self.message._connection
        assert connection is not None
        connection.when_writable(self._go_on)

    def _go_on(self) -> None:
        rest, self._rest = self._rest, None
        if self._ended or rest is None:
            return
        try:
            if not self._put_out(rest):
                return
            if self.message.closed:
                self._end()
            else:
                self._body.left()
                self._take()
        except Exception:
            self._fail()

    # -- the end

    def _finish(self) -> None:
        """The body is complete, or was broken off."""
        if self.message._aborted or not self._chunked or self._put_out(LAST_CHUNK):
            self._end()
        elif not self._ended:
            # The message is closed: nobody else looks after its client any more.
            settings = self.message._settings
            seconds = LAST_SECONDS if settings is None else settings.send_timeout or LAST_SECONDS
            now = clock.now()
            give_up = functools.partial(self._give_up, now + seconds)
            self._deadline = schedule_of(self.home).add(now + LOOK, give_up)
            connection = self.message._connection
            assert connection is not None
            connection.instead(self)

    def _give_up(self, at: float, now: float) -> float | None:
        if now < at and not books.draining:
            return now + LOOK
        self._end()
        return None

    def _lose(self) -> None:
        # It may be that it was cut, and this is not the first to know.
        self.message._client_left()
        self._end()

    def _client_left(self) -> None:
        """It has left while only the end of the body was missing."""
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._rest = None
        if self._deadline is not None:
            self._deadline.cancel()
        message = self.message
        try:
            self._leave()
            self.buffer.direct = self.buffer.guard = None
            if message._connection is not None:
                message._connection.release(cut=message._aborted)
            if not message._aborted:
                # A child of this process may have a copy of it, which close() leaves open.
                self._say_end()
                self._read_behind()
        finally:
            self.sock.close()
            self.home.spawn(self._let_go)

    def _say_end(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _read_behind(self) -> None:
        try:
            for _ in range(BEHIND // CHUNK):
                if len(self.sock.recv(CHUNK)) < CHUNK:
                    return
        except OSError:  # nothing is there, or nobody
            pass

    def _let_go(self) -> None:
        try:
            self._body.close()
        finally:
            # Behind the handlers, which may be running elsewhere.
            self.message._lane.soon(self._on_end, self)
