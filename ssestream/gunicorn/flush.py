"""Flush: the first write in a turn of the loop is sent at once, the others in the next turn.

So a write that finds nothing waiting goes out before its writer goes on. The writer may keep the
loop busy for long then. All other writes of the turn leave one after another.
A `send` wakes the client's process, if it runs on the same machine, as a proxy does. If much
happens between two sends, the process falls asleep again after each, and the kernel wakes it each
time. So the waiting bytes of all streams are taken first, and all sends come one after another.
"""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ..http.connection import SEND_FLAGS
from ..http.lent_socket import SocketType
from ..runtime.loop import CALLS_AT_ONCE, Loop
from ..runtime.waker import Wakeable

#: The most pieces of one reader that are sent before other events of the loop have their turn.
PIECES = 4

# The send() of the sockets that `Connection.take_over` makes.
socket_send: Callable[[Any, bytes | memoryview, int], int] = SocketType.send


def send_each(sockets: Iterable[Any], data: Iterable[bytes | memoryview]) -> list[int]:
    """Send the first of *data* to the first of *sockets*, the second to the second, and so on.

    Returns the number of bytes that each socket took; -1 for a broken socket.
    """
    counts: list[int] = []
    sends = map(socket_send, sockets, data, itertools.repeat(SEND_FLAGS))
    while True:
        try:
            # The loop over the sockets runs in C, because a line of Python for each socket takes
            # about as long as all of this. If a send raises, the list has the counts of the sends
            # before it, and `sends` goes on behind it.
            counts.extend(sends)
            return counts
        except BlockingIOError:
            counts.append(0)
        except Exception:  # the socket is broken; go on with the others
            counts.append(-1)


class SocketReader(Wakeable):
    """A reader that sends what it reads to *sock*, which is its own.

    No method raises an ``Exception``.
    """

    __slots__ = ("sock",)

    sock: Any

    def next_piece(self) -> bytes:
        """The next bytes for the socket. After each piece, `has_sent` must be called first.

        Returns no bytes if nothing waits, and if the reader has ended.
        """
        raise NotImplementedError

    def has_sent(self, piece: bytes, count: int) -> bool:
        """The socket took the first *count* bytes of *piece*; -1 if the connection is broken.

        Returns whether there is another piece.
        """
        raise NotImplementedError

    def break_off(self) -> None:
        """Destroy the response: the client sees a broken transfer."""
        raise NotImplementedError


def send_together(readers: Iterable[SocketReader]) -> list[SocketReader]:
    """Let each of *readers*, which are all different, send the next piece of what waits for it.

    Returns the readers that have another piece.
    """
    sending: dict[SocketReader, bytes] = {}
    try:
        for reader in readers:
            piece = reader.next_piece()
            if piece:
                sending[reader] = piece
        counts = send_each([reader.sock for reader in sending], sending.values())
        more = []
        for reader, count in zip(list(sending), counts, strict=True):
            if reader.has_sent(sending.pop(reader), count):
                more.append(reader)
        return more
    finally:
        # A signal handler has raised in the midst. Nobody knows how much of these was sent.
        for reader in sending:
            reader.break_off()


class Flush:
    """Lets the readers of one loop send: one of each turn at once, the others in the next turn."""

    __slots__ = ("__weakref__", "_is_due", "_readers", "_turn", "loop")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._readers: deque[SocketReader] = deque()
        # Whether the loop is about to call `_flush`.
        self._is_due = False
        # The number of the turn, as libev counts turns, in which a reader has last sent at once.
        self._turn = -1

    def send(self, reader: SocketReader) -> bool:
        """Let *reader* send now, or in the next turn if another has sent in this turn.

        Called in the loop's thread. Returns whether *reader* has tried to send.
        """
        turn = self.loop.libev.iteration
        if self._is_due or turn == self._turn:
            self.add(reader)
            return False
        try:
            piece = reader.next_piece()
            if not piece:
                return False
            # Before the send, as its `drain` may cause other writes.
            self._turn = turn
            [count] = send_each((reader.sock,), (piece,))
            # A broken socket counts as one without room: a response that ends here would end
            # inside its writer. The loop watches the socket then, and ends the response.
            more = reader.has_sent(piece, max(count, 0))
        except BaseException:  # raised by a signal handler: see `send_together`
            reader.break_off()
            raise
        if more:
            self.add(reader)
        return True

    def add(self, reader: SocketReader) -> None:
        """Let *reader* send in the next turn. Called in the loop's thread."""
        self._readers.append(reader)
        if not self._is_due:
            self._is_due = True
            self.loop.call_each((self._flush,))

    def _flush(self, _: None = None) -> None:
        try:
            # Not more at a time, so that other events have their turn. A reader that was added
            # twice sends once.
            some = (self._readers.popleft() for _ in range(min(CALLS_AT_ONCE, len(self._readers))))
            more = list(dict.fromkeys(some))
            pieces = 0
            while more and pieces < PIECES:
                more = send_together(more)
                pieces += 1
            self._readers.extend(more)
        finally:
            self._is_due = bool(self._readers)
            if self._is_due:
                self.loop.call_after_events(self._flush)


# By the ids of their loops. A `Flush` refers to its loop, so the id is not given again meanwhile.
_flushes: "weakref.WeakValueDictionary[int, Flush]" = weakref.WeakValueDictionary()


def flush_of(loop: Loop) -> Flush:
    """The one flush of *loop*. It is freed when no sender refers to it."""
    flush = _flushes.get(id(loop))
    return _flushes.setdefault(id(loop), Flush(loop)) if flush is None else flush
