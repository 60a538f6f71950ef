"""Give one batch of events to many streams, as fast as possible.

The speed of a broadcast depends on this module. Most streams follow one channel, have got all
earlier events, and have nothing waiting. For such streams, all common work is done only once.
Each stream gets the batch by the first of these ways that works:

1. In a `Convoy`: streams on sockets of their own (see ``sender``) that were sent the same last
   batch, and nothing else since. Each stream costs one ``send``.
2. By `hand_round`: other streams that keep up. A stream on a socket of its own is sent to, and
   then joins a convoy. For the other streams, one callback wakes the readers of all.
3. By `feeds.Subscription.give`: all other streams, with filters, several channels or waiting
   frames.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..brokers.broker import Position
from ..http.connection import SEND_FLAGS, SocketType
from ..http.output import Direct
from ..runtime.clock import clock
from ..runtime.loop import Home, logger, new_lock
from ..wire import chunk_of
from .tail import Batch, Cursor, Feed

#: Streams that get a batch before other greenlets have a turn.
TURN = 256

# The send() of the sockets that `Connection.take_over` makes.
_send: Callable[[Any, bytes, int], int] = SocketType.send


class Parcel(NamedTuple):
    """A batch and its bytes on the wire."""

    #: The same fields as in `feeds.Batch`.
    before: Position
    after: Position
    frames: bytes
    messages: int
    #: *frames* as one chunk of a chunked body.
    framed: bytes

    @classmethod
    def of(cls, batch: Batch) -> "Parcel":
        return cls(*batch, chunk_of(batch.frames))


class Convoy:
    """Streams at the same position with nothing waiting, each on a socket of its own.

    All members run in one home. The convoy keeps the position and the counts that change with
    every broadcast, once for all members. A member that is to be sent anything else must leave
    first; `leave` writes the position and the counts back to the member. The lock is held during a
    broadcast, so that a member that leaves from another thread was sent all of the batch or none.
    """

    __slots__ = (
        "_sockets",
        "bytes",
        "home",
        "lock",
        "members",
        "messages",
        "position",
        "written_at",
    )

    def __init__(self, home: Home, position: Position, now: float) -> None:
        self.home = home
        self.position = position
        self.written_at = now
        #: Messages and bytes that each member was sent since the convoy was made.
        self.messages = self.bytes = 0
        self.members: dict[Direct, Cursor] = {}
        # The sockets of all members in the same order. None after a change of the members.
        self._sockets: list[Any] | None = None
        self.lock = new_lock()

    def send(self, parcel: Parcel) -> None:
        """Send *parcel* to all members. Called in the thread of the home."""
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
                # the convoy counts the batch.
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
        """Add *sender*, which has just been sent the same batch as the members, in this home."""
        with self.lock:
            self.members[sender] = cursor
            self._sockets = None
            # `leave` adds the counts of the convoy, which include batches before this moment.
            cursor.delivered -= self.messages
            sender.buffer.messages_left -= self.messages
            sender.buffer.bytes_left -= self.bytes
            cursor.seat = sender
            cursor.convoy = sender.buffer.convoy = self
            cursor.feed.apart.discard(cursor)
            # Another thread may have changed the stream since the caller looked at it.
            if not cursor.simple or cursor.stream._straight is not sender.buffer:
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
            cursor.convoy = buffer.convoy = cursor.seat = None
            cursor.feed.stand_apart(cursor)
            cursor.delivered += self.messages
            buffer.messages_left += self.messages
            buffer.bytes_left += self.bytes
            buffer.written_at = max(buffer.written_at, self.written_at)


def send_to_convoys(feed: Feed, parcel: Parcel, home: Home) -> Iterable[None]:
    """Send *parcel* to the convoys of *feed* that stand just before it.

    Yields before each convoy, so that the caller can let other greenlets run.
    """
    feed.convoys = [convoy for convoy in feed.convoys if convoy.members]
    for convoy in feed.convoys[:]:
        yield
        if convoy.home is home and convoy.position == parcel.before:
            convoy.send(parcel)
        else:  # a listener in another home made the convoy, or it missed a batch
            for sender in list(convoy.members):
                convoy.leave(sender)


def hand_round(feed: Feed, parcel: Parcel, cursors: Iterable[Cursor], home: Home) -> list[Cursor]:
    """Give *parcel* to each of *cursors* that can take all of it at once. Returns the others.

    Called in the thread of *home*. No other greenlet of *home* runs before this returns.
    """
    before, after, frames, messages, framed = parcel
    length = len(framed)
    now = clock.now()
    others: list[Cursor] = []
    wakes: list[Callable[[None], object]] = []
    convoy: Convoy | None = None
    for cursor in cursors:
        buffer = cursor.stream._straight if cursor.simple else None
        # Read the private attribute `_position` for speed: outside of a convoy, `_position` is
        # the position. Ask the buffer for the convoy, which may be a convoy of another channel.
        if buffer is None or buffer.convoy is not None or cursor._position != before:
            others.append(cursor)
            continue
        sender = buffer.direct
        if sender is not None and buffer.asleep is not None and sender.home is home:
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
            buffer.messages_left += messages
            buffer.bytes_left += len(frames)
            if convoy is None or len(convoy.members) >= TURN:
                convoy = _with_room(feed, after, home, now)
            convoy.join(sender, cursor)
            continue
        bell = buffer.put_for_sleeper(frames, messages, now)
        if bell is None:
            if not buffer.put_straight(frames, messages):
                others.append(cursor)
                continue
        elif bell.home is home:
            wakes.append(bell.wake)
        else:
            bell.ring()
        cursor._position = after
        cursor.delivered += messages
    home.in_turn(wakes)
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


def _with_room(feed: Feed, position: Position, home: Home, now: float) -> Convoy:
    convoy: Convoy
    for convoy in feed.convoys:
        if convoy.home is home and convoy.position == position and len(convoy.members) < TURN:
            return convoy
    convoy = Convoy(home, position, now)
    feed.convoys.append(convoy)
    return convoy
