"""The position of each stream in each channel, and the newest entries of each log.

A `Tail` holds the newest entries of one channel's log. A `Cursor` is the position of one stream
in one channel. A `Subscription` is one stream with all its cursors. A cursor has one of two
states:

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

Two locks guard the state, and nobody holds either lock while waiting. The lock of `Listener`
guards which cursors are live. The lock of a `Subscription` guards its tuple of cursors and the
order of the frames that its stream gets. Nobody holds both locks at the same time.
"""

import contextvars
import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Hashable
from typing import Any, NamedTuple, Protocol

from ..brokers.broker import CONTROL, Bounds, Entry, Position, Slice
from ..errors import StreamError
from ..http.output import Direct
from ..printable import escape
from ..proxies import behind
from ..runtime.callables import check_callable, is_coroutine
from ..runtime.clock import clock
from ..runtime.loop import logger, new_lock
from ..runtime.origin import enter, log_failure
from ..stream import SseStream
from ..wire import Decoder, id_block, is_frame, with_id
from .ids import check_fits, format_id

#: The most entries that a tail keeps, and the most bytes: about the events that a client misses
#: during a reload, on a busy channel.
RECENT, RECENT_BYTES = 256, 256 * 1024

#: The most entries that a reader asks the broker for at once, and about the most bytes.
READ, READ_BYTES = 128, 256 * 1024

#: The most bytes of a small message. A stream asks its writer to wait for ``"drain"`` long before
#: small messages fill the bytes that may wait.
SMALL = 16 * 1024

#: Control frames: end every stream of the channel, or each stream with the key that follows.
CLOSE = CONTROL + b"close"
CUT = CONTROL + b"cut "

#: Reasons in the log for the end of a stream. The name of the channel follows.
WAS_CUT = "cut() took away its access to the channel"
MAY_BE_CUT = "entries that are lost may have taken away its access to the channel"
WAS_CLOSED = "close_channel() ended the streams of the channel"
#: Replaces a frame that is not a message.
UNREADABLE = CONTROL + b"unreadable"

#: The numbers of the publications that a cursor without a filter withholds.
NONE: Collection[int] = ()

Filter = Callable[[dict[str, str | int]], object]

#: A position in no log, for a stream that came with an id of another kind. Event ids may have
#: this position too. So a client that leaves before its ``"gap"`` gets a gap when it comes back.
UNKNOWN = Position("nowhere", 0)


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


class Publication:
    """An entry of a log on its way to many streams, with the forms that the streams share."""

    __slots__ = (
        "_message",
        "_single",
        "came_at",
        "frame",
        "is_control",
        "is_small",
        "number",
        "position",
    )

    def __init__(self, log: str, entry: Entry) -> None:
        self.number, self.frame, check = entry
        self.position = Position(log, self.number, check)
        frame = self.frame
        self.is_control = frame.startswith(CONTROL)
        if not self.is_control and not is_frame(frame):
            _tell_of_unreadable(log, self.number)
            # The entry keeps its number, and no stream gets it.
            self.is_control, self.frame = True, UNREADABLE
        self.is_small = len(frame) <= SMALL
        self.came_at = clock.now()
        self._single: bytes | None = None
        self._message: dict[str, str | int] | None = None

    def single(self, name: str) -> bytes:
        """The frame with its id, for streams that follow only this channel: their ids are equal."""
        if self._single is None:
            self._single = with_id(self.frame, format_id({name: self.position}).encode())
        return self._single

    def message(self) -> dict[str, str | int]:
        """The message as a browser would see it, without the id, which depends on the stream."""
        if self._message is None:
            (self._message,) = Decoder().feed(self.frame)
        return dict(self._message)


# Logs for which the error was logged, so that each is logged once. The bound limits memory.
_told: deque[str] = deque(maxlen=100)


def _tell_of_unreadable(log: str, number: int) -> None:
    if log not in _told:
        _told.append(log)
        logger.error(
            "channels: entry %d of the log %s is not a message, and is left out: the log is"
            " damaged, or another program has written to the log",
            number,
            escape(log),
        )


def publications_of(piece: Slice) -> list[Publication]:
    return [Publication(piece.log, entry) for entry in piece.entries]


class Batch(NamedTuple):
    """Several publications without a gap between them, in one piece of bytes for one write."""

    #: The position before the first publication.
    before: Position
    #: The position after the last publication.
    after: Position
    #: The frames with their ids, for streams that follow only this channel.
    frames: bytes
    #: The number of messages in *frames*.
    messages: int


def batches_of(name: str, before: Position, publications: list[Publication]) -> list[Batch]:
    """Join all *publications* into batches of about `SMALL` bytes, after the position *before*.

    Returns an empty list if any publication is a control frame, is not small, or cannot get an
    id. Then each stream must handle the publications one by one.
    """
    batches: list[Batch] = []
    frames: list[bytes] = []
    length = 0
    for number, publication in enumerate(publications, 1):
        if publication.is_control or not publication.is_small:
            return []
        try:
            frames.append(publication.single(name))
        except ValueError:  # the frame cannot get an id
            return []
        length += len(frames[-1])
        if length >= SMALL or number == len(publications):
            batches.append(Batch(before, publication.position, b"".join(frames), len(frames)))
            before, frames, length = publication.position, [], 0
    return batches


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

    def go_live(self, cursor: "Cursor") -> None:
        self.live.add(cursor)
        self.apart.add(cursor)

    def fall_behind(self, cursor: "Cursor") -> None:
        """Let readers move *cursor* from now on. Also called when the cursor is removed."""
        self.live.discard(cursor)
        self.apart.discard(cursor)

    def stand_apart(self, cursor: "Cursor") -> None:
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


class Cohort(Protocol):
    """Streams at one position that are sent to together: the part that a cursor needs.

    See ``fanout``.
    """

    @property
    def position(self) -> Position:
        """The position of every member."""

    @property
    def messages(self) -> int:
        """The messages that the cohort was sent since it exists."""

    def leave(self, reader: Direct) -> None:
        """Take *reader* out of the cohort. Thread-safe."""


class Cursor:
    """The position of one stream in one channel."""

    __slots__ = (
        "_position",
        "cohort",
        "cut_frame",
        "delivered",
        "filter",
        "gaps",
        "name",
        "reading",
        "replayed",
        "seat",
        "simple",
        "snapshot_at",
        "stream",
        "subscribed_at",
        "subscription",
        "tail",
    )

    tail: Tail

    def __init__(
        self,
        subscription: "Subscription",
        name: str,
        position: Position | None,
        filter: Filter | None,
        cut_frame: bytes | None,
    ) -> None:
        self.subscription = subscription
        self.stream = subscription.stream
        #: Whether a broadcast may move this cursor by its position alone. The stream then has no
        #: filter and follows no other channel, and its code runs in greenlets, so that no other
        #: code runs between two instructions.
        self.simple = False
        self.name = name
        self._position = position
        #: The cohort that the stream is in, and the member that stands for the stream there. Both
        #: are None outside of a cohort.
        self.cohort: Cohort | None = None
        self.seat: Direct | None = None
        #: The end of the log when the stream subscribed. Control frames up to there are older than
        #: the subscription, and do not concern it. None if the broker could not tell the end; then
        #: the cursor obeys every control frame. The client of a stream that ends by mistake comes
        #: back, but a stream that goes on by mistake would keep its access.
        self.subscribed_at: Position | None = None
        #: The end of the log at the last ``"gap"``. The app's snapshot has all events up to there.
        self.snapshot_at = UNKNOWN
        #: The control frame that takes the stream's access away; None for a stream without a key.
        self.cut_frame = cut_frame
        #: The filter of the stream; None if there is no filter.
        self.filter = filter
        #: Whether a reader has this cursor, or the cursor waits for a reader.
        self.reading = False
        #: Events that the stream got. In a cohort, add the count of the cohort (see `total`).
        self.delivered = 0
        #: Events that were read from the log, and gaps.
        self.replayed = self.gaps = 0

    @property
    def position(self) -> Position | None:
        """The position after the last entry that the stream got or passed over.

        None means the end of the log at the time when the broker can next be asked.
        """
        cohort = self.cohort
        return self._position if cohort is None else cohort.position

    @position.setter
    def position(self, position: Position | None) -> None:
        self.leave_cohort()
        self._position = position

    @property
    def total(self) -> int:
        """The events that the stream got."""
        cohort = self.cohort
        return self.delivered if cohort is None else self.delivered + cohort.messages

    def complicate(self) -> None:
        """Let no broadcast move this cursor by its position alone from now on."""
        self.simple = False
        self.leave_cohort()

    def leave_cohort(self) -> None:
        cohort, seat = self.cohort, self.seat
        if cohort is not None and seat is not None:
            cohort.leave(seat)

    def unwanted(self, publications: list[Publication]) -> Collection[int]:
        """The numbers of the *publications* that the filter withholds."""
        unwanted: set[int] = set()
        origin = self.subscription.stream._call_queue.origin
        assert self.filter is not None
        for publication in publications:
            if not publication.is_control:
                try:
                    context = contextvars.Context()
                    enter(context, origin)
                    wanted = context.run(self.filter, publication.message())
                    if is_coroutine(wanted):
                        raise TypeError("a filter must return yes or no, and returned a coroutine")
                except BaseException:  # gevent.Timeout is not an Exception
                    # Withhold the message: a filter may protect secrets.
                    log_failure(origin, "the filter %r failed", self.filter)
                    wanted = False
                if not wanted:
                    unwanted.add(publication.number)
        return unwanted

    def passed(self, publications: list[Publication]) -> int:
        """How many of *publications*, which have no gap between them, this cursor has passed
        already.
        """
        at = self.position
        if at is None or not publications or at.log != publications[0].position.log:
            return 0
        return max(0, at.number + 1 - publications[0].number)

    def is_next(self, before: Position, publications: list[Publication], last: int) -> bool:
        """Whether no entry is missing between this cursor and *publications*, which follow
        *before*.

        *last* is the number of the newest entry of the log. False if the cursor is beyond *last*,
        because the log then lost its newest entries. Also False if the cursor is after an entry
        with another check than the entry at that number in *publications*.
        """
        at = self.position
        if at is None:
            return False
        if at.log == "" and before.number == 0:  # the log has just got its first entry
            return True
        passed = at.number - before.number
        if at.log != before.log or passed < 0 or at.number > last:
            return False
        known = publications[passed - 1].position if 0 < passed <= len(publications) else before
        if known.number != at.number:
            return True
        return not (known.check and at.check) or known.check == at.check

    def is_beyond(self, piece: Slice) -> bool:
        """Whether the cursor is beyond the end of its log, which then lost its newest entries."""
        at = self.position
        return at is not None and at.log == piece.log and at.number > piece.last

    def is_told(self, publication: Publication) -> bool:
        """Whether the control frame *publication* ends the stream of this cursor."""
        began = self.subscribed_at
        if (
            began is not None
            and began.log == publication.position.log
            and publication.number <= began.number
        ):
            return False
        return publication.frame == CLOSE or self.is_cut(publication)

    def is_cut(self, publication: Publication) -> bool:
        """Whether *publication* takes away the access of this cursor's key."""
        return publication.frame == self.cut_frame


class Keeper(Protocol):
    """The owner of subscriptions, which is a `Channels`: the part that a subscription needs."""

    def _drained(self, subscription: "Subscription") -> None:
        """Called when the stream of *subscription* has room again."""

    def _gone(self, subscription: "Subscription") -> None:
        """Called when *subscription* follows nothing any more."""

    def _passed(self, subscription: "Subscription", cursor: Cursor, silently: int) -> None:
        """Called after *cursor* has passed *silently* entries since the last entry that was sent.

        These entries were withheld, and the client does not know them. With 0, the newest entry
        was sent.
        """


class Subscription:
    """A stream and its cursors, one for each channel."""

    __slots__ = ("_keeper", "_lock", "_pushes", "closed", "cursors", "drains", "stream")

    def __init__(self, stream: SseStream, keeper: Keeper) -> None:
        self.stream = stream
        #: One cursor for each channel. Every change makes a new tuple, so that a reader needs no
        #: lock.
        self.cursors: tuple[Cursor, ...] = ()
        #: Whether the stream gets nothing more.
        self.closed = False
        #: How often the stream has emitted ``"drain"``.
        self.drains = 0
        self._keeper = keeper
        # Whether ``push()`` is the library's own. An app's subclass may override ``push()``, and
        # must then see every frame.
        self._pushes = getattr(stream.push, "__func__", None) is SseStream.push
        if not self._pushes:
            check_callable("push() of a stream", stream.push)
        self._lock = new_lock()

    @property
    def has_begun(self) -> bool:
        """Whether each cursor has a position. Before that, no event can have a complete id."""
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
        """Raise ``ValueError`` if no id has room for *names* and the channels followed already."""
        together = {cursor.name for cursor in self.cursors}.union(names)
        if len(together) > 1:
            check_fits(together)

    def add(self, cursors: list[Cursor]) -> list[Cursor]:
        """Follow the channels of *cursors*, and return the cursors of new channels.

        Raises ``ValueError`` if an id has no room for all channels.
        """
        with self._lock:
            new = [cursor for cursor in cursors if self.cursor_of(cursor.name) is None]
            together = (*self.cursors, *new)
            if len(together) > 1:
                check_fits([cursor.name for cursor in together])
            self._follow(together)
        return new

    def take_out(self, names: tuple[str, ...]) -> list[Cursor]:
        """Remove and return the cursors of the channels *names*; without names, all cursors."""
        with self._lock:
            taken = [cursor for cursor in self.cursors if not names or cursor.name in names]
            for cursor in taken:
                cursor.complicate()
            self._follow(tuple(cursor for cursor in self.cursors if cursor not in taken))
        return taken

    def close(self) -> None:
        """Give nothing more to the stream."""
        self.closed = True
        for cursor in self.cursors:
            cursor.complicate()

    def release(self) -> list[Cursor]:
        """Remove and return all cursors."""
        with self._lock:
            cursors, self.cursors = self.cursors, ()
        return list(cursors)

    def cancel(self) -> None:
        """Give nothing more to the stream, and stop following its channels."""
        self.close()
        self._keeper._gone(self)

    def heard(self, event: str) -> None:
        """Act on *event*, which the stream has emitted."""
        if event == "drain":
            self._keeper._drained(self)
        elif event == "close":
            self._keeper._gone(self)

    def end_stream(self, why: str, name: str | None = None) -> None:
        """End the stream; it still delivers its waiting messages.

        *why* is the reason for the log, and *name* the channel concerned, if any.
        """
        self.close()
        # Log in the call queue's turn: a handler of the log may wait, and the caller may hold a
        # lock.
        self.stream._call_queue.call_soon(_end, self.stream, why, name)

    def tell_place(self, known: str | None = None) -> None:
        """Send the client an id with its positions, unless it has this id already.

        *known* is the id that the client has; None if that is not known. The id comes after all
        events that were given before this call, and before all later events. A browser keeps the
        id of such a block and fires no event (WHATWG HTML, section 9.2.6).
        """
        with self._lock:
            if self.closed or not self.cursors or not self.has_begun:
                return
            place = self._id()
            if self.stream._settings.id_blocks and place != known:
                self.stream._say(id_block(place))

    def deliver_now(self, cursor: Cursor, batch: Batch) -> bool:
        """Give the stream the whole *batch*, if this is possible without a look at each
        publication.

        Returns False if nothing was given; then `deliver` must handle the publications.
        """
        with self._lock:
            cursors = self.cursors
            if (
                cursor.position != batch.before
                or cursor.filter is not None
                or not self._pushes
                or self.closed
                or cursors != (cursor,)
                or not self.stream._write_through(batch.frames, batch.messages)
            ):
                return False
            cursor.position = batch.after
            cursor.delivered += batch.messages
            return True

    def lose_place(self, cursor: Cursor) -> None:
        """Mark the position of *cursor* as unknown to the log, so that the stream emits a gap."""
        with self._lock:
            cursor.position = cursor.snapshot_at = UNKNOWN

    def deliver(
        self, cursor: Cursor, publications: list[Publication], replayed: bool = False
    ) -> bool:
        """Give the stream each of *publications* that *cursor* has not passed yet.

        *replayed* tells whether the publications were read from the log for this cursor. Returns
        False if the stream has no room for every publication, or takes nothing more. Raises the
        error of an app's own ``push()``.
        """
        # Run the filter before the lock is taken, because the filter is an app's code.
        unwanted = cursor.unwanted(publications) if cursor.filter is not None else NONE
        with self._lock:
            cursors = self.cursors
            if cursor not in cursors:
                return False
            alone, stream = len(cursors) == 1, self.stream
            more, given, silent = True, 0, 0
            try:
                for publication in publications[cursor.passed(publications) :]:
                    keeps_up = publication.is_small and not stream.writable_need_drain
                    if self.closed or not (keeps_up or self._fits(publication.frame)):
                        more = False
                        break
                    cursor.position = publication.position
                    if publication.is_control:
                        silent += 1
                        if cursor.is_told(publication):
                            self.end_stream(
                                WAS_CUT if cursor.is_cut(publication) else WAS_CLOSED, cursor.name
                            )
                    elif publication.number in unwanted:
                        silent += 1
                    else:
                        self._push(
                            publication.single(cursor.name)
                            if alone
                            else self._with_id(publication.frame)
                        )
                        given += 1
                        silent = 0
            except StreamError:  # the app has ended the stream
                self.close()
            except BaseException as error:
                if isinstance(error, Exception):
                    raise
                # An app's push() may raise gevent.Timeout or GreenletExit, for example. Raise an
                # Exception instead, because only this stream fails and the listener must go on.
                raise RuntimeError(f"push() failed: {error!r}") from error
            finally:
                cursor.delivered += given
                cursor.replayed += given if replayed else 0
            more = more and not self.closed
        # Call the keeper without the lock, because the keeper may call `tell_place`.
        if silent or (given and cursor.filter is not None):
            self._keeper._passed(self, cursor, silent)
        return more

    def _push(self, frame: bytes) -> None:
        if self._pushes:
            self.stream._hand_on(frame)
        else:
            self.stream.push(frame)

    def _follow(self, cursors: tuple[Cursor, ...]) -> None:
        self.cursors = cursors
        call_queue = self.stream._call_queue
        alone = len(cursors) == 1 and not self.closed
        for cursor in cursors:
            simple = alone and self._pushes and cursor.filter is None
            if simple and call_queue.has_home and call_queue.loop.cooperative:
                cursor.simple = True
            else:
                cursor.complicate()

    def _fits(self, frame: bytes) -> bool:
        """Whether *frame* fits in the stream. If not, the stream emits ``"drain"`` later."""
        stream = self.stream
        if not stream._has_room():
            return False
        if not stream.writable_need_drain:
            return True
        # The stream should drain first, and a frame beyond its bounds would cut it. So accept
        # only a frame that fits in half of the bytes.
        waiting = stream._waiting_bytes()
        return not waiting or waiting + len(frame) <= stream._settings.max_bytes // 2

    def _with_id(self, frame: bytes) -> bytes:
        return with_id(frame, self._id().encode())

    def _id(self) -> str:
        return format_id({each.name: each.position or UNKNOWN for each in self.cursors})


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


def cut_frame(key: Hashable | None) -> bytes | None:
    """The control frame that ends the streams with *key*; None if *key* is None.

    A proxy counts as its value. Raises ``ValueError`` for a key that another process cannot
    recognise: a proxy outside of its request, a key with a failing ``repr()``, or a key with its
    address in memory in its ``repr()``.
    """
    try:
        key = behind(key)
        text = repr(key)
    except Exception as error:
        raise ValueError(f"key must have a repr(), which fails here: {error!r}") from error
    if _is_told_by_place(key):
        raise ValueError(
            f"key must have a repr() of its own: {text} contains the address of the object"
        )
    return None if key is None else CUT + text.encode("utf-8", "backslashreplace")


def _is_told_by_place(key: object) -> bool:
    if isinstance(key, tuple):
        return any(map(_is_told_by_place, key))
    return type(key).__repr__ is object.__repr__
