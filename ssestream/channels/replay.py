"""Read on from the logs for the cursors that are behind, and tell streams of gaps.

A cursor is behind if its stream came back with an id, if its stream was slow, or if the listener
missed entries. A reader reads the log for the cursor until the cursor is live.
"""

from collections import deque

from ..brokers.broker import Broker, Busy, ChannelError, Position, Slice
from ..errors import BrokerError
from ..runtime.loop import checkpoint
from .ailing import Ailing
from .cursor import Cursor
from .ending import UNHEARD_CLOSE, UNHEARD_CUT, note_end
from .health import Health
from .history import before_last
from .ids import UNKNOWN
from .leases import Leases
from .place import Place
from .publication import CLOSE, publications_of
from .subscription import Subscription
from .tail import Tails
from .tasks import spawn, start_again

#: The most readers at the same time. Readers mostly wait for the broker, and more readers would
#: only delay the listener there.
READERS = 4

#: The most entries that a reader asks the broker for at once, and about the most bytes.
READ, READ_BYTES = 128, 256 * 1024

#: The most latest events, and reads of the broker, for which a request itself looks where its
#: stream begins. A reader does the rest: a log may end with thousands of control frames.
LOOKS_FOR, LOOKS = 256, 4

#: For `Replay.place`: begin before the first entry ever, and not with the latest ones.
ALL = -1


class Replay:
    """The readers of one `Listener`, and the cursors that wait for a reader."""

    def __init__(self, broker: Broker, tails: Tails, health: Health, leases: Leases) -> None:
        self._broker = broker
        self._tails = tails
        self._health = health
        self._leases = leases
        #: The channels that fail while the broker works.
        self.ailing = Ailing(broker, tails, self.resume)
        # The lock of the tails guards the following fields, and `reading` of each cursor.
        # The number of readers, and the cursors that wait for a reader.
        self._readers = 0
        self._behind: deque[Cursor] = deque()
        # For each cursor without a position: how many of the latest events it begins with, or
        # `ALL`; and the log up to the last of these, if it is known.
        self._latest: dict[Cursor, tuple[int, Slice | None]] = {}

    @property
    def is_running(self) -> bool:
        """Whether a reader runs."""
        return self._readers > 0

    # -- where a cursor begins

    def place(self, cursors: list[Cursor], latest: int) -> list[Cursor]:
        """Ask the broker where each of *cursors* begins, before they are added.

        A cursor without a position begins with the last *latest* events, or with `ALL`. While
        the broker is down, nothing is asked; readers then place the cursors when the broker is
        back. A reader also places a cursor for which this takes many reads. Returns the cursors
        at the end of a log that has ended: they have all of it.
        """
        finished: list[Cursor] = []
        if latest:
            with self._tails.lock:
                unplaced = [each for each in cursors if each.position is None]
                self._latest.update((each, (latest, None)) for each in unplaced)
        # Only the listener tries a broker that is down, so no request waits for it.
        if self._health.is_down:
            return finished
        try:
            for cursor in cursors:
                try:
                    if self._place(cursor):
                        finished.append(cursor)
                except ChannelError as error:
                    self.ailing.add(error, listener=False)
        except BrokerError:  # the listener meets the same error, and logs it
            pass
        except BaseException:  # a view's gevent.Timeout, for example: the cursors are not added
            self.forget(cursors)
            raise
        return finished

    def _place(self, cursor: Cursor) -> bool:
        """Give *cursor* its first position. Returns whether it has all of a log that has ended."""
        at = cursor.place.position
        piece = self._broker.read(cursor.name, 0 if at is None else at.number, 0, 0)
        self._leases.note(cursor.name, piece)
        cursor.subscribe_at(piece.end)
        if at is None:
            self._begin(cursor, piece, LOOKS)
        elif piece.misses(at):
            # The position may be invented by the client. No later id may contain it.
            cursor.go_to(UNKNOWN)
        elif at.number == piece.last and at.log == piece.log:
            cursor.go_to(piece.end)
        if not piece.ended:
            return False
        at = cursor.position
        # The client may have left before it got the id of the end itself.
        done = at is not None and at.log == piece.log and piece.ended <= at.number + 1
        if done and piece.first <= piece.ended:
            cursor.go_to(piece.end)
        return done

    def _begin(self, cursor: Cursor, piece: Slice, looks: int | None = None) -> None:
        """Give *cursor* its first position: before its latest events, or at the end of the log.

        With *looks*, leave this to a reader if more reads of the broker are needed.
        """
        with self._tails.lock:
            latest, known = self._latest.get(cursor, (0, None))
        if known is not None and known.log == piece.log:
            piece = known  # later events are not among the latest ones, and follow them
        before: Position | None = piece.end
        # Nothing comes any more to a log that has ended, so give what there is.
        if latest == ALL or (piece.ended and not latest):
            before = Position(piece.log, 0) if piece.last else before
        elif latest:
            many = looks is not None and latest > LOOKS_FOR
            before = None if many else before_last(self._broker, cursor.name, piece, latest, looks)
        with self._tails.lock:
            if before is None:
                self._latest[cursor] = latest, piece
            elif cursor.place.position is None:
                self._latest.pop(cursor, None)
                # A cursor without a position is in no group.
                cursor.stand_at(Place(before))

    def forget(self, cursors: list[Cursor]) -> None:
        """Forget *cursors*, which are removed."""
        with self._tails.lock:
            for cursor in cursors:
                self._latest.pop(cursor, None)

    # -- the cursors that are behind

    def start(self, cursor: Cursor) -> None:
        """Let *cursor* go live, or else read on."""
        if not self._goes_live(cursor):
            self.read_on(cursor)

    def drained(self, cursor: Cursor) -> None:
        """Let *cursor* read on if it is behind, because its stream takes events again."""
        if not self._tails.is_live(cursor):
            self.read_on(cursor)

    def read_on_all(self) -> None:
        """Let all cursors that are behind read on, because the broker is back."""
        for cursor in self._tails.behind():
            self.read_on(cursor)

    def resume(self, name: str) -> None:
        """Let all cursors of the channel *name* that are behind read on: it can be read again."""
        for cursor in self._tails.behind(name):
            # A stream of several channels cannot begin until all its positions are known. So let
            # its other cursors try again, too.
            for each in cursor.subscription.cursors:
                self.drained(each)
        self._tails.follow_again(name)
        self._broker.wake()

    def read_on(self, cursor: Cursor) -> None:
        """Let a reader move *cursor* soon, if the cursor is behind and its stream goes on."""
        if cursor.subscription.closed:
            cursor.subscription.cancel()
            return
        with self._tails.lock:
            if cursor.reading or self._tails.of(cursor) is None:
                return
            cursor.start_reading()
            self._behind.append(cursor)
            start = self._readers < READERS
            if start:
                self._readers += 1
        if start:
            spawn(self._read)

    def _goes_live(self, cursor: Cursor, seen: Position | None = None) -> bool:
        """Let *cursor* go live if it is at the end of the log. Returns whether it needs no reader.

        *seen* is the position of the listener before a read that found nothing more for *cursor*.
        None if there was no such read.
        """
        with self._tails.lock:
            done = self._tails.goes_live(cursor, seen)
            if done:
                cursor.stop_reading()
            return done

    # -- the readers

    def _read(self) -> None:
        try:
            while True:
                with self._tails.lock:
                    # Drop the queue while the broker is down. When the broker is back, the
                    # listener lets all cursors that are behind read on.
                    while self._behind and self._health.is_down:
                        self._behind.popleft().stop_reading()
                    if not self._behind:
                        self._readers -= 1
                        return
                    cursor = self._behind.popleft()
                self._read_for(cursor)
                checkpoint()
        except BaseException as error:
            start_again(self._read, error)

    def _read_for(self, cursor: Cursor) -> None:
        again = False
        try:
            again = self._catch_up(cursor)
        except Busy:  # the call has already waited for a connection
            again = True
        except ChannelError as error:
            self._pause(cursor)
            self.ailing.add(error, listener=False)
        except BrokerError as error:
            # Let the listener log the error, and let it start the readers when the broker is back.
            with self._tails.lock:
                cursor.stop_reading()
                self._health.note(error)
            self._broker.wake()
        except Exception as error:
            cursor.subscription.break_off(cursor.name, error)
        except BaseException:
            again = True
            raise
        finally:
            if again:
                # At the end of the queue, so that the other cursors have their turn.
                with self._tails.lock:
                    self._behind.append(cursor)

    def _pause(self, cursor: Cursor) -> None:
        """Let no reader move *cursor* until `read_on` is called."""
        with self._tails.lock:
            cursor.stop_reading()

    def _catch_up(self, cursor: Cursor) -> bool:
        """Read on once for *cursor*. Returns whether a reader must go on with it.

        If not, the cursor is live or removed, its stream takes no events now, or its stream emits
        ``"gap"``.
        """
        subscription = cursor.subscription
        drains = subscription.drains
        if self._goes_live(cursor):
            return False
        if not subscription.has_begun:
            self._begin_all(subscription)
            return True
        with self._tails.lock:
            tail, at = self._tails.of(cursor), cursor.position
            here = None if tail is None else tail.position
            publications = None if tail is None or at is None else tail.after(at)
        if not publications:
            after = 0 if at is None else at.number
            piece = self._broker.read(cursor.name, after, READ, READ_BYTES)
            self._leases.note(cursor.name, piece)
            if at is None:
                self._begin(cursor, piece)
                subscription.send_id()
                return True
            if piece.misses(at):
                if cursor.cut_frame is not None and cursor.subscribed_at is None:
                    self._end_unheard(cursor, UNHEARD_CUT)
                    return False
                if piece.has_other_past(at):
                    # The number of `subscribed_at` has no meaning in the other past. Obey every
                    # control frame from now on.
                    cursor.subscribe_at(None)
                return self._tell_of_gap(cursor, at, piece)
            publications = publications_of(piece)
            if not publications:
                # The cursor is at the end of the log, and goes live unless the listener has got
                # new entries meanwhile.
                cursor.go_to(piece.end)
                self._tails.found(tail, piece.end, bool(piece.ended))
                if piece.ended:
                    note_end(self._tails, cursor)
                return not self._goes_live(cursor, here or piece.end)
        try:
            if subscription.deliver(cursor, publications, replayed=True):
                return True
        except Exception as error:  # of an app's push(), so a `BrokerError` is not the broker's
            subscription.break_off(cursor.name, error)
            return False
        self._pause(cursor)
        # The stream may have drained while `reading` was still True, and then `drained` did
        # nothing.
        if subscription.closed or subscription.drains != drains:
            self.read_on(cursor)
        return False

    def _begin_all(self, subscription: Subscription) -> None:
        """Find all positions of a stream that subscribed while the broker was down.

        No event may be sent before all positions are known, because its id could not say where
        the other channels began.
        """
        cursors = [each for each in subscription.cursors if each.position is None]
        pieces = [self._find_end(cursor) for cursor in cursors]
        for cursor, piece in zip(cursors, pieces, strict=True):
            self._begin(cursor, piece)
        subscription.send_id()

    def _find_end(self, cursor: Cursor) -> Slice:
        """The end of the log of *cursor*, which was not known when its stream subscribed."""
        piece = self._broker.read(cursor.name, 0, 0, 0)
        self._leases.note(cursor.name, piece)
        if cursor.subscribed_at is None and piece.last:
            if cursor.cut_frame is not None:
                self._end_unheard(cursor, UNHEARD_CUT)
            elif self._has_close(cursor, piece):
                self._end_unheard(cursor, UNHEARD_CLOSE)
            else:
                cursor.subscribe_at(piece.end)
        return piece

    def _end_unheard(self, cursor: Cursor, why: str) -> None:
        """End the stream of *cursor*: nobody here has read what came since it subscribed.

        The client must come back and ask the view again.
        """
        cursor.subscription.end_stream(why, cursor.name)
        cursor.subscription.cancel()

    def _has_close(self, cursor: Cursor, piece: Slice) -> bool:
        """Whether the log of *cursor*, which ends with *piece*, has a `CLOSE`.

        Each entry of a log is read only once for this, and not for each stream.
        """
        with self._tails.lock:
            tail = self._tails.of(cursor)
            if tail is None:
                return False
            searched, has_close = tail.searched, tail.has_close
        number = searched.number if searched.log == piece.log else 0
        has_close = has_close and searched.log == piece.log
        while not has_close and number < piece.last:
            entries = self._broker.read(cursor.name, number, READ, READ_BYTES).entries
            if not entries:
                break
            has_close = any(each.frame == CLOSE and each.number <= piece.last for each in entries)
            number = entries[-1].number
        with self._tails.lock:
            tail.note_search(piece.end, has_close)
        return has_close

    def _tell_of_gap(self, cursor: Cursor, at: Position, piece: Slice) -> bool:
        """Emit ``"gap"``, and let *cursor* read on after its handlers.

        ``"gap"`` comes before any other event of the channel, so that an app can write a snapshot.
        Returns True, and emits nothing, if an earlier gap told of the same loss; then the reader
        goes on at once.
        """
        oldest, known = piece.beginning, cursor.snapshot_at
        is_known = known.log == piece.log and piece.first <= known.number + 1 <= piece.last + 1
        if is_known and not piece.has_other_past(at):
            cursor.go_to(oldest)
            return True
        cursor.note_gap(piece.end)

        def go_on() -> None:
            # Move the cursor only after the handlers of "gap" have run. A client that leaves
            # without the snapshot then gets a gap again.
            cursor.go_to(oldest)
            # Send an id now. If no event followed, the old id of the client would be a gap again.
            cursor.subscription.send_id_after_gap(cursor)
            self._pause(cursor)
            self.read_on(cursor)

        cursor.subscription.emit_gap(cursor.name, go_on)
        return False
