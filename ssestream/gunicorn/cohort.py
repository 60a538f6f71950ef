"""GroupedSender and Cohort: streams that a broadcast sends to together.

Most streams of a channel stand at the same position, and nothing waits for them. A broadcast
(see ``channels.fanout``) sends to such streams with one ``send`` each and nothing else:

* The first batch that a `GroupedSender` gets is sent past its buffer. The sender then joins a
  `Cohort`, with others that were sent the same batch.
* The cohort sends each later batch to all of its members in one loop that runs in C.
* The members share one place and one account. So the position and the counts, which change with
  every batch, are written once for all members.

Before anything else is sent to a member, the member leaves. It then stands at the position of the
cohort, and has the counts of the shared account.
"""

import itertools
from typing import Any

from ..channels.cursor import Cursor
from ..channels.fanout import STREAMS_AT_ONCE, DirectReader, SharedPlace
from ..channels.place import Place
from ..channels.publication import Batch
from ..http.account import ALONE, Account
from ..http.connection import SEND_FLAGS
from ..runtime.loop import Loop, logger
from ..runtime.threads import new_lock
from ..runtime.waker import Wakeable
from .flush import send_each
from .sender import Sender


class GroupedSender(Sender, DirectReader):
    """A sender of a body in chunks, without compression. It can be a member of a cohort."""

    __slots__ = ("cursor",)

    #: The cursor that shares the cohort's place; None outside of a cohort.
    cursor: Cursor | None

    def begin(self, head: bytes) -> None:
        self.cursor = None
        super().begin(head)

    def send_batch(self, batch: Batch, cursor: Cursor, now: float) -> None:
        chunk = batch.chunk()
        try:
            sent = self.sock.send(chunk, SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except Exception:
            sent = -1
        cursor.advance(batch.place, batch.messages)
        if sent != len(chunk):
            self.go_on_alone(batch, sent)
            return
        self.buffer.sent_past(batch.messages, len(batch.frames), now)
        _with_room(cursor, self.loop, now).join(self, cursor)

    def go_on_alone(self, batch: Batch, sent: int) -> None:
        """Send the rest of *batch*, of which the socket took only *sent* bytes from a broadcast.

        A *sent* of -1 means that the connection is broken. Logs an error: the broadcast must go
        on, because each other sender must keep its own rest. Otherwise its next chunk would
        follow half a chunk.
        """
        try:
            self.sent_partly(batch.chunk(), sent, len(batch.frames), batch.messages)
        except Exception:
            logger.exception("a stream was cut during a broadcast, and cutting it failed")

    def join(self, cursor: Cursor, account: Account) -> None:
        """Share the place of *cursor*, and *account*, with the other members of a cohort."""
        self.cursor = cursor
        self.buffer.share(account)

    def act_alone(self) -> None:
        """Share nothing any more. The cohort has removed this sender."""
        self.cursor = None
        self.buffer.share(ALONE)

    def leave(self) -> None:
        """Leave the cohort, if this sender is in one. Thread-safe."""
        cursor = self.cursor
        if cursor is not None:
            cursor.leave()


class _SharedAccount(Account):
    """The account of a cohort's members."""

    __slots__ = ()

    def leave(self, reader: Wakeable | None) -> None:
        # None if the sender has ended meanwhile, in its own thread. It has left then.
        if isinstance(reader, GroupedSender):
            reader.leave()


class Cohort(SharedPlace):
    """Streams at the same position with nothing waiting, each on a socket of its own.

    All members run in one loop. The cohort is the place of its members. The lock is held during a
    broadcast, so that a member that leaves from another thread was sent all of the batch or none.
    """

    __slots__ = ("_account", "_lock", "_loop", "_sockets", "members")

    def __init__(self, loop: Loop, place: Place, now: float) -> None:
        super().__init__(place.position)
        self._loop = loop
        self._account = _SharedAccount(now)
        self.members: dict[Cursor, GroupedSender] = {}
        # The sockets of all members in the same order. None after a change of the members.
        self._sockets: list[Any] | None = None
        self._lock = new_lock()

    def __bool__(self) -> bool:
        return bool(self.members)

    def send(self, batch: Batch, loop: Loop, now: float) -> int:
        if loop is not self._loop or batch.before != self.position:
            # A listener in another loop made the cohort, or the cohort missed a batch.
            for cursor in list(self.members):
                self.leave(cursor)
            return 0
        chunk = batch.chunk()
        length = len(chunk)
        missed: list[tuple[GroupedSender, int]] = []
        with self._lock:
            counts = self._send_to_all(chunk)
            if counts.count(length) != len(counts):
                members = zip(self.members.values(), counts, strict=True)
                missed = [(sender, sent) for sender, sent in members if sent != length]
            self.position = batch.after
            for sender, _ in missed:
                # The sender counts the rest of this batch by itself, so the member leaves before
                # the account counts the batch.
                sender.leave()
            self._account.count(batch.messages, len(batch.frames), now)
        # Call these without the lock, because a stream that ends takes locks of its own.
        for sender, sent in missed:
            sender.go_on_alone(batch, sent)
        return len(counts)

    def _send_to_all(self, chunk: bytes) -> list[int]:
        """The bytes that each socket took; -1 for a broken socket. Called with the lock held."""
        sockets = self._sockets
        if sockets is None:
            sockets = self._sockets = [sender.sock for sender in self.members.values()]
        return send_each(sockets, itertools.repeat(chunk))

    def has_room(self, loop: Loop, place: Place) -> bool:
        """Whether a sender of *loop* whose cursor stands at *place* may join."""
        return (
            len(self.members) < STREAMS_AT_ONCE
            and self._loop is loop
            and self.position == place.position
        )

    def join(self, sender: GroupedSender, cursor: Cursor) -> None:
        """Add *sender*, which was sent the same batch as the members. Called in the loop."""
        with self._lock:
            if self._account.messages:
                # The new member was not sent the messages that this account counts.
                self._account = _SharedAccount(self._account.written_at)
                for member in self.members.values():
                    member.buffer.share(self._account)
            self.members[cursor] = sender
            self._sockets = None
            cursor.stand_at(self)
            sender.join(cursor, self._account)
            cursor.tail.apart.discard(cursor)
            # Another thread may have changed the stream since the caller looked at it.
            if not cursor.simple or cursor.flow.output is not sender.buffer:
                self.leave(cursor)

    def leave(self, cursor: Cursor) -> None:
        with self._lock:
            sender = self.members.pop(cursor, None)
            if sender is None:
                return
            self._sockets = None
            cursor.stand_at(Place(self.position))
            sender.act_alone()
            cursor.tail.stand_apart(cursor)


def _with_room(cursor: Cursor, loop: Loop, now: float) -> Cohort:
    """A cohort at the place of *cursor* in *loop* that has room for one more: a new one if none."""
    cohorts: list[Cohort] = cursor.tail.groups
    place = cursor.place
    # The newest first: the others are full, as long as no member leaves them.
    for cohort in reversed(cohorts):
        if cohort.has_room(loop, place):
            return cohort
    cohort = Cohort(loop, place, now)
    cohorts.append(cohort)
    return cohort
