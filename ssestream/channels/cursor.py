"""Cursor: the position of one stream in one channel."""

import contextvars
from collections.abc import Callable, Collection
from typing import Any

from ..brokers.broker import Position
from ..runtime.callables import is_no_answer
from ..runtime.origin import enter, log_failure
from .ids import UNKNOWN
from .place import NO_PLACE, Place
from .publication import CLOSE, Publication

#: The numbers of the publications that a cursor without a filter withholds.
NONE: Collection[int] = ()

Filter = Callable[[dict[str, str | int]], object]


class Cursor:
    """The position of one stream in one channel."""

    __slots__ = (
        "cut_frame",
        "delivered",
        "filter",
        "flow",
        "gaps",
        "name",
        "place",
        "reading",
        "replayed",
        "simple",
        "snapshot_at",
        "subscribed_at",
        "subscription",
        "tail",
    )

    subscription: Any  # a Subscription
    tail: Any  # a Tail

    def __init__(
        self,
        subscription: Any,
        name: str,
        position: Position | None,
        filter: Filter | None,
        cut_frame: bytes | None,
    ) -> None:
        self.subscription = subscription
        self.flow = subscription.flow
        #: Whether a broadcast may move this cursor by its position alone. The stream then has no
        #: filter and follows no other channel, and its code runs in greenlets, so that no other
        #: code runs between two instructions.
        self.simple = False
        self.name = name
        #: Where the stream stands. Other streams may share this place.
        self.place = NO_PLACE if position is None else Place(position)
        #: The end of the log when the stream subscribed. Control frames up to there are older than
        #: the subscription, and do not concern it. If the broker could not tell the end, this is
        #: the position of the listener then. None if the listener had no position either; then the
        #: cursor obeys every control frame. The client of a stream that ends by mistake comes
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
        #: Events that the stream got outside of a group. `Tail` counts the events of groups.
        self.delivered = 0
        #: Events that were read from the log, and gaps.
        self.replayed = self.gaps = 0

    @property
    def position(self) -> Position | None:
        """The position after the last entry that the stream got or passed over.

        None means the end of the log at the time when the broker can next be asked.
        """
        return self.place.position

    def go_to(self, position: Position | None) -> None:
        """Stand at *position* from now on."""
        self.move(Place(position))

    def move(self, place: Place) -> None:
        """Stand at *place* from now on."""
        self.leave()
        self.place = place

    def stand_at(self, place: Place) -> None:
        """Stand at *place* from now on. Only for a cursor that is in no group."""
        self.place = place

    def advance(self, place: Place, messages: int) -> None:
        """The stream got *messages* more events, up to *place*. Only outside of a group."""
        self.place = place
        self.delivered += messages

    def lose_place(self) -> None:
        """Stand at a position that no log knows, so that the stream emits a gap."""
        self.go_to(UNKNOWN)
        self.snapshot_at = UNKNOWN

    def join(self, tail: Any) -> None:
        """Belong to *tail* from now on."""
        self.tail = tail

    def subscribe_at(self, end: Position | None) -> None:
        """Obey no control frame up to *end*; with None, obey every control frame."""
        self.subscribed_at = end

    def start_reading(self) -> None:
        """A reader has this cursor from now on, or the cursor waits for a reader."""
        self.reading = True

    def stop_reading(self) -> None:
        """No reader has this cursor any more."""
        self.reading = False

    def note_gap(self, end: Position) -> None:
        """The stream has missed entries. The app's snapshot will have all events up to *end*."""
        self.gaps += 1
        self.snapshot_at = end

    def count(self, delivered: int, replayed: int) -> None:
        """The stream got *delivered* more events, *replayed* of them from the log."""
        self.delivered += delivered
        self.replayed += replayed

    def leave(self) -> None:
        """Act alone from now on. Does nothing if the cursor is in no group. Thread-safe."""
        self.place.leave(self)

    def simplify(self) -> None:
        """Let a broadcast move this cursor by its position alone."""
        self.simple = True

    def complicate(self) -> None:
        """Let no broadcast move this cursor by its position alone from now on."""
        self.simple = False
        self.leave()

    def unwanted(self, publications: list[Publication]) -> Collection[int]:
        """The numbers of the *publications* that the filter withholds."""
        unwanted: set[int] = set()
        origin = self.flow.call_queue.origin
        assert self.filter is not None
        for publication in publications:
            if not publication.is_control:
                try:
                    context = contextvars.Context()
                    enter(context, origin)
                    wanted = context.run(self.filter, publication.message())
                    # Nearly every filter returns a bool.
                    if wanted is not True and wanted is not False and is_no_answer(wanted):
                        kind = type(wanted).__name__
                        raise TypeError(f"a filter must return yes or no, and returned a {kind}")
                except BaseException:  # gevent.Timeout is not an Exception
                    # Withhold the message: a filter may protect secrets.
                    log_failure(origin, "the filter %r failed", self.filter)
                    wanted = False
                if not wanted:
                    unwanted.add(publication.number)
        return unwanted

    def passed(self, publications: list[Publication]) -> int:
        """How many of *publications* this cursor has passed. They have no gap between them."""
        at = self.position
        if at is None or not publications or at.log != publications[0].position.log:
            return 0
        return max(0, at.number + 1 - publications[0].number)

    def is_ended_by(self, publication: Publication) -> bool:
        """Whether the control frame *publication* ends the stream of this cursor."""
        since = self.subscribed_at
        if (
            since is not None
            and since.log == publication.position.log
            and publication.number <= since.number
        ):
            return False
        return publication.frame == CLOSE or self.is_cut(publication)

    def has_skipped(self, control: Publication) -> bool:
        """Whether the control frame *control* ends the stream, and this cursor will not read it.

        Such a cursor had no position when its stream subscribed, and begins after *control*.
        """
        if self.position is None:
            return self.is_ended_by(control)
        # Without `subscribed_at`, the position is one that the client has brought.
        return (
            self.subscribed_at is not None
            and self.passed([control]) > 0
            and self.is_ended_by(control)
        )

    def is_cut(self, publication: Publication) -> bool:
        """Whether *publication* takes away the access of this cursor's key."""
        return publication.frame == self.cut_frame
