"""One batch of events handed to many streams, which is what a broadcast costs.

Most streams, at most times, read one channel, have been given all there was, and
have nothing waiting. For them nothing is decided, made or counted that could be
for all of them together. There are three ways, and each stream goes the first
that it can:

1. In a `Convoy`: streams on sockets of their own (see ``sender``) that were sent
   something together and since then nothing else. What is left for each of them
   is one ``send``.
2. By `hand_round`: whoever keeps up. Those with a socket of their own are sent to
   and join a convoy; the readers of the others are woken by one callback.
3. By `feeds.Subscription.give`, with all that there may be to a stream.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .brokers.broker import Position
from .buffer import Direct
from .clock import clock
from .connection import SEND_FLAGS, SocketType
from .feeds import Batch, Cursor, Feed
from .hub import Home, logger, new_lock
from .wire import chunk_of

#: Streams that are handed something before others have their turn.
TURN = 256

# Of the sockets that `Connection.take_over` makes.
_send: Callable[[Any, bytes, int], int] = SocketType.send


class Parcel(NamedTuple):
    """A batch as it leaves."""

    before: Position
    after: Position
    frames: bytes
    messages: int
    #: With the framing of a chunked body around it.
    framed: bytes

    @classmethod
    def of(cls, batch: Batch) -> "Parcel":
        return cls(*batch, chunk_of(batch.frames))


class Convoy:
    """Streams that stand at one position, with nothing waiting for them.

    They have a socket each, in one home. What changes with every broadcast is kept
    here, once for all. Whoever has anything else to be sent leaves it first,
    and takes what is its own along. The lock is held while the convoy is sent to,
    so that who leaves from another thread has been sent either all or nothing.
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
        #: How much each was sent since there is a convoy.
        self.messages = self.bytes = 0
        self.members: dict[Direct, Cursor] = {}
        # Of all of them, in their order; None until it is known again.
        self._sockets: list[Any] | None = None
        self.lock = new_lock()

    def send(self, parcel: Parcel) -> None:
        """Send *parcel* to all. In the thread of its home."""
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
                # It counts what it keeps by itself.
                cursor = self.members.get(sender)
                if cursor is not None:
                    self.leave(sender)
                    cursor.delivered += parcel.messages
            self.messages += parcel.messages
            self.bytes += len(parcel.frames)
        # Without the lock: a stream that is over takes those of its own.
        for sender, sent in missed:
            _keep(sender, framed, sent, len(parcel.frames), parcel.messages)

    def _send_to_all(self, framed: bytes) -> list[int]:
        """How much each member's socket took, and -1 for one that is broken. Under the lock."""
        sockets = self._sockets
        if sockets is None:
            sockets = self._sockets = [sender.sock for sender in self.members]
        counts: list[int] = []
        rest = iter(sockets)
        while len(counts) < len(sockets):
            try:
                # No line of Python for each, as all of these are worth one. Of a call that
                # raises, what came before it is in the list.
                counts.extend(
                    map(_send, rest, itertools.repeat(framed), itertools.repeat(SEND_FLAGS))
                )
            except BlockingIOError:
                counts.append(0)
            except Exception:  # that one is broken, and the others are sent theirs
                counts.append(-1)
        return counts

    def join(self, sender: Direct, cursor: Cursor) -> None:
        """For one that has just been sent what the others were, in the same home."""
        with self.lock:
            self.members[sender] = cursor
            self._sockets = None
            # What it will be sent with the others is added when it leaves.
            cursor.delivered -= self.messages
            sender.buffer.messages_left -= self.messages
            sender.buffer.bytes_left -= self.bytes
            cursor.seat = sender
            cursor.convoy = sender.buffer.convoy = self
            cursor.feed.apart.discard(cursor)
            # Another thread may have changed that since it was looked at.
            if not cursor.simple or cursor.stream._straight is not sender.buffer:
                self.leave(sender)

    def leave(self, sender: Direct) -> None:
        """From any thread. It is nothing to who has left."""
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
    """Send *parcel* to those of *feed* that stand before it; may give way before each."""
    feed.convoys = [convoy for convoy in feed.convoys if convoy.members]
    for convoy in feed.convoys[:]:
        yield
        if convoy.home is home and convoy.position == parcel.before:
            convoy.send(parcel)
        else:  # of a listener that was elsewhere
            for sender in list(convoy.members):
                convoy.leave(sender)


def hand_round(feed: Feed, parcel: Parcel, cursors: Iterable[Cursor], home: Home) -> list[Cursor]:
    """Give the whole of *parcel* to those it can be given at once. Returns the others.

    In the thread of *home*; it is over before anything else runs there.
    """
    before, after, frames, messages, framed = parcel
    length = len(framed)
    now = clock.now()
    others: list[Cursor] = []
    wakes: list[Callable[[None], object]] = []
    convoy: Convoy | None = None
    for cursor in cursors:
        buffer = cursor.stream._straight if cursor.simple else None
        # Its position and its place in a convoy are asked for where they are kept, as this
        # is done for each stream. That may be a convoy of other channels.
        if buffer is None or buffer.convoy is not None or cursor._position != before:
            others.append(cursor)
            continue
        sender = buffer.direct
        if sender is not None and buffer.asleep is not None and sender.home is home:
            # Not taken from who sleeps: nothing else is sent before this returns.
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
    """`Direct.keep` for one of many: its failure is its own.

    If the others were not kept for, their next chunk would follow the middle of this one.
    """
    try:
        sender.keep(framed, sent, length, messages)
    except Exception:
        logger.exception("a stream was broken off, and more than that failed")


def _with_room(feed: Feed, position: Position, home: Home, now: float) -> Convoy:
    convoy: Convoy
    for convoy in feed.convoys:
        if convoy.home is home and convoy.position == position and len(convoy.members) < TURN:
            return convoy
    convoy = Convoy(home, position, now)
    feed.convoys.append(convoy)
    return convoy
