"""The end of each log that this process follows, and which streams have reached it.

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

A `Tails` holds the tails of all channels, under one lock. It lets the broker follow each channel
from its first stream here to its last.
"""

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from ..brokers.broker import Bounds, Broker, Position
from ..runtime.clock import clock
from ..runtime.threads import new_lock
from .cursor import Cursor
from .place import NO_PLACE
from .publication import News, Publication, passed
from .statistics import ChannelStatistics

#: The most entries that a tail keeps, and the most bytes: about the events that a client misses
#: during a reload, on a busy channel.
RECENT, RECENT_BYTES = 256, 256 * 1024


class Tail:
    """A channel that streams of this process follow: their cursors and the last entries.

    A tail keeps no entry that its log has dropped. The lock of `Tails` guards all fields,
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
        #: Groups of live cursors that are sent to together (see `fanout.SharedPlace`).
        self.groups: list[Any] = []
        #: Live cursors in no group, which a broadcast visits one by one.
        self.apart: set[Cursor] = set()
        #: How much the log keeps.
        self.bounds = Bounds()
        #: How far a reader has searched the log for a `CLOSE`, and whether the log has one.
        self.searched, self.has_close = Position("", 0), False
        #: Whether the log has ended.
        self.is_ended = False
        # The cursors that have passed its end; None if there are none.
        self._finished: set[Cursor] | None = None
        #: The last entries up to *position*, without a gap.
        self.recent: deque[Publication] = deque()
        self._recent_bytes = 0
        # The position before the first entry of *recent*.
        self._base: Position | None = None
        # The place of the cursors that went live last.
        self._place = NO_PLACE
        #: Events that streams got in groups. Only broadcasts write it, in one thread.
        self.delivered_together = 0
        #: *delivered*, *replayed* and *gaps* count only for cursors that were removed.
        self.delivered = self.replayed = self.gaps = self.published = 0

    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(
            subscribers=len(self.cursors),
            delivered=self.delivered
            + self.delivered_together
            + sum(cursor.delivered for cursor in self.cursors),
            replayed=self.replayed + sum(cursor.replayed for cursor in self.cursors),
            lagging=len(self.cursors) - len(self.live),
            gaps=self.gaps + sum(cursor.gaps for cursor in self.cursors),
            published=self.published,
        )

    def add(self, cursor: Cursor) -> None:
        """Add *cursor*, which is not live yet."""
        at = cursor.place.position
        if at is None:
            # The broker could not tell the end of the log. The listener hears of every entry
            # after its own position.
            cursor.subscribe_at(self.position)
        if self.position is None:
            self.position = cursor.subscribed_at
        elif self.position == cursor.subscribed_at:
            # Many cursors share one position object, which saves memory.
            if at is cursor.subscribed_at:
                cursor.go_to(self.position)
            cursor.subscribe_at(self.position)
        cursor.join(self)
        self.cursors.add(cursor)

    def remove(self, cursor: Cursor) -> None:
        """Remove *cursor*, and keep its counts."""
        self.cursors.discard(cursor)
        self.take_up(cursor)
        self.fall_behind(cursor)
        cursor.complicate()
        self.delivered += cursor.delivered
        self.replayed += cursor.replayed
        self.gaps += cursor.gaps

    def go_live(self, cursor: Cursor) -> None:
        """Let the listener move *cursor*, which is at the end of the log, from now on."""
        place = cursor.place
        if self._place.position != place.position:
            self._place = place
        # Share one place with the others, which saves memory.
        cursor.stand_at(self._place)
        self.live.add(cursor)
        self.apart.add(cursor)

    def fall_behind(self, cursor: Cursor) -> None:
        """Let readers move *cursor* from now on. Also called when the cursor is removed."""
        self.live.discard(cursor)
        self.apart.discard(cursor)

    def finish(self, cursor: Cursor) -> None:
        """Note that *cursor* has passed the end of the log."""
        self.is_ended = True
        if self._finished is None:
            self._finished = set()
        self._finished.add(cursor)

    def has_finished(self, cursor: Cursor) -> bool:
        """Whether *cursor* has passed the end of the log."""
        return self._finished is not None and cursor in self._finished

    def take_up(self, cursor: Cursor) -> None:
        """Note that *cursor* has not passed the end of the log, which may be another log now."""
        if self._finished is not None:
            self._finished.discard(cursor)

    def holds_up(self, cursor: Cursor) -> bool:
        """Whether *cursor* must read up to the end of the log, and may not go live before."""
        return self.is_ended and not self.has_finished(cursor)

    def note_search(self, end: Position, has_close: bool) -> None:
        """Note that the log was searched for a `CLOSE` up to *end*."""
        self.searched, self.has_close = end, has_close

    def stand_apart(self, cursor: Cursor) -> None:
        """Let a broadcast visit *cursor* by itself, because it has left its group.

        May be called from any thread, without the lock of `Tails`.
        """
        self.apart.add(cursor)
        # Add first and check afterwards. Otherwise a cursor that falls behind between the check
        # and the addition would stay in this set.
        if cursor not in self.live:
            self.apart.discard(cursor)

    def living_groups(self) -> list[Any]:
        """The groups with a member. The others are forgotten."""
        self.groups = [group for group in self.groups if group]
        return self.groups[:]

    def count_together(self, messages: int) -> None:
        """Streams in groups got *messages* more events together."""
        self.delivered_together += messages

    def count_published(self) -> None:
        """This process has published one more event."""
        self.published += 1

    def begin(self, end: Position, is_ended: bool = False) -> None:
        """Begin at *end*, which a read has found, unless the tail has begun already."""
        if self.position is None:
            self.position, self.is_ended = end, is_ended

    def advance(self, news: News) -> None:
        """Move to the end of *news*, which the listener has read, and keep the publications."""
        if news.before is not self.position or self._base is None:
            self.recent.clear()
            self._recent_bytes, self._base = 0, news.before
        self.position, self.bounds = news.end, news.piece.bounds
        self.is_ended = bool(news.piece.ended)
        if not self.is_ended:
            self._finished = None
        self.recent.extend(news.publications)
        self._recent_bytes += sum(len(publication.frame) for publication in news.publications)
        history = self.bounds.history
        keeps = RECENT if history is None else min(RECENT, history)
        while len(self.recent) > keeps or self._recent_bytes > RECENT_BYTES:
            self._forget_oldest()

    def after(self, position: Position) -> list[Publication] | None:
        """The entries after *position*; None if the tail does not keep all of them."""
        if self.position is None:
            return None
        if self.bounds.age is not None:
            oldest = clock.now() - self.bounds.age
            while self.recent and self.recent[0].came_at <= oldest:
                self._forget_oldest()
        before = self._base if self.recent and self._base is not None else self.position
        count = passed(position, before, self.recent, self.position.number)
        if count is None:
            return None
        return [self.recent[n] for n in range(count, len(self.recent))]

    def _forget_oldest(self) -> None:
        publication = self.recent.popleft()
        self._recent_bytes -= len(publication.frame)
        self._base = publication.position


class Tails:
    """The tails of all channels that streams of this process follow, under one lock.

    No method looks at all channels, except where its name says so.
    """

    def __init__(self, broker: Broker) -> None:
        #: Guards all fields of the tails, and which cursors are live. Nobody holds it while
        #: waiting, or together with the lock of a `Subscription`.
        self.lock = new_lock()
        self._broker = broker
        self._tails: dict[str, Tail] = {}
        # The tails without a position, except for those that were left out.
        self._unplaced: dict[str, Tail] = {}
        self._when_forgotten: tuple[Callable[[str, ChannelStatistics], object], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._tails)

    def get(self, name: str) -> Tail | None:
        with self.lock:
            return self._tails.get(name)

    def all(self) -> list[Tail]:
        with self.lock:
            return list(self._tails.values())

    def of(self, cursor: Cursor) -> Tail | None:
        """The tail of *cursor*; None if the cursor was removed. Call this with the lock held."""
        tail = self._tails.get(cursor.name)
        return tail if tail is not None and cursor in tail.cursors else None

    def add(self, cursors: list[Cursor]) -> list[str]:
        """Add *cursors*, which are not live yet. Returns the channels that are new here."""
        new = []
        with self.lock:
            for cursor in cursors:
                tail = self._tails.get(cursor.name)
                if tail is None:
                    new.append(cursor.name)
                    tail = self._tails[cursor.name] = Tail(cursor.name)
                has_begun = tail.position is not None
                tail.add(cursor)
                if not has_begun:
                    self._follow(tail)
        return new

    def when_forgotten(self, function: Callable[[str, ChannelStatistics], object]) -> None:
        """Call *function* with the name and the last numbers of each channel that is forgotten."""
        self._when_forgotten = (*self._when_forgotten, function)

    def remove(self, cursors: list[Cursor]) -> None:
        """Remove *cursors*, and forget each channel that no cursor follows any more."""
        forgotten: list[Tail] = []
        with self.lock:
            for cursor in cursors:
                tail = self.of(cursor)
                if tail is not None:
                    tail.remove(cursor)
                    if not tail.cursors:
                        del self._tails[tail.name]
                        self._unplaced.pop(tail.name, None)
                        self._broker.unfollow(tail.name)
                        forgotten.append(tail)
        for function in self._when_forgotten:
            for tail in forgotten:
                function(tail.name, tail.statistics())

    def found(self, tail: Tail | None, end: Position, is_ended: bool = False) -> None:
        """Let *tail* begin at *end*, which a read has found, unless it has begun already.

        *is_ended* says whether the log has ended.
        """
        with self.lock:
            if tail is not None and tail.position is None and tail.cursors:
                tail.begin(end, is_ended)
                self._follow(tail)

    def follow_again(self, name: str) -> None:
        """Let the broker tell the news of the channel *name* after the position of its tail.

        If the tail has no position, the channel is in `unplaced` again.
        """
        with self.lock:
            tail = self._tails.get(name)
            if tail is not None:
                self._follow(tail)

    def follow_all_again(self) -> None:
        """Do the same for all channels."""
        for tail in self.all():
            self.follow_again(tail.name)

    def unplaced(self, limit: int) -> list[Tail]:
        """At most *limit* of the tails that have no position."""
        with self.lock:
            return list(itertools.islice(self._unplaced.values(), limit))

    def leave_out(self, name: str) -> None:
        """Have the channel *name* in `unplaced` no more, until `follow_again` is called."""
        with self.lock:
            self._unplaced.pop(name, None)

    def _follow(self, tail: Tail) -> None:
        if tail.position is None:
            self._unplaced[tail.name] = tail
        else:
            self._unplaced.pop(tail.name, None)
            # Follow and unfollow with the lock held, so that they reach the broker in order.
            self._broker.follow(tail.name, tail.position)

    def goes_live(self, cursor: Cursor, seen: Position | None) -> bool:
        """Let *cursor* go live if it is at the end of the log. Returns whether it needs no reader.

        *seen* is the position of the tail before a read that found nothing more for *cursor*.
        None if there was no such read.
        """
        with self.lock:
            tail, at = self.of(cursor), cursor.place.position
            if tail is None or cursor.subscription.closed:
                return True
            # A cursor beyond the listener goes live only after a read: otherwise its log may
            # have lost its newest entries.
            live = (
                tail.position is not None
                and at is not None
                and cursor.subscription.has_begun
                and tail.position in (at, seen)
                and not tail.holds_up(cursor)
            )
            if live:
                tail.go_live(cursor)
            return live

    def is_live(self, cursor: Cursor) -> bool:
        with self.lock:
            tail = self.of(cursor)
            return tail is not None and cursor in tail.live

    def behind(self, name: str | None = None) -> list[Cursor]:
        """The cursors that are behind: of the channel *name*, or of all channels."""
        with self.lock:
            tails = self._tails.values() if name is None else filter(None, [self.get(name)])
            return [cursor for tail in tails for cursor in tail.cursors - tail.live]

    def read_points(self, name: str) -> list[int] | None:
        """The entry numbers after which this process must read the channel *name*.

        The first number is the listener's. The second, if any, is the number of the stream that
        is furthest behind. None if no stream follows the channel.
        """
        with self.lock:
            tail = self._tails.get(name)
            if tail is None:
                return None
            listener = tail.position or Position("", 0)
            behind = [at.number for each in self.behind(name) if (at := each.position)]
            return [listener.number, min(behind)] if behind else [listener.number]

    def published(self, name: str) -> None:
        """Count an event that this process has published to the channel *name*."""
        with self.lock:
            tail = self._tails.get(name)
            if tail is not None:
                tail.count_published()

    def statistics(self, name: str) -> ChannelStatistics:
        """The statistics of the channel *name*; all zeros if no stream follows it."""
        with self.lock:
            tail = self._tails.get(name)
            return ChannelStatistics(0, 0, 0, 0, 0, 0) if tail is None else tail.statistics()

    def statistics_of_all(self) -> dict[str, ChannelStatistics]:
        # Take the lock for each channel, and not for all of them together: a broadcast needs it.
        return {tail.name: self.statistics(tail.name) for tail in self.all()}
