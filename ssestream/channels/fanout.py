"""Give one batch of events to many streams, as fast as possible.

The speed of a broadcast depends on this module. Most streams follow one channel, have got all
earlier events, and have nothing waiting. For such streams, all common work is done only once.
Each stream gets the batch by the first of these ways that works:

1. In a `Cohort`: streams on sockets of their own (see ``sender``) that were sent the same last
   batch, and nothing else since. Each stream costs one ``send``.
2. By `broadcast`: other streams that keep up. A stream on a socket of its own is sent to, and
   then joins a cohort. For the other streams, one callback wakes the readers of all.
3. By `Subscription.deliver`: all other streams, with filters, several channels or waiting
   frames.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..brokers.broker import Position
from ..http.connection import SEND_FLAGS, SocketType
from ..http.output import Direct
from ..runtime.clock import clock
from ..runtime.loop import Loop, logger, new_lock
from ..wire import chunk_of
from .publication import Batch
from .subscription import Cursor
from .tail import Tail

#: Streams that get a batch before other greenlets have a turn.
TURN = 256

# The send() of the sockets that `Connection.take_over` makes.
_send: Callable[[Any, bytes, int], int] = SocketType.send


class Parcel(NamedTuple):
    """A batch and its bytes on the wire."""

    #: The same fields as in `publication.Batch`.
    before: Position
    after: Position
    frames: bytes
    messages: int
    #: *frames* as one chunk of a chunked body.
    framed: bytes

    @classmethod
    def of(cls, batch: Batch) -> "Parcel":
        return cls(*batch, chunk_of(batch.frames))


class Cohort:
    """Streams at the same position with nothing waiting, each on a socket of its own.

    All members run in one loop. The cohort keeps the position and the counts that change with
    every broadcast, once for all members. A member that is to be sent anything else must leave
    first; `leave` writes the position and the counts back to the member. The lock is held during a
    broadcast, so that a member that leaves from another thread was sent all of the batch or none.
    """

    __slots__ = (
        "_sockets",
        "bytes",
        "lock",
        "loop",
        "members",
        "messages",
        "position",
        "written_at",
    )

    def __init__(self, loop: Loop, position: Position, now: float) -> None:
        self.loop = loop
        self.position = position
        self.written_at = now
        #: Messages and bytes that each member was sent since the cohort was made.
        self.messages = self.bytes = 0
        self.members: dict[Direct, Cursor] = {}
        # The sockets of all members in the same order. None after a change of the members.
        self._sockets: list[Any] | None = None
        self.lock = new_lock()

    def send(self, parcel: Parcel) -> None:
        """Send *parcel* to all members. Called in the thread of the loop."""
        framed = parcel.framed
        length = len(framed)
        missed: list[tuple[Direct, int]] = []
        with self.lock:
            counts = self._send_to_all(framed)
            if counts.count(length) != len(counts):
                missed = [
                    (sender, sent)
                    for sender, sent in zip(self.members, counts, strict=True)
                    if sent != length
                ]
            self.position = parcel.after
            self.written_at = clock.now()
            for sender, _ in missed:
                # The sender counts the rest of this batch by itself, so the member leaves before
                # the cohort counts the batch.
                cursor = self.members.get(sender)
                if cursor is not None:
                    self.leave(sender)
                    cursor.delivered += parcel.messages
            self.messages += parcel.messages
            self.bytes += len(parcel.frames)
        # Call these without the lock, because a stream that ends takes locks of its own.
        for sender, sent in missed:
            _keep(sender, framed, sent, len(parcel.frames), parcel.messages)

    def _send_to_all(self, framed: bytes) -> list[int]:
        """The bytes that each socket took; -1 for a broken socket. Called with the lock held."""
        sockets = self._sockets
        if sockets is None:
            sockets = self._sockets = [sender.sock for sender in self.members]
        counts: list[int] = []
        rest = iter(sockets)
        while len(counts) < len(sockets):
            try:
                # The loop over the sockets runs in C, because a line of Python for each socket
                # takes about as long as all of this. If a send raises, the list has the counts of
                # the sends before it.
                counts.extend(
                    map(_send, rest, itertools.repeat(framed), itertools.repeat(SEND_FLAGS))
                )
            except BlockingIOError:
                counts.append(0)
            except Exception:  # the socket is broken; go on with the others
                counts.append(-1)
        return counts

    def join(self, sender: Direct, cursor: Cursor) -> None:
        """Add *sender*, which has just been sent the same batch as the members, in this loop."""
        with self.lock:
            self.members[sender] = cursor
            self._sockets = None
            # `leave` adds the counts of the cohort, which include batches before this moment.
            cursor.delivered -= self.messages
            sender.buffer.messages_sent -= self.messages
            sender.buffer.bytes_sent -= self.bytes
            cursor.seat = sender
            cursor.cohort = sender.buffer.cohort = self
            cursor.tail.apart.discard(cursor)
            # Another thread may have changed the stream since the caller looked at it.
            if not cursor.simple or cursor.stream._output is not sender.buffer:
                self.leave(sender)

    def leave(self, sender: Direct) -> None:
        """Take *sender* out. Thread-safe. Does nothing if *sender* is not a member."""
        with self.lock:
            cursor = self.members.pop(sender, None)
            if cursor is None:
                return
            self._sockets = None
            buffer = sender.buffer
            cursor._position = self.position
            cursor.cohort = buffer.cohort = cursor.seat = None
            cursor.tail.stand_apart(cursor)
            cursor.delivered += self.messages
            buffer.messages_sent += self.messages
            buffer.bytes_sent += self.bytes
            buffer.written_at = max(buffer.written_at, self.written_at)


def broadcast_to_cohorts(tail: Tail, parcel: Parcel, loop: Loop) -> Iterable[None]:
    """Send *parcel* to the cohorts of *tail* that stand just before it.

    Yields before each cohort, so that the caller can let other greenlets run.
    """
    tail.cohorts = [cohort for cohort in tail.cohorts if cohort.members]
    for cohort in tail.cohorts[:]:
        yield
        if cohort.loop is loop and cohort.position == parcel.before:
            cohort.send(parcel)
        else:  # a listener in another loop made the cohort, or it missed a batch
            for sender in list(cohort.members):
                cohort.leave(sender)


def broadcast(tail: Tail, parcel: Parcel, cursors: Iterable[Cursor], loop: Loop) -> list[Cursor]:
    """Give *parcel* to each of *cursors* that can take all of it at once. Returns the others.

    Called in the thread of *loop*. No other greenlet of *loop* runs before this returns.
    """
    before, after, frames, messages, framed = parcel
    length = len(framed)
    now = clock.now()
    others: list[Cursor] = []
    wakes: list[Callable[[None], object]] = []
    cohort: Cohort | None = None
    for cursor in cursors:
        buffer = cursor.stream._output if cursor.simple else None
        # Read the private attribute `_position` for speed: outside of a cohort, `_position` is
        # the position. Ask the buffer for the cohort, which may be a cohort of another channel.
        if buffer is None or buffer.cohort is not None or cursor._position != before:
            others.append(cursor)
            continue
        sender = buffer.direct
        if sender is not None and buffer.waiting_reader is not None and sender.loop is loop:
            # The reader stays marked as asleep, because nothing else is sent before this returns.
            try:
                sent = sender.sock.send(framed, SEND_FLAGS)
            except BlockingIOError:
                sent = 0
            except Exception:
                sent = -1
            cursor._position = after
            cursor.delivered += messages
            buffer.written_at = now
            if sent != length:
                _keep(sender, framed, sent, len(frames), messages)
                continue
            buffer.messages_sent += messages
            buffer.bytes_sent += len(frames)
            if cohort is None or len(cohort.members) >= TURN:
                cohort = _with_room(tail, after, loop, now)
            cohort.join(sender, cursor)
            continue
        waker = buffer.hand_to_reader(frames, messages, now)
        if waker is None:
            if not buffer.put_if_clear(frames, messages):
                others.append(cursor)
                continue
        elif waker.loop is loop:
            wakes.append(waker.wake_now)
        else:
            waker.wake()
        cursor._position = after
        cursor.delivered += messages
    loop.call_each(wakes)
    return others


def _keep(sender: Direct, framed: bytes, sent: int, length: int, messages: int) -> None:
    """Call `Direct.keep`, and log an error.

    An error must not stop the broadcast: each other sender must keep its own rest, or its next
    chunk would follow half a chunk.
    """
    try:
        sender.keep(framed, sent, length, messages)
    except Exception:
        logger.exception("a stream was cut during a broadcast, and cutting it failed")


def _with_room(tail: Tail, position: Position, loop: Loop, now: float) -> Cohort:
    cohort: Cohort
    for cohort in tail.cohorts:
        if cohort.loop is loop and cohort.position == position and len(cohort.members) < TURN:
            return cohort
    cohort = Cohort(loop, position, now)
    tail.cohorts.append(cohort)
    return cohort
