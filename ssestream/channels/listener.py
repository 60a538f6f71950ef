"""Bring new entries from the broker to the streams of this process: a listener and some readers.

The listener waits in the broker for entries after the positions of the tails, and gives new
entries to the live cursors. The first subscription starts the listener, and the listener ends
after the last subscription. When the broker fails, the listener tries again from its last
positions, after growing pauses. So an outage of the broker ends no subscription.

A cursor that is behind is moved by a reader, which reads from the log until the cursor is live.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from gevent import GreenletExit, monkey

from ..brokers.broker import Broker, Busy, ChannelError, Position, Slice
from ..errors import BrokerError
from ..runtime.clock import clock
from ..runtime.loop import checkpoint, current_loop, logger, new_lock, start_thread
from ..runtime.origin import log_failure
from ..runtime.wheel import wheel_of
from ..settings import chance
from .ailing import Ailing
from .fanout import TURN, Parcel, broadcast, broadcast_to_cohorts
from .ids import UNKNOWN
from .publication import CUT, Batch, Publication, batches_of, publications_of
from .subscription import MAY_BE_CUT, WAS_CUT, Cursor, Subscription
from .tail import ChannelStatistics, Tail

#: Seconds before the broker is tried again: after the first failure, and at most.
SOONEST, LATEST = 0.1, 2.0

#: Seconds after which a client gets its positions, if its filter has withheld the last events.
#: If the `Bounds.age` of a log is as short as this, the client may still get a gap.
TELL = 5.0

#: Seconds without a failure after which the broker counts as steady again.
STEADY = 10.0

#: The most readers at the same time. Readers mostly wait for the broker, and more readers would
#: only delay the listener there.
READERS = 4

#: The most entries that a reader asks the broker for at once, and about the most bytes.
READ, READ_BYTES = 128, 256 * 1024

State = Literal["idle", "listening", "down"]


def spawn(function: Callable[..., object]) -> None:
    """Run *function*, which waits, in a greenlet or a thread of its own.

    A greenlet is used if a wait lets other greenlets run: if the loop runs greenlets, and gevent
    has patched ``socket`` and ``time``.
    """
    loop = current_loop()
    gives_way = monkey.is_module_patched("socket") and monkey.is_module_patched("time")
    if loop.cooperative and gives_way:
        loop.spawn(function)
    else:
        loop.retry_start(lambda: start_thread(function, ()), function)


class Listener:
    """The listener, the readers and the tails of one `Channels` in one process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = new_lock()
        self._tails: dict[str, Tail] = {}
        self.state: State = "idle"
        self._listening = False
        # An error that a reader met, until the listener raises it.
        self._failure: BrokerError | None = None
        self._ailing = Ailing(broker, spawn, self)
        # The last error in the log, and the time when the broker last came back.
        self._told: str | None = None
        self._back_at = -STEADY
        # Whether the broker failed again soon after it came back, and whether
        # `_await_steadiness` runs.
        self._is_unsteady = self._is_awaiting = False
        # The number of readers, and the cursors that wait for a reader.
        self._readers = 0
        self._behind: deque[Cursor] = deque()
        # For each cursor without a position: how many of the latest entries it begins with.
        self._latest: dict[Cursor, int] = {}
        # For each subscription: how many entries it has passed since its client last got an id.
        self._untold: dict[Subscription, int] = {}
        # Whether a call of `_tell` is planned or running.
        self._telling = False

    @property
    def idle(self) -> bool:
        """Whether no stream follows any channel."""
        return not self._tails

    def wait_until_idle(self, seconds: float) -> None:
        """Wait at most *seconds* until the listener and the readers have ended."""
        deadline = clock.now() + seconds
        while (self._listening or self._readers) and clock.now() < deadline:
            time.sleep(0.005)

    # -- cursors

    def place(self, cursors: list[Cursor], latest: int) -> None:
        """Ask the broker where each of *cursors* begins, before they are added.

        A cursor without a position begins with the last *latest* entries. While the broker is
        down, nothing is asked; readers then place the cursors when the broker is back.
        """
        if latest:
            with self._lock:
                self._latest.update((each, latest) for each in cursors if each.position is None)
        # Only the listener tries a broker that is down, so no request waits for it.
        if self.state == "down":
            return
        try:
            for cursor in cursors:
                try:
                    self._place(cursor)
                except ChannelError as error:
                    self._ailing.add(error, listener=False)
        except BrokerError:  # the listener meets the same error, and logs it
            pass

    def _place(self, cursor: Cursor) -> None:
        at = cursor.position
        piece = self._broker.read(cursor.name, 0 if at is None else at.number, 0, 0)
        cursor.subscribed_at = piece.end
        if at is None:
            self._start(cursor, piece)
        elif piece.misses(at):
            # The position may be invented by the client. No later id may contain it.
            cursor.position = UNKNOWN
        elif at.number == piece.last and at.log == piece.log:
            cursor.position = piece.end

    def _start(self, cursor: Cursor, piece: Slice) -> None:
        """Give *cursor* its first position: before its latest entries, or at the end of the log."""
        with self._lock:
            latest = self._latest.pop(cursor, 0)
            if cursor.position is None:
                before = max(piece.first - 1, piece.last - latest)
                at_end = before == piece.last
                cursor.position = piece.end if at_end else Position(piece.log, before)

    def add(self, cursors: list[Cursor]) -> None:
        """Let *cursors* follow their channels from their positions. Raises as `current_loop`."""
        # Call this first: it may start a thread and fail, and then nothing may be added.
        current_loop()
        new = False
        with self._lock:
            for cursor in cursors:
                tail = self._tails.get(cursor.name)
                if tail is None:
                    new = True
                    tail = Tail(cursor.name)
                    self._tails[cursor.name] = tail
                if tail.position is None:
                    tail.position = cursor.subscribed_at
                elif tail.position == cursor.subscribed_at:
                    # Many cursors share one position object, which saves memory.
                    if cursor.position is cursor.subscribed_at:
                        cursor.position = tail.position
                    cursor.subscribed_at = tail.position
                cursor.tail = tail
                tail.cursors.add(cursor)
            start = not self._listening and bool(self._tails)
            if start:
                self._listening = True
        for cursor in cursors:
            if not self._goes_live(cursor):
                self.read_on(cursor)
        if start:
            spawn(self._listen)
        elif new:
            self._broker.wake()
        if new:
            self._ailing.go_on()

    def remove(self, cursors: list[Cursor]) -> None:
        """Let *cursors* follow their channels no more."""
        with self._lock:
            for cursor in cursors:
                self._latest.pop(cursor, None)
                self._untold.pop(cursor.subscription, None)
                tail = self._tails.get(cursor.name)
                if tail is None or cursor not in tail.cursors:
                    continue
                tail.cursors.discard(cursor)
                tail.fall_behind(cursor)
                cursor.complicate()
                tail.delivered += cursor.delivered
                tail.replayed += cursor.replayed
                tail.gaps += cursor.gaps
                if not tail.cursors:
                    del self._tails[tail.name]
            last = self._listening and not self._tails
        if last:
            self._broker.wake()

    def drained(self, cursor: Cursor) -> None:
        """Let *cursor* read on if it is behind, because its stream has room again."""
        with self._lock:
            live = cursor in cursor.tail.live
        if not live:
            self.read_on(cursor)

    def published(self, name: str) -> None:
        """Count an event that this process has published to the channel *name*."""
        with self._lock:
            tail = self._tails.get(name)
            if tail is not None:
                tail.published += 1

    def statistics(self) -> dict[str, ChannelStatistics]:
        with self._lock:
            return {name: tail.statistics() for name, tail in self._tails.items()}

    # -- the listener

    def _listen(self) -> None:
        pause = SOONEST
        try:
            while tails := self._followed():
                try:
                    self._hear(tails)
                    if not self._is_unsteady:
                        pause = SOONEST
                    continue
                except BrokerError as error:
                    self._down(error)
                except Exception:
                    logger.exception("channels: the listener failed, and goes on")
                # A random pause: all processes lose the broker at the same moment, and must not
                # come back at the same moment.
                time.sleep(pause * chance.uniform(0.5, 1.0))
                pause = min(pause * 2, LATEST)
        except BaseException as error:
            self._replace(self._listen, error)

    def _replace(self, work: Callable[[], object], error: BaseException) -> None:
        """Start *work* again: *error* has stopped the listener or a reader.

        Its greenlet was killed, or an app's filter has left a ``gevent.Timeout`` running.
        """
        logger.error("channels: %r was stopped, and starts again", work, exc_info=error)
        if not sys.is_finalizing():
            spawn(work)
        if isinstance(error, GreenletExit):
            raise error

    def _followed(self) -> list[Tail]:
        """All tails. If there are none, the listener counts as ended, and must end."""
        with self._lock:
            if not self._tails:
                self._listening = False
                self.state = "idle"
            return list(self._tails.values())

    def _hear(self, tails: list[Tail]) -> None:
        """Wait once for news of *tails*, and give the news to the cursors. Raises `BrokerError`."""
        if self.state == "down":
            self._probe(tails)
        for tail in tails:
            if tail.position is None and tail.name not in self._ailing:
                try:
                    end = self._broker.read(tail.name, 0, 0, 0).end
                except ChannelError as error:
                    self._ailing.add(error, listener=True)
                else:
                    self._found(tail, end)
        was_down = self.state == "down"
        if was_down:
            # Let this wait return at once. The broker is back only if a wait works too: a read
            # may work while a wait fails.
            self._broker.wake()
        elif self.state != "listening":
            self._up()
        asked = {tail.name: tail for tail in tails if tail.name not in self._ailing}
        places = ((name, tail.position) for name, tail in asked.items())
        news = self._broker.wait({name: position for name, position in places if position})
        if was_down:
            self._up()
        with self._lock:
            failure, self._failure = self._failure, None
        try:
            for name, piece in news.items():
                with self._lock:
                    found = self._tails.get(name)
                # The tail may have been replaced during the wait. The new tail has another
                # position, so this news is not for it.
                if found is not None and found is asked.get(name):
                    if isinstance(piece, ChannelError):
                        self._ailing.add(piece, listener=True)
                    else:
                        self._take(found, piece)
        except BaseException:
            with self._lock:
                self._failure = failure
            raise
        if failure is not None:
            raise failure

    def _probe(self, tails: list[Tail]) -> None:
        """Test the broker: read one entry of any channel, or ping. Raises `BrokerError`."""
        for tail in tails:
            if tail.name not in self._ailing:
                after = 0 if tail.position is None else max(tail.position.number - 1, 0)
                try:
                    self._broker.read(tail.name, after, 1, 1)
                    return
                except ChannelError as error:
                    self._ailing.add(error, listener=True)
        self._broker.ping()

    def _down(self, error: BrokerError) -> None:
        """Set the state to ``"down"``, and log *error* unless it repeats too often."""
        if self.state == "down":
            return
        was_unsteady, words = self._is_unsteady, str(error)
        self._is_unsteady = clock.now() < self._back_at + STEADY
        # A broker that comes and goes fails with the same error again and again. Log the first
        # two failures only.
        if not (was_unsteady and self._is_unsteady and words == self._told):
            lasts = " an operator must correct this;" if error.lasting else ""
            level = logging.ERROR if error.lasting else logging.WARNING
            logger.log(level, "channels: %s;%s the streams stay open meanwhile", words, lasts)
        self._told = words
        self.state = "down"

    def _up(self) -> None:
        """Set the state to ``"listening"``, and let all cursors that are behind read on."""
        if self.state == "down":
            self._back_at = clock.now()
            if not self._is_unsteady:
                logger.warning("channels: the broker is back")
            elif not self._is_awaiting:
                self._is_awaiting = True
                spawn(self._await_steadiness)
        with self._lock:
            self.state = "listening"
            tails = self._tails.values()
            waiting = [cursor for tail in tails for cursor in tail.cursors - tail.live]
        for cursor in waiting:
            self.read_on(cursor)

    def _await_steadiness(self) -> None:
        """Log that the broker is back, once it has worked for `STEADY` seconds."""
        try:
            while self._is_unsteady and self.state != "idle":
                left = self._back_at + STEADY - clock.now()
                if left <= 0 and self.state == "listening":
                    logger.warning("channels: the broker is back")
                    break
                time.sleep(max(left, STEADY / 4))
        finally:
            self._is_unsteady = self._is_awaiting = False

    # -- single channels that fail

    def places(self, name: str) -> list[int] | None:
        """See `ailing.Followed`."""
        with self._lock:
            tail = self._tails.get(name)
            if tail is None:
                return None
            here = tail.position or Position("", 0)
            behind = [at.number for each in tail.cursors - tail.live if (at := each.position)]
            return [here.number, min(behind)] if behind else [here.number]

    def resume(self, name: str) -> None:
        """See `ailing.Followed`."""
        with self._lock:
            tail = self._tails.get(name)
            cursors = list(tail.cursors - tail.live) if tail else []
        for cursor in cursors:
            # A stream of several channels cannot begin until all its positions are known. So let
            # its other cursors try again, too.
            for each in cursor.subscription.cursors:
                with self._lock:
                    behind = each not in each.tail.live
                if behind:
                    self.read_on(each)
        self._broker.wake()

    def _found(self, tail: Tail, end: Position) -> None:
        with self._lock:
            if tail.position is None:
                tail.position = end

    def _take(self, tail: Tail, piece: Slice) -> None:
        """Give the new entries in *piece* to the live cursors of *tail*, and obey every cut."""
        publications = publications_of(piece)
        # A cursor that is behind may not reach a cut for a long time, so check all cursors here.
        cuts = [publication for publication in publications if publication.frame.startswith(CUT)]
        with self._lock:
            here = tail.position
            before = tail.advance(piece, publications)
            # Lost entries may include a cut. Then every stream with a key ends, and its client
            # must come back and ask the view for access again.
            missed = here is not None and here.log == piece.log and piece.misses(here)
            # Without a cut, do not look at each cursor: that would make a broadcast slow.
            all_cursors = list(tail.cursors) if cuts or missed else []
        # A cursor may have read more than the listener, and then be beyond *piece* without a
        # loss. Only in another past of the log has such a cursor missed entries.
        lost_end = here is not None and piece.has_other_past(here)
        try:
            self._hand_on(tail, before, piece, publications, lost_end)
        except BaseException:
            self._let_the_rest_read(tail)
            raise
        finally:
            for cursor in all_cursors:
                subscription = cursor.subscription
                told = any(
                    cursor.is_cut(publication) and cursor.is_told(publication)
                    for publication in cuts
                )
                if not subscription.closed and (told or (missed and cursor.cut_frame is not None)):
                    subscription.end_stream(WAS_CUT if told else MAY_BE_CUT, cursor.name)
                if subscription.closed:
                    subscription.cancel()

    def _hand_on(
        self,
        tail: Tail,
        before: Position,
        piece: Slice,
        publications: list[Publication],
        lost_end: bool,
    ) -> None:
        """Give *publications* to all live cursors, each by its fastest way (see ``fanout``)."""
        batches = batches_of(tail.name, before, publications)
        parcels = [Parcel.of(batch) for batch in batches]
        loop = current_loop()
        has_sent = False
        for parcel in parcels:
            for _ in broadcast_to_cohorts(tail, parcel, loop):
                if has_sent:
                    checkpoint()
                has_sent = True
        with self._lock:
            apart = list(tail.apart if parcels else tail.live)
        for start in range(0, len(apart), TURN):
            if start or has_sent:
                checkpoint()
            turn = apart[start : start + TURN]
            others = [] if parcels else turn
            for parcel in parcels:
                left = broadcast(tail, parcel, turn, loop)
                if left:
                    others = others + left
                    rest = set(left)
                    turn = [cursor for cursor in turn if cursor not in rest]
            for cursor in others:
                self._hand_to(cursor, before, piece, publications, batches, lost_end)

    def _let_the_rest_read(self, tail: Tail) -> None:
        """After an interrupted broadcast, let each cursor without the new entries read them."""
        with self._lock:
            missing = [cursor for cursor in tail.live if cursor.position != tail.position]
            for cursor in missing:
                cursor.leave_cohort()
                tail.fall_behind(cursor)
        for cursor in missing:
            self.read_on(cursor)

    def _hand_to(
        self,
        cursor: Cursor,
        before: Position,
        piece: Slice,
        publications: list[Publication],
        batches: list[Batch],
        lost_end: bool,
    ) -> None:
        """Give *publications* to the live *cursor*, or let the cursor read on from its position."""
        subscription = cursor.subscription
        try:
            if batches and all(subscription.deliver_now(cursor, batch) for batch in batches):
                return
            # Some batches may have been given. `deliver` skips the publications that the cursor
            # has passed.
            if (
                not lost_end
                and cursor.is_next(before, publications, piece.last)
                and subscription.deliver(cursor, publications)
            ):
                return
        except Exception as error:
            self._break(cursor, error)
        if lost_end and cursor.is_beyond(piece):
            subscription.lose_place(cursor)
        with self._lock:
            cursor.tail.fall_behind(cursor)
        self.read_on(cursor)

    def _break(self, cursor: Cursor, error: Exception) -> None:
        """Log *error* and destroy the cursor's stream: otherwise it would silently stand still."""
        origin = cursor.subscription.stream._call_queue.origin
        log_failure(origin, "channels: %r could not be handed on", cursor.name)
        cursor.subscription.cancel()
        cursor.subscription.stream.destroy(error)

    # -- ids for clients after entries that were not sent

    def passed(self, subscription: Subscription, cursor: Cursor, silently: int) -> None:
        """Note that *cursor* has passed *silently* entries since the last entry that was sent.

        The client does not know these entries, and its id would be a gap once the log drops them.
        So the client gets an id with its positions: after `TELL` seconds, or at once after half of
        the history. With 0, the newest entry was sent, and its id has all positions.
        """
        with self._lock:
            if not silently:
                self._untold.pop(subscription, None)
                return
            count = self._untold.get(subscription, 0) + silently
            self._untold[subscription] = count
            history = cursor.tail.bounds.history
            at_once = (
                history is not None
                and count >= max(1, history // 2)
                and not subscription.stream.writable_need_drain
            )
            if at_once:
                del self._untold[subscription]
            start = not at_once and not self._telling
            self._telling = self._telling or start
        if at_once:
            subscription.tell_place()
        elif start:
            self._tell_later()

    def _tell_later(self) -> None:
        loop = current_loop()
        wheel_of(loop).add(clock.now() + TELL, lambda now: loop.spawn(self._tell))

    def _tell(self) -> None:
        """Send each client in `_untold` an id with its positions."""
        with self._lock:
            untold, self._untold = self._untold, {}
        for number, subscription in enumerate(untold, 1):
            if subscription.stream.writable_need_drain:
                # Wait with a client that does not read, so that its stream does not fill.
                with self._lock:
                    self._untold.setdefault(subscription, 1)
            else:
                subscription.tell_place()
            if number % TURN == 0:
                checkpoint()
        with self._lock:
            self._telling = again = bool(self._untold)
        if again:
            self._tell_later()

    # -- the readers

    def read_on(self, cursor: Cursor) -> None:
        """Let a reader move *cursor* soon, if the cursor is behind and its stream goes on."""
        if cursor.subscription.closed:
            cursor.subscription.cancel()
            return
        with self._lock:
            if cursor.reading or cursor not in cursor.tail.cursors:
                return
            cursor.reading = True
            self._behind.append(cursor)
            start = self._readers < READERS
            if start:
                self._readers += 1
        if start:
            spawn(self._read)

    def _read(self) -> None:
        try:
            while True:
                with self._lock:
                    # Drop the queue while the broker is down. When the broker is back, `_up` lets
                    # all cursors that are behind read on.
                    while self._behind and self.state == "down":
                        self._behind.popleft().reading = False
                    if not self._behind:
                        self._readers -= 1
                        return
                    cursor = self._behind.popleft()
                self._read_for(cursor)
                checkpoint()
        except BaseException as error:
            self._replace(self._read, error)

    def _read_for(self, cursor: Cursor) -> None:
        again = False
        try:
            again = self._catch_up(cursor)
        except Busy:  # the call has already waited for a connection
            again = True
        except ChannelError as error:
            with self._lock:
                cursor.reading = False
            self._ailing.add(error, listener=False)
        except BrokerError as error:
            # Let the listener log the error, and let it start the readers when the broker is back.
            with self._lock:
                cursor.reading = False
                self._failure = error
            self._broker.wake()
        except Exception as error:
            self._break(cursor, error)
        except BaseException:
            again = True
            raise
        finally:
            if again:
                # At the end of the queue, so that the other cursors have their turn.
                with self._lock:
                    self._behind.append(cursor)

    def _catch_up(self, cursor: Cursor) -> bool:
        """Read on once for *cursor*. Returns whether a reader must go on with it.

        If not, the cursor is live or over, its stream has no room, or its stream emits ``"gap"``.
        """
        subscription = cursor.subscription
        drains = subscription.drains
        if self._goes_live(cursor):
            return False
        if not subscription.has_begun:
            self._begin(subscription)
            return True
        with self._lock:
            here, at = cursor.tail.position, cursor.position
            publications = None if at is None else cursor.tail.after(at)
        if not publications:
            after = 0 if at is None else at.number
            piece = self._broker.read(cursor.name, after, READ, READ_BYTES)
            if at is None:
                self._start(cursor, piece)
                subscription.tell_place()
                return True
            if piece.misses(at):
                if piece.has_other_past(at):
                    # The number of `began` has no meaning in the other past. Obey every control
                    # frame from now on.
                    cursor.subscribed_at = None
                return self._tell_of_gap(cursor, piece)
            publications = publications_of(piece)
            if not publications:
                # The cursor is at the end of the log, and goes live unless the listener has got
                # new entries meanwhile.
                cursor.position = piece.end
                self._found(cursor.tail, piece.end)
                return not self._goes_live(cursor, here or piece.end)
        if subscription.deliver(cursor, publications, replayed=True):
            return True
        with self._lock:
            cursor.reading = False
        # The stream may have drained while `reading` was still True, and then `drained` did
        # nothing.
        if subscription.closed or subscription.drains != drains:
            self.read_on(cursor)
        return False

    def _begin(self, subscription: Subscription) -> None:
        """Find all positions of a stream that subscribed while the broker was down.

        No event may be sent before all positions are known, because its id could not say where
        the other channels began.
        """
        cursors = [each for each in subscription.cursors if each.position is None]
        pieces = [self._broker.read(cursor.name, 0, 0, 0) for cursor in cursors]
        for cursor, piece in zip(cursors, pieces, strict=True):
            self._start(cursor, piece)
        subscription.tell_place()

    def _goes_live(self, cursor: Cursor, seen: Position | None = None) -> bool:
        """Let *cursor* go live if it is at the end of the log. Returns whether it is live or over.

        *seen* is the position of the listener before a read that found nothing more for *cursor*.
        None if there was no such read.
        """
        tail = cursor.tail
        with self._lock:
            over = cursor.subscription.closed or cursor not in tail.cursors
            here, at = tail.position, cursor.position
            live = (
                here is not None
                and at is not None
                and cursor.subscription.has_begun
                # A cursor beyond the listener goes live only after a read: otherwise its log may
                # have lost its newest entries.
                and here in (at, seen)
            )
            if live and not over:
                tail.go_live(cursor)
            if live or over:
                cursor.reading = False
            return live or over

    def _tell_of_gap(self, cursor: Cursor, piece: Slice) -> bool:
        """Emit ``"gap"``, and let *cursor* read on after its handlers.

        ``"gap"`` comes before any other event of the channel, so that an app can write a snapshot.
        Returns True, and emits nothing, if an earlier gap told of the same loss; then the reader
        goes on at once.
        """
        oldest, told, at = piece.beginning, cursor.snapshot_at, cursor.position
        assert at is not None
        is_known = told.log == piece.log and piece.first <= told.number + 1 <= piece.last + 1
        if is_known and not piece.has_other_past(at):
            cursor.position = oldest
            return True
        cursor.gaps += 1
        cursor.snapshot_at = piece.end
        stream = cursor.subscription.stream

        def go_on() -> None:
            # Move the cursor only after the handlers of "gap" have run. A client that leaves
            # without the snapshot then gets a gap again.
            cursor.position = oldest
            # Send an id now. If no event followed, the old id of the client would be a gap again.
            cursor.subscription.tell_place()
            with self._lock:
                cursor.reading = False
            self.read_on(cursor)

        call_queue = stream._call_queue
        call_queue.call_soon(stream.emit, "gap", cursor.name)
        call_queue.call_soon(go_on)
        return False
