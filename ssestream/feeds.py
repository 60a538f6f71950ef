"""Channels as this process follows them, and the streams that read them.

A `Feed` is the end of one channel's log, a `Cursor` where one stream stands in
it. A cursor is in one of two states:

=========  ===========================================  ==============================
state      who moves it                                 becomes the other
=========  ===========================================  ==============================
live       the listener, with whatever comes            when its stream has no room,
                                                        or a hole is before what came
behind     a reader, with what it reads on from the     at the end of the log
           log
=========  ===========================================  ==============================

So a slow stream holds no more than half of what may wait in it, and costs the
others nothing; the rest stays in the log. The last entries of a log are kept by
its feed as well, and mostly nothing is asked of the broker.

Two locks, and neither is held while anybody waits: that of all feeds, for which
cursors are live; that of a subscription, for its set of cursors and the order of
what its stream gets. They are never held together.
"""

import contextvars
import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Hashable
from typing import Any, NamedTuple, Protocol

from .brokers.broker import CONTROL, Bounds, Entry, Position, Slice
from .buffer import Direct
from .callables import check_callable, is_coroutine
from .clock import clock
from .errors import StreamError
from .hub import logger, new_lock
from .origin import enter, log_failure
from .positions import check_fits, format_id
from .printable import escape
from .proxies import behind
from .stream import SseStream
from .wire import Decoder, id_block, is_frame, with_id

#: Entries that a feed keeps, and their bytes: what a client misses that comes back
#: after a reload, on a busy channel.
RECENT, RECENT_BYTES = 256, 256 * 1024

#: Entries that a reader asks the broker for at once, and their bytes.
READ, READ_BYTES = 128, 256 * 1024

#: Bytes of a message that is small: as many of them as may wait before a stream
#: says that it is to drain are far from what may wait at all.
SMALL = 16 * 1024

#: Control frames, which tell the readers of a channel something.
CLOSE = CONTROL + b"close"
CUT = CONTROL + b"cut "

#: What the log says of a stream that is ended, before the name of the channel.
WAS_CUT = "cut() took away its access to the channel"
MAY_BE_CUT = "entries that are lost may have taken away its access to the channel"
WAS_CLOSED = "close_channel() ended the streams of the channel"
#: In the place of what is no message.
UNREADABLE = CONTROL + b"unreadable"

#: Of the items that a cursor without a filter is given, it withholds these.
NONE: Collection[int] = ()

Filter = Callable[[dict[str, str | int]], object]

#: A position in no log at all: of an id that is none of ours. Ids have it, too, so
#: that a client which leaves before it was told of a gap is told when it comes back.
NOWHERE = Position("nowhere", 0)


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """A snapshot of one channel in this process. Counts are since it has subscribers."""

    #: Streams that follow it now.
    subscribers: int
    #: Events handed to streams, as they came or as they were read on from the log.
    delivered: int
    #: Those of them that were read on: for who came back, or was slow.
    replayed: int
    #: Streams that are behind now.
    lagging: int
    #: Times that a stream had missed what the log does not have any more.
    gaps: int
    #: Events that this process has published to it.
    published: int


class Item:
    """One entry on its way to many streams, with what they share of it."""

    __slots__ = (
        "_message",
        "_single",
        "came_at",
        "frame",
        "is_small",
        "is_word",
        "number",
        "position",
    )

    def __init__(self, log: str, entry: Entry) -> None:
        self.number, self.frame, check = entry
        self.position = Position(log, self.number, check)
        frame = self.frame
        self.is_word = frame.startswith(CONTROL)
        if not self.is_word and not is_frame(frame):
            _tell_of_unreadable(log, self.number)
            # It keeps its place, and no stream gets it.
            self.is_word, self.frame = True, UNREADABLE
        self.is_small = len(frame) <= SMALL
        self.came_at = clock.now()
        self._single: bytes | None = None
        self._message: dict[str, str | int] | None = None

    def single(self, name: str) -> bytes:
        """For streams of this channel alone, whose ids are the same."""
        if self._single is None:
            self._single = with_id(self.frame, format_id({name: self.position}).encode())
        return self._single

    def message(self) -> dict[str, str | int]:
        """As a browser would see it, but for the id, which depends on the stream."""
        if self._message is None:
            (self._message,) = Decoder().feed(self.frame)
        return dict(self._message)


# Logs of which it was told that they have such entries, not too many of them.
_told: deque[str] = deque(maxlen=100)


def _tell_of_unreadable(log: str, number: int) -> None:
    if log not in _told:
        _told.append(log)
        logger.error(
            "channels: entry %d of the log %s is no message, and is left out: the log was"
            " damaged, or something else has written to it",
            number,
            escape(log),
        )


def items_of(piece: Slice) -> list[Item]:
    return [Item(piece.log, entry) for entry in piece.entries]


class Batch(NamedTuple):
    """Items that follow each other, for streams that can be given all of them at once."""

    before: Position
    after: Position
    #: For streams of this channel alone.
    frames: bytes
    messages: int


def batches_of(name: str, before: Position, items: list[Item]) -> list[Batch]:
    """All of *items*, in as many batches as are small; none if there is more to them.

    That is where one is a word, not small by itself, or cannot be read.
    """
    batches: list[Batch] = []
    frames: list[bytes] = []
    length = 0
    for number, item in enumerate(items, 1):
        if item.is_word or not item.is_small:
            return []
        try:
            frames.append(item.single(name))
        except ValueError:  # it is not one of ours
            return []
        length += len(frames[-1])
        if length >= SMALL or number == len(items):
            batches.append(Batch(before, item.position, b"".join(frames), len(frames)))
            before, frames, length = item.position, [], 0
    return batches


class Feed:
    """What this process knows of one channel that has subscribers here.

    It keeps no more than its log does.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: Where the listener has got to; None until the broker has said where
        #: the log stands.
        self.position: Position | None = None
        self.cursors: set[Cursor] = set()
        self.live: set[Cursor] = set()
        #: Those of them that move together, and those that do not, which need be looked
        #: at one by one.
        self.convoys: list[Any] = []
        self.apart: set[Cursor] = set()
        #: How much its log keeps.
        self.bounds = Bounds()
        #: The last entries up to *position*, without a hole, and what they follow.
        self.recent: deque[Item] = deque()
        self._recent_bytes = 0
        self._base: Position | None = None
        #: Of cursors that are no more.
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

    def go_live(self, cursor: "Cursor") -> None:
        self.live.add(cursor)
        self.apart.add(cursor)

    def fall_behind(self, cursor: "Cursor") -> None:
        """Or go away."""
        self.live.discard(cursor)
        self.apart.discard(cursor)

    def stand_apart(self, cursor: "Cursor") -> None:
        """It has left its convoy. From any thread, and without the lock of all feeds."""
        self.apart.add(cursor)
        # In this order: else it could have gone away in between, and would stay here.
        if cursor not in self.live:
            self.apart.discard(cursor)

    def advance(self, piece: Slice, items: list[Item]) -> Position:
        """The listener has got *items*. Returns the position that they follow."""
        last = items[-1].position if items else piece.end
        number = items[0].number - 1 if items else last.number
        here = self.position
        if here is not None and here[:2] == (piece.log, number) and not piece.misses(here):
            before = here  # the very object that most cursors have
        else:
            before = Position(piece.log, number)
        if before is not here or self._base is None:
            self.recent.clear()
            self._recent_bytes, self._base = 0, before
        self.position, self.bounds = last, piece.bounds
        self.recent.extend(items)
        self._recent_bytes += sum(len(item.frame) for item in items)
        history = piece.bounds.history
        keeps = RECENT if history is None else min(RECENT, history)
        while len(self.recent) > keeps or self._recent_bytes > RECENT_BYTES:
            self._forget_oldest()
        return before

    def after(self, position: Position) -> list[Item] | None:
        """What came after *position*; None where that is not known here any more."""
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
        # Its log may have had another entry under that number.
        if known.check and position.check and known.check != position.check:
            return None
        return [self.recent[n] for n in range(passed, len(self.recent))]

    def _forget_oldest(self) -> None:
        item = self.recent.popleft()
        self._recent_bytes -= len(item.frame)
        self._base = item.position


class Convoy(Protocol):
    """See ``fanout``."""

    @property
    def position(self) -> Position:
        """Where all of it stands."""

    @property
    def messages(self) -> int:
        """How many it was given since it is there."""

    def leave(self, reader: Direct) -> None:
        """From any thread."""


class Cursor:
    """Where one stream stands in one channel."""

    __slots__ = (
        "_position",
        "began",
        "convoy",
        "delivered",
        "feed",
        "gaps",
        "name",
        "reading",
        "replayed",
        "seat",
        "simple",
        "stream",
        "subscription",
        "told",
        "wanted",
        "word",
    )

    feed: Feed

    def __init__(
        self,
        subscription: "Subscription",
        name: str,
        position: Position | None,
        wanted: Filter | None,
        word: bytes | None,
    ) -> None:
        self.subscription = subscription
        self.stream = subscription.stream
        #: Whether there is nothing to it but its position: no filter, and no other
        #: channel in the ids; in greenlets, among which nothing happens between two
        #: instructions.
        self.simple = False
        self.name = name
        self._position = position
        #: In which its stream is sent to together with others, and as whom.
        self.convoy: Convoy | None = None
        self.seat: Direct | None = None
        #: Where the log ended when it came: a word up to there was said to others.
        #: None where the broker could not say; it obeys all words then, as one who
        #: is ended in error comes back, and one who is left in error stays.
        self.began: Position | None = None
        #: Where the log ended when it was last told of a gap: a snapshot has all that.
        self.told = NOWHERE
        #: The word that takes its access away; None where it was given no key.
        self.word = word
        #: Its filter.
        self.wanted = wanted
        #: A reader has it, or is about to.
        self.reading = False
        #: Without those of a convoy that it is in.
        self.delivered = 0
        self.replayed = self.gaps = 0

    @property
    def position(self) -> Position | None:
        """Behind the last entry that the stream was given.

        None is the end of the log, wherever that is when the broker can be asked.
        """
        convoy = self.convoy
        return self._position if convoy is None else convoy.position

    @position.setter
    def position(self, position: Position | None) -> None:
        self.leave_convoy()
        self._position = position

    @property
    def total(self) -> int:
        """Events that its stream was given."""
        convoy = self.convoy
        return self.delivered if convoy is None else self.delivered + convoy.messages

    def complicate(self) -> None:
        """There is more to it from now on."""
        self.simple = False
        self.leave_convoy()

    def leave_convoy(self) -> None:
        convoy, seat = self.convoy, self.seat
        if convoy is not None and seat is not None:
            convoy.leave(seat)

    def unwanted(self, items: list[Item]) -> Collection[int]:
        """The numbers of those that its filter withholds."""
        unwanted: set[int] = set()
        origin = self.subscription.stream._lane.origin
        assert self.wanted is not None
        for item in items:
            if not item.is_word:
                try:
                    context = contextvars.Context()
                    enter(context, origin)
                    wanted = context.run(self.wanted, item.message())
                    if is_coroutine(wanted):
                        raise TypeError("a filter says yes or no, and this one a coroutine")
                except BaseException:  # a gevent.Timeout is no Exception
                    # It may be there to keep secrets.
                    log_failure(origin, "the filter %r failed", self.wanted)
                    wanted = False
                if not wanted:
                    unwanted.add(item.number)
        return unwanted

    def passed(self, items: list[Item]) -> int:
        """How many of *items*, which follow each other, it was given before."""
        at = self.position
        if at is None or not items or at.log != items[0].position.log:
            return 0
        return max(0, at.number + 1 - items[0].number)

    def is_next(self, before: Position, items: list[Item], last: int) -> bool:
        """Whether nothing is missing between it and *items*, which follow *before*.

        Not if it is beyond the *last* of its log, which has lost its end then, or behind
        an entry that is none of them.
        """
        at = self.position
        if at is None:
            return False
        if at.log == "" and before.number == 0:  # the log has just begun
            return True
        passed = at.number - before.number
        if at.log != before.log or passed < 0 or at.number > last:
            return False
        known = items[passed - 1].position if 0 < passed <= len(items) else before
        if known.number != at.number:
            return True
        return not (known.check and at.check) or known.check == at.check

    def is_beyond(self, piece: Slice) -> bool:
        """Whether its log has lost its end, as that of a machine that crashed may."""
        at = self.position
        return at is not None and at.log == piece.log and at.number > piece.last

    def is_told(self, item: Item) -> bool:
        """Whether it is to obey *item*, a word."""
        began = self.began
        if began is not None and began.log == item.position.log and item.number <= began.number:
            return False
        return item.frame == CLOSE or self.is_cut(item)

    def is_cut(self, item: Item) -> bool:
        return item.frame == self.word


class Keeper(Protocol):
    """Whose subscriptions they are, as far as one knows it."""

    def _drained(self, subscription: "Subscription") -> None:
        """Its stream has room again."""

    def _gone(self, subscription: "Subscription") -> None:
        """It follows nothing any more."""

    def _passed(self, subscription: "Subscription", cursor: Cursor, silently: int) -> None:
        """It has passed entries of which its client does not know, as they were not sent."""


class Subscription:
    """One stream and its cursors."""

    __slots__ = ("_keeper", "_lock", "_pushes", "cursors", "drains", "over", "stream")

    def __init__(self, stream: SseStream, keeper: Keeper) -> None:
        self.stream = stream
        #: One for each channel. Another tuple after every change: it is read without the lock.
        self.cursors: tuple[Cursor, ...] = ()
        self.over = False
        #: How often the stream had room again.
        self.drains = 0
        self._keeper = keeper
        # Whether an app has no ``push()`` of its own that is to see all.
        self._pushes = getattr(stream.push, "__func__", None) is SseStream.push
        if not self._pushes:
            check_callable("push() of a stream", stream.push)
        self._lock = new_lock()

    @property
    def has_begun(self) -> bool:
        """Whether each of its cursors has a place, of which the ids of all events tell."""
        cursors = self.cursors
        if len(cursors) == 1:
            return cursors[0].position is not None
        return all(cursor.position is not None for cursor in cursors)

    def cursor_of(self, name: str) -> Cursor | None:
        for cursor in self.cursors:
            if cursor.name == name:
                return cursor
        return None

    def check_fits(self, names: Collection[str]) -> None:
        """Raises ``ValueError`` where *names* are too many beside those that there are."""
        together = {cursor.name for cursor in self.cursors}.union(names)
        if len(together) > 1:
            check_fits(together)

    def add(self, cursors: list[Cursor]) -> list[Cursor]:
        """Those of them whose channel is new here. Raises ``ValueError`` where it is too many."""
        with self._lock:
            new = [cursor for cursor in cursors if self.cursor_of(cursor.name) is None]
            together = (*self.cursors, *new)
            if len(together) > 1:
                check_fits([cursor.name for cursor in together])
            self._follow(together)
        return new

    def take_out(self, names: tuple[str, ...]) -> list[Cursor]:
        """Those of *names* that there are, or all where none is named; they give nothing more."""
        with self._lock:
            taken = [cursor for cursor in self.cursors if not names or cursor.name in names]
            for cursor in taken:
                cursor.complicate()
            self._follow(tuple(cursor for cursor in self.cursors if cursor not in taken))
        return taken

    def stop(self) -> None:
        """Give nothing more."""
        self.over = True
        for cursor in self.cursors:
            cursor.complicate()

    def let_go(self) -> list[Cursor]:
        """All its cursors, which it knows no more."""
        with self._lock:
            cursors, self.cursors = self.cursors, ()
        return list(cursors)

    def finish(self) -> None:
        """Give nothing more, and let go of the channels."""
        self.stop()
        self._keeper._gone(self)

    def heard(self, event: str) -> None:
        """What its stream has emitted."""
        if event == "drain":
            self._keeper._drained(self)
        elif event == "close":
            self._keeper._gone(self)

    def end(self, why: str, name: str | None = None) -> None:
        """Somebody has said so: what waits is delivered still.

        *why* is for the log, with the *name* of the channel concerned.
        """
        self.stop()
        # In the lane's turn, as handlers of the log may wait, and a lock is held here.
        self.stream._lane.soon(_end, self.stream, why, name)

    def tell_place(self, known: str | None = None) -> None:
        """Let the client know where it stands, if it does not: *known* is the id it has.

        Before any event that was given after this, and behind any before.
        """
        with self._lock:
            if self.over or not self.cursors or not self.has_begun:
                return
            place = self._id()
            if self.stream._settings.id_blocks and place != known:
                self.stream._say(id_block(place))

    def give_at_once(self, cursor: Cursor, batch: Batch) -> bool:
        """Hand on the whole *batch*; False, and nothing of it was, where `give` is to see to it."""
        with self._lock:
            cursors = self.cursors
            if (
                cursor.position != batch.before
                or cursor.wanted is not None
                or not self._pushes
                or self.over
                or cursors != (cursor,)
                or not self.stream._pass(batch.frames, batch.messages)
            ):
                return False
            cursor.position = batch.after
            cursor.delivered += batch.messages
            return True

    def lose_place(self, cursor: Cursor) -> None:
        """The log does not know where *cursor* is; it will be told of a gap."""
        with self._lock:
            cursor.position = cursor.told = NOWHERE

    def give(self, cursor: Cursor, items: list[Item], replayed: bool = False) -> bool:
        """Hand on those of *items* that *cursor* has not passed.

        False once the stream has no room for more, or takes no more at all.
        """
        # Before the lock is taken, as this is an app's code.
        unwanted = cursor.unwanted(items) if cursor.wanted is not None else NONE
        with self._lock:
            cursors = self.cursors
            if cursor not in cursors:
                return False
            alone, stream = len(cursors) == 1, self.stream
            more, given, silent = True, 0, 0
            try:
                for item in items[cursor.passed(items) :]:
                    keeps_up = item.is_small and not stream.writable_need_drain
                    if self.over or not (keeps_up or self._fits(item.frame)):
                        more = False
                        break
                    cursor.position = item.position
                    if item.is_word:
                        silent += 1
                        if cursor.is_told(item):
                            self.end(WAS_CUT if cursor.is_cut(item) else WAS_CLOSED, cursor.name)
                    elif item.number in unwanted:
                        silent += 1
                    else:
                        self._push(item.single(cursor.name) if alone else self._with_id(item.frame))
                        given += 1
                        silent = 0
            except StreamError:  # the app has ended it
                self.stop()
            except BaseException as error:
                if isinstance(error, Exception):
                    raise
                # Not what would end the listener of all: an app's own push() fails for one.
                raise RuntimeError(f"push() failed: {error!r}") from error
            finally:
                cursor.delivered += given
                cursor.replayed += given if replayed else 0
            more = more and not self.over
        # Without the lock, which the keeper takes when it is to tell the client.
        if silent or (given and cursor.wanted is not None):
            self._keeper._passed(self, cursor, silent)
        return more

    def _push(self, frame: bytes) -> None:
        if self._pushes:
            self.stream._hand_on(frame)
        else:
            self.stream.push(frame)

    def _follow(self, cursors: tuple[Cursor, ...]) -> None:
        self.cursors = cursors
        lane = self.stream._lane
        alone = len(cursors) == 1 and not self.over
        for cursor in cursors:
            simple = alone and self._pushes and cursor.wanted is None
            if simple and lane.has_home and lane.home.cooperative:
                cursor.simple = True
            else:
                cursor.complicate()

    def _fits(self, frame: bytes) -> bool:
        """Whether the stream takes *frame* and stays in its bounds; else it will drain."""
        stream = self.stream
        if not stream._has_room():
            return False
        if not stream.writable_need_drain:
            return True
        # Who writes on although told to wait is cut at the bound.
        waiting = stream._waiting_bytes()
        return not waiting or waiting + len(frame) <= stream._settings.max_bytes // 2

    def _with_id(self, frame: bytes) -> bytes:
        return with_id(frame, self._id().encode())

    def _id(self) -> str:
        return format_id({each.name: each.position or NOWHERE for each in self.cursors})


def _end(stream: SseStream, why: str, name: str | None) -> None:
    if not stream.destroyed:
        connection = stream._connection
        logger.info(
            "%s: ended, as %s%s",
            "a stream of no request" if connection is None else connection.name,
            why,
            "" if name is None else f" {name!r}",
        )
    stream.end()


def cut_word(key: Hashable | None) -> bytes | None:
    """What takes the access of *key* away; None where that is None, or a proxy for it.

    Raises ``ValueError`` for a key that cannot be known again: a proxy outside of its
    request, one whose ``repr()`` fails or is that of another object each time.
    """
    try:
        key = behind(key)
        text = repr(key)
    except Exception as error:
        raise ValueError(f"key must have a repr(), and has none here: {error!r}") from error
    if _is_told_by_place(key):
        raise ValueError(
            f"key must have a repr() of its own, and that of {text} is where it lies in memory"
        )
    return None if key is None else CUT + text.encode("utf-8", "backslashreplace")


def _is_told_by_place(key: object) -> bool:
    if isinstance(key, tuple):
        return any(map(_is_told_by_place, key))
    return type(key).__repr__ is object.__repr__
