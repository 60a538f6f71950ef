"""The end of each log here, and which streams are there.

A `Tail` holds the newest entries of one channel's log, and the cursors of all streams that follow
the channel. A cursor has one of two states:

=========  ===========================================  ==============================
state      moved by                                     changes to the other state
=========  ===========================================  ==============================
live       the listener, with new entries               when its stream has no room,
                                                        or entries are missing before
                                                        the new entries
behind     a reader, with entries that it reads from    when it reaches the end of
           the log                                      the log
=========  ===========================================  ==============================

So a slow stream fills only half of its queue, and does not delay other streams; the rest stays in
the log. A tail also keeps the last entries of its log, so a reader mostly need not ask the
broker.

The lock of `Listener` guards which cursors are live. Nobody holds it while waiting, or together
with the lock of a `Subscription`.
"""

import dataclasses
from collections import deque
from typing import Any

from ..brokers.broker import Bounds, Position, Slice
from ..runtime.clock import clock
from .publication import Publication
from .subscription import Cursor

#: The most entries that a tail keeps, and the most bytes: about the events that a client misses
#: during a reload, on a busy channel.
RECENT, RECENT_BYTES = 256, 256 * 1024


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """The numbers of one channel in this process at one moment.

    The counts begin with the channel's first stream in this process, and end with its last.
    """

    #: Streams that follow the channel now.
    subscribers: int
    #: Events that streams have got, live or from the log.
    delivered: int
    #: Events of these that were read from the log, for a stream that came back or was slow.
    replayed: int
    #: Streams that are behind now.
    lagging: int
    #: How often a stream had missed events that the log no longer had.
    gaps: int
    #: Events that this process has published to the channel.
    published: int


class Tail:
    """A channel that streams of this process follow: their cursors and the last entries.

    A tail keeps no entry that its log has dropped. The lock of `Listener` guards all fields,
    except where a method says so.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: The position of the listener; None until the broker has told the end of the log.
        self.position: Position | None = None
        #: All cursors in this channel.
        self.cursors: set[Cursor] = set()
        #: The cursors that the listener moves.
        self.live: set[Cursor] = set()
        #: Groups of live cursors that are sent to together (see ``fanout``).
        self.cohorts: list[Any] = []
        #: Live cursors in no cohort, which a broadcast visits one by one.
        self.apart: set[Cursor] = set()
        #: How much the log keeps.
        self.bounds = Bounds()
        #: The last entries up to *position*, without a gap.
        self.recent: deque[Publication] = deque()
        self._recent_bytes = 0
        # The position before the first entry of *recent*.
        self._base: Position | None = None
        #: *delivered*, *replayed* and *gaps* count only for cursors that were removed.
        self.delivered = self.replayed = self.gaps = self.published = 0

    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(
            subscribers=len(self.cursors),
            delivered=self.delivered + sum(cursor.total for cursor in self.cursors),
            replayed=self.replayed + sum(cursor.replayed for cursor in self.cursors),
            lagging=len(self.cursors) - len(self.live),
            gaps=self.gaps + sum(cursor.gaps for cursor in self.cursors),
            published=self.published,
        )

    def go_live(self, cursor: Cursor) -> None:
        self.live.add(cursor)
        self.apart.add(cursor)

    def fall_behind(self, cursor: Cursor) -> None:
        """Let readers move *cursor* from now on. Also called when the cursor is removed."""
        self.live.discard(cursor)
        self.apart.discard(cursor)

    def stand_apart(self, cursor: Cursor) -> None:
        """Let a broadcast visit *cursor* by itself, because it has left its cohort.

        May be called from any thread, without the lock of `Listener`.
        """
        self.apart.add(cursor)
        # Add first and check afterwards. Otherwise a cursor that falls behind between the check
        # and the addition would stay in this set.
        if cursor not in self.live:
            self.apart.discard(cursor)

    def advance(self, piece: Slice, publications: list[Publication]) -> Position:
        """Move to the end of *piece*, which the listener has read, and keep its *publications*.

        Returns the position before the first of *publications*.
        """
        last = publications[-1].position if publications else piece.end
        number = publications[0].number - 1 if publications else last.number
        here = self.position
        if here is not None and here[:2] == (piece.log, number) and not piece.misses(here):
            before = here  # the same object as in most cursors, which makes a comparison fast
        else:
            before = Position(piece.log, number)
        if before is not here or self._base is None:
            self.recent.clear()
            self._recent_bytes, self._base = 0, before
        self.position, self.bounds = last, piece.bounds
        self.recent.extend(publications)
        self._recent_bytes += sum(len(publication.frame) for publication in publications)
        history = piece.bounds.history
        keeps = RECENT if history is None else min(RECENT, history)
        while len(self.recent) > keeps or self._recent_bytes > RECENT_BYTES:
            self._forget_oldest()
        return before

    def after(self, position: Position) -> list[Publication] | None:
        """The entries after *position*; None if the tail does not keep all of them."""
        mine = self.position
        if mine is None or position.log != mine.log or position.number > mine.number:
            return None
        if self.bounds.age is not None:
            oldest = clock.now() - self.bounds.age
            while self.recent and self.recent[0].came_at <= oldest:
                self._forget_oldest()
        base = self._base if self.recent else mine
        assert base is not None
        passed = position.number - base.number
        if passed < 0:
            return None
        known = base if passed == 0 else self.recent[passed - 1].position
        # The position may be from another past of the log, with another entry at this number.
        if known.check and position.check and known.check != position.check:
            return None
        return [self.recent[n] for n in range(passed, len(self.recent))]

    def _forget_oldest(self) -> None:
        publication = self.recent.popleft()
        self._recent_bytes -= len(publication.frame)
        self._base = publication.position
