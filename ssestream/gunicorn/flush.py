"""Flush: what the streams of one loop write in one turn is sent together, in the next turn.

A `send` wakes the client's process, if it runs on the same machine, as a proxy does. If much
happens between two sends, the process falls asleep again after each, and the kernel wakes it each
time. So the waiting bytes of all streams are taken first, and all sends come one after another.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..http.connection import SEND_FLAGS
from ..http.lent_socket import SocketType
from ..runtime.loop import CALLS_AT_ONCE, Loop
from ..runtime.waker import Wakeable

# The send() of the sockets that `Connection.take_over` makes.
socket_send: Callable[[Any, bytes, int], int] = SocketType.send


def send_each(sockets: Sequence[Any], data: Iterable[bytes]) -> list[int]:
    """Send the first of *data* to the first of *sockets*, the second to the second, and so on.

    Returns the number of bytes that each socket took; -1 for a broken socket.
    """
    counts: list[int] = []
    rest, data = iter(sockets), iter(data)
    while len(counts) < len(sockets):
        try:
            # The loop over the sockets runs in C, because a line of Python for each socket takes
            # about as long as all of this. If a send raises, the list has the counts of the sends
            # before it.
            counts.extend(map(socket_send, rest, data, itertools.repeat(SEND_FLAGS)))
        except BlockingIOError:
            counts.append(0)
        except Exception:  # the socket is broken; go on with the others
            counts.append(-1)
    return counts


class SocketReader(Wakeable):
    """A reader that sends what it reads to *sock*, which is its own."""

    __slots__ = ("sock",)

    sock: Any

    def next_piece(self) -> bytes:
        """The next bytes for the socket. If there are any, `has_sent` must follow.

        Returns no bytes if nothing waits, and if this is over.
        """
        raise NotImplementedError

    def has_sent(self, piece: bytes, count: int) -> None:
        """The socket took the first *count* bytes of *piece*; -1 if the connection is broken."""
        raise NotImplementedError


def send_together(senders: Iterable[SocketReader]) -> None:
    """Let each of *senders* send the next piece of what waits for it. Called in their loop."""
    sending: list[SocketReader] = []
    data: list[bytes] = []
    for sender in senders:
        piece = sender.next_piece()
        if piece:
            sending.append(sender)
            data.append(piece)
    counts = send_each([sender.sock for sender in sending], data)
    for sender, piece, count in zip(sending, data, counts, strict=True):
        sender.has_sent(piece, count)


class Flush:
    """The streams of one loop that have something to send in the next turn."""

    __slots__ = ("__weakref__", "_senders", "loop")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._senders: list[SocketReader] = []

    def add(self, sender: SocketReader) -> None:
        """Let *sender* send in the next turn. Called in the loop."""
        self._senders.append(sender)
        if len(self._senders) == 1:
            self.loop.call_each((self._flush,))

    def _flush(self, _: None = None) -> None:
        # As many streams at a time as `Loop.call_each` makes calls: then others have their turn.
        senders, self._senders = self._senders[:CALLS_AT_ONCE], self._senders[CALLS_AT_ONCE:]
        if self._senders:
            self.loop.call_after_events(self._flush)
        send_together(senders)


# By the ids of their loops. A flush keeps its loop, so no other one gets its id.
_flushes: "weakref.WeakValueDictionary[int, Flush]" = weakref.WeakValueDictionary()


def flush_of(loop: Loop) -> Flush:
    """The one flush of *loop*. It goes with the last sender that has it."""
    flush = _flushes.get(id(loop))
    return _flushes.setdefault(id(loop), Flush(loop)) if flush is None else flush
