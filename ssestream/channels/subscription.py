"""One stream and the channels that it follows.

The lock of a `Subscription` guards its tuple of cursors, and the order of the frames that its
stream gets. Nobody holds the lock while waiting, or together with the lock of `Tails`.
"""

from collections.abc import Callable, Collection
from typing import Protocol

from ..errors import BufferFull, StreamError
from ..runtime.callables import check_callable
from ..runtime.origin import log_failure
from ..runtime.threads import new_lock
from ..stream import SseStream, flow_of
from ..stream_state import Follower
from ..wire import id_block, with_id
from .carried import NOTHING, Positions, rest_of
from .cursor import NONE, Cursor
from .ending import MAY_BE_CUT, WAS_CLOSED, WAS_CUT, end
from .ids import UNKNOWN, check_fits, format_id
from .publication import Batch, News, Publication, frames_of

#: The most channels that a stream has left, and goes on in from there if it follows them again.
LEFT = 1000

#: Seconds after which a caller asks why it does not get the lock of a `Subscription`.
BRIEFLY = 0.001


class Following(Protocol):
    """The part of an `Exchange` that its subscriptions call."""

    def drained(self, subscription: "Subscription") -> None:
        """Called when the stream of *subscription* takes events again."""

    def gone(self, subscription: "Subscription") -> None:
        """Called when *subscription* follows nothing any more."""

    def passed(self, subscription: "Subscription", cursor: Cursor, unsent: int) -> None:
        """Called after *cursor* has passed *unsent* entries since the last entry that was sent.

        These entries were withheld, and the client does not know them. With 0, the newest entry
        was sent.
        """

    def about_to_end(self, subscription: "Subscription") -> None:
        """Called before the stream of *subscription* ends. It has room for an id."""

    def ended(self, cursor: Cursor) -> None:
        """Called after *cursor* has passed the end of its log."""


class Subscription(Follower):
    """A stream and its cursors, one for each channel."""

    __slots__ = (
        "_exchange",
        "_has_flowed",
        "_held_up",
        "_lock",
        "_pushes",
        "_pushing",
        "carried",
        "closed",
        "cursors",
        "drains",
        "flow",
        "left",
        "stream",
    )

    def __init__(self, stream: SseStream, exchange: Following) -> None:
        self.stream = stream
        self.flow = flow_of(stream)
        #: One cursor for each channel. Every change makes a new tuple: readers need no lock.
        self.cursors: tuple[Cursor, ...] = ()
        #: Positions that ids have besides those of the cursors; None before the first `add`.
        self.carried: Positions | None = None
        #: Whether the stream gets nothing more.
        self.closed = False
        #: How often the stream could take events again, after it could not.
        self.drains = 0
        #: Where the stream stood in each channel that it has left.
        self.left: Positions = NOTHING
        self._exchange = exchange
        # Whether a destination may have got the id that the stream was given first.
        self._has_flowed = bool(self.flow.pipes)
        # Whether ``push()`` is the library's own. An app's subclass may override ``push()``, and
        # must then see every frame.
        self._pushes = getattr(stream.push, "__func__", None) is SseStream.push
        if not self._pushes:
            check_callable("push() of a stream", stream.push)
        # Whether an app's own ``push()`` runs now. Nobody knows whether it has written its event.
        self._pushing = False
        # Whether an event of another channel came meanwhile, in another greenlet.
        self._held_up = False
        self._lock = new_lock()

    @property
    def has_begun(self) -> bool:
        """Whether each cursor has a position. Before that, no event can have a complete id."""
        return None not in [cursor.place.position for cursor in self.cursors]

    def cursor_of(self, name: str) -> Cursor | None:
        for cursor in self.cursors:
            if cursor.name == name:
                return cursor
        return None

    def check_fits(self, names: Collection[str]) -> None:
        """Raise ``ValueError`` if no id has room for *names* and the channels followed already."""
        if self.cursors or len(names) > 1:
            check_fits({cursor.name for cursor in self.cursors}.union(names))

    def add(self, cursors: list[Cursor], carried: Positions) -> list[Cursor]:
        """Follow the channels of *cursors*, and return the cursors of new channels.

        At the first call, *carried* are positions for later ids besides those of the cursors.
        Raises ``ValueError`` if an id has no room for all channels.
        """
        with self._lock:
            new = [cursor for cursor in cursors if self.cursor_of(cursor.name) is None]
            self.check_fits([cursor.name for cursor in new])
            together = (*self.cursors, *new)
            carried = carried if self.carried is None else self.carried
            self.carried = rest_of(carried, [cursor.name for cursor in together])
            self._follow(together)
        return new

    def take_out(self, names: tuple[str, ...]) -> list[Cursor]:
        """Remove and return the cursors of the channels *names*; without names, all cursors."""
        with self._lock:
            taken = [cursor for cursor in self.cursors if not names or cursor.name in names]
            left = dict(self.left)
            for cursor in taken:
                cursor.complicate()
                if cursor.position is not None:
                    left.pop(cursor.name, None)  # the newest is the last one
                    left[cursor.name] = cursor.position
            self.left = dict(list(left.items())[-LEFT:])
            self.carried = rest_of(self.carried or NOTHING, names) if names else NOTHING
            self._follow(tuple(cursor for cursor in self.cursors if cursor not in taken))
        return taken

    def carry_no_more(self) -> bool:
        """Have only the positions of the cursors in later ids.

        Returns False, with nothing done, while an app's own ``push()`` runs in another thread.
        """
        if not self._take_lock():
            return False
        self.carried = NOTHING
        self._follow(self.cursors)
        self._lock.release()
        return True

    def count_drain(self) -> None:
        """The stream takes events again."""
        self.drains += 1

    def close(self) -> None:
        """Give nothing more to the stream."""
        self.closed = True
        for cursor in self.cursors:
            cursor.complicate()

    def release(self) -> list[Cursor]:
        """Remove and return all cursors. Called after `close`.

        Returns none while an app's own ``push()`` runs in another thread. The caller of
        `deliver` then calls `cancel`.
        """
        if not self._take_lock():
            return []
        cursors, self.cursors = self.cursors, ()
        self._lock.release()
        return list(cursors)

    def _take_lock(self) -> bool:
        """Take the lock, or return False if an app's own ``push()`` runs in another thread.

        That may take as long as the app likes, and the hub's loop must not wait for it.
        """
        while not self._lock.acquire(timeout=BRIEFLY):
            if self._pushing:
                return False
        return True

    def cancel(self) -> None:
        """Give nothing more to the stream, and stop following its channels."""
        self.close()
        self._exchange.gone(self)

    def heard(self, event: str) -> None:
        """Act on *event*, which the stream has emitted."""
        if event == "drain":
            self._exchange.drained(self)
        elif event == "close":
            self._exchange.gone(self)

    def piped(self, destination: object) -> None:
        """Send an id to a later destination, but not to all clients for each one that comes."""
        if self._has_flowed and (self.flow.connection is not None or len(self.flow.pipes) == 1):
            self.send_id()
        self._has_flowed = True

    def about_to_end(self) -> None:
        """Send the client an id, if it waits for one. See `Follower.about_to_end`."""
        if not self.closed and self._fits(b""):
            self._exchange.about_to_end(self)

    def end_stream(self, why: str, name: str | None = None) -> None:
        """End the stream; it still delivers its waiting messages, and an id after them.

        *why* is the reason for the log, and *name* the channel concerned, if any.
        """
        # Most clients lack this id: their cursors have passed the control frame that ends them.
        self.send_id()
        self.close()
        # Log in the call queue's turn: a handler of the log may wait, and the caller may hold a
        # lock.
        self.flow.call_queue.call_soon(end, self.stream, why, name)

    def send_id(self, known: str | None = None) -> None:
        """Send the client an id with its positions, unless it has this id already.

        *known* is the id that the client has; None if that is not known. The id comes after all
        events that were given before this call, and before all later events. A browser keeps the
        id of such a block and fires no event (WHATWG HTML, section 9.2.6).

        Sends nothing while an app's own ``push()`` runs. The cursor has passed its event, which
        may not be written yet: with the id, the client would lose it. The event has all positions.
        """
        if not self._take_lock():
            return
        try:
            if self._pushing or self.closed or not self.cursors or not self.has_begun:
                return
            place = self._id()
            if self.flow.settings.id_blocks and place != known:
                self.flow.write_uncounted(id_block(place))
        finally:
            self._lock.release()

    def send_id_after_gap(self, cursor: Cursor) -> None:
        """Do the same after a gap of *cursor*, at once or when the stream has room again."""
        if self._fits(b""):
            self.send_id()
        else:
            self._exchange.passed(self, cursor, 1)

    def deliver_now(self, cursor: Cursor, batch: Batch) -> bool:
        """Give the stream the whole *batch*. Returns False, with nothing given, if each publication
        needs a look; then `deliver` must handle them.
        """
        with self._lock:
            cursors = self.cursors
            if (
                cursor.position != batch.before
                or cursor.filter is not None
                or not self._pushes
                or self.closed
                or cursors != (cursor,)
                or self.carried
                or not self.flow.write_through(batch.frames, batch.messages)
            ):
                return False
            cursor.leave()
            cursor.advance(batch.place, batch.messages)
            return True

    def lose_place(self, cursor: Cursor) -> None:
        """Mark the position of *cursor* as unknown to the log, so that the stream emits a gap."""
        with self._lock:
            cursor.lose_place()

    def obey(self, cursor: Cursor, news: News) -> None:
        """End the stream if *news* takes away its access, or may miss an entry that does.

        Also end it if *news* closes the channel, and *cursor* will not read this in its turn.
        """
        is_cut = any(cursor.is_cut(each) and cursor.is_ended_by(each) for each in news.cuts)
        if not self.closed and (is_cut or (news.may_miss_cut and cursor.cut_frame is not None)):
            self.end_stream(WAS_CUT if is_cut else MAY_BE_CUT, cursor.name)
        elif not self.closed and any(map(cursor.has_skipped, news.closes)):
            self.end_stream(WAS_CLOSED, cursor.name)
        if self.closed:
            self.cancel()

    def break_off(self, name: str, error: Exception) -> None:
        """Log *error* and destroy the stream: otherwise it would silently stand still.

        *name* is the channel concerned. Call this while *error* is handled.
        """
        log_failure(self.flow.call_queue.origin, "channels: %r could not be handed on", name)
        self.cancel()
        self.stream.destroy(error)

    def emit_gap(self, name: str, then: Callable[[], None]) -> None:
        """Let the stream emit ``"gap"`` for the channel *name*, and call *then* afterwards."""
        self.flow.call_queue.call_soon(self.stream.emit, "gap", name)
        self.flow.call_queue.call_soon(then)

    def deliver(
        self, cursor: Cursor, publications: list[Publication], replayed: bool = False
    ) -> bool:
        """Give the stream each of *publications* that *cursor* has not passed yet.

        *replayed* tells whether the publications were read from the log for this cursor. Returns
        False if the stream has no room for every publication, or takes nothing more, or while an
        app's own ``push()`` runs. Raises the error of such a ``push()`` of a stream that is open.
        """
        # Run the filter before the lock is taken, because the filter is an app's code.
        unwanted = cursor.unwanted(publications) if cursor.filter is not None else NONE
        with self._lock:
            cursors = self.cursors
            if cursor not in cursors:
                return False
            if self._pushing:
                # The id of an event that overtook the one in ``push()`` would cover both.
                self._held_up = True
                return False
            alone, stream = len(cursors) == 1 and not self.carried, self.stream
            more, given, silent, ends = True, 0, 0, False
            try:
                publications = publications[cursor.passed(publications) :]
                if alone and self._pushes and cursor.filter is None and not self.closed:
                    frames = frames_of(cursor.name, publications, self.flow.settings)
                    given = self.flow.hand_on_together(frames)
                    if given:
                        cursor.move(publications[given - 1].place)
                for publication in publications[given:]:
                    # An entry that is not sent needs no room.
                    silently = publication.is_control or publication.number in unwanted
                    keeps_up = publication.is_small and not stream.writable_need_drain
                    has_room = silently or keeps_up or self._fits(publication.frame)
                    if self.closed or not has_room:
                        more = False
                        break
                    before = cursor.position
                    cursor.move(publication.place)
                    if silently:
                        silent += 1
                        ends = ends or publication.is_end
                        if publication.is_control and cursor.is_ended_by(publication):
                            why = WAS_CUT if cursor.is_cut(publication) else WAS_CLOSED
                            self.end_stream(why, cursor.name)
                    else:
                        self._push(self._framed(publication, cursor.name, alone))
                        given += 1
                        silent = 0
            except StreamError as error:
                # The error may be another stream's if the app's own push() has raised it.
                if self.flow.ended or self.flow.closed:
                    self.close()
                elif not (self._pushes and isinstance(error, BufferFull)):
                    raise
                else:  # another writer has filled the stream: read on after "drain"
                    cursor.go_to(before)
                    more = False
            except BaseException as error:
                if isinstance(error, Exception):
                    raise
                # An app's push() may raise gevent.Timeout or GreenletExit, for example. Raise an
                # Exception instead, because only this stream fails and the listener must go on.
                raise RuntimeError(f"push() failed: {error!r}") from error
            finally:
                cursor.count(given, given if replayed else 0)
            more = more and not self.closed
        # Call the exchange without the lock, because it may call `send_id`.
        if silent or (given and cursor.filter is not None):
            self._exchange.passed(self, cursor, silent)
        if ends:
            self._exchange.ended(cursor)
        if self._held_up:
            self._held_up = False
            self._exchange.drained(self)
        return more

    def _push(self, frame: bytes) -> None:
        if self._pushes:
            self.flow.hand_on(frame)
            return
        self._pushing = True
        try:
            self.stream.push(frame)
        finally:
            self._pushing = False

    def _follow(self, cursors: tuple[Cursor, ...]) -> None:
        self.cursors = cursors
        call_queue = self.flow.call_queue
        alone = len(cursors) == 1 and not (self.carried or self.closed)
        for cursor in cursors:
            simple = alone and self._pushes and cursor.filter is None
            if simple and call_queue.has_loop and call_queue.loop.cooperative:
                cursor.simplify()
            else:
                cursor.complicate()

    def _fits(self, frame: bytes) -> bool:
        """Whether *frame* fits in the stream. If not, the stream emits ``"drain"`` later."""
        flow = self.flow
        if not flow.has_room():
            return False
        if not flow.need_drain:
            return True
        # The stream should drain first, and a frame beyond its bounds would cut it. So accept
        # only a frame that fits in half of the bytes.
        waiting = flow.waiting_bytes()
        return not waiting or waiting + len(frame) <= flow.settings.max_bytes // 2

    def _framed(self, publication: Publication, name: str, alone: bool) -> bytes:
        single = publication.single(name) if alone else b""
        return single or with_id(publication.frame, self._id().encode())

    def _id(self) -> str:
        followed = {each.name: each.place.position or UNKNOWN for each in self.cursors}
        return format_id({**followed, **(self.carried or NOTHING)})
