"""One listener for all channels of a process, and the readers of those that are behind.

The listener waits in the broker for whatever comes after the feeds' positions,
and hands it to the cursors that are live. It is started by the first
subscription and ends after the last. When the broker fails it tries again, at
growing intervals, from where it was: a broker that was away costs nobody a
subscription.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from gevent import GreenletExit, monkey

from .ailing import Ailing
from .brokers.broker import Broker, Busy, ChannelError, Position, Slice
from .clock import clock
from .errors import BrokerError
from .fanout import TURN, Parcel, hand_round, send_to_convoys
from .feeds import (
    CUT,
    MAY_BE_CUT,
    NOWHERE,
    READ,
    READ_BYTES,
    WAS_CUT,
    Batch,
    ChannelStatistics,
    Cursor,
    Feed,
    Item,
    Subscription,
    batches_of,
    items_of,
)
from .hub import current_home, give_way, logger, new_lock, start_thread
from .origin import log_failure
from .schedule import schedule_of
from .settings import chance

#: Seconds before the broker is tried again, at first and at most.
SOONEST, LATEST = 0.1, 2.0

#: Seconds after which a client is told where it stands that was sent nothing of what came,
#: as its filter withheld that. A log may forget in this time what it was sent last, if its
#: `Bounds.age` is as short.
TELL = 5.0

#: Seconds after which what has come back is back for good.
STEADY = 10.0

#: Readers at a time. They mostly wait for the broker, which more of them would
#: only keep from serving the listener.
READERS = 4

State = Literal["idle", "listening", "down"]


def spawn(function: Callable[..., object]) -> None:
    """Run *function*, which waits, in a greenlet or, where that would stop others, a thread."""
    home = current_home()
    gives_way = monkey.is_module_patched("socket") and monkey.is_module_patched("time")
    if home.cooperative and gives_way:
        home.spawn(function)
    else:
        home.insist(lambda: start_thread(function, ()), function)


class Following:
    """The feeds of one `Channels` in one process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = new_lock()
        self._feeds: dict[str, Feed] = {}
        self.state: State = "idle"
        self._listening = False
        # Of a reader; the listener has not dealt with it yet.
        self._failure: BrokerError | None = None
        self._ailing = Ailing(broker, spawn, self)
        # What was told of the broker last, and when it was found to be back.
        self._told: str | None = None
        self._back_at = -STEADY
        self._is_unsteady = self._is_awaiting = False
        self._readers = 0
        self._behind: deque[Cursor] = deque()
        # How many of the latest entries it is to be given, of each that has no place yet.
        self._latest: dict[Cursor, int] = {}
        # Those whose clients do not know how many entries they have passed.
        self._untold: dict[Subscription, int] = {}
        self._telling = False

    @property
    def idle(self) -> bool:
        """Whether nobody follows anything."""
        return not self._feeds

    def wait_until_idle(self, seconds: float) -> None:
        """Wait, for *seconds* at most, until the listener and the readers have ended."""
        deadline = clock.now() + seconds
        while (self._listening or self._readers) and clock.now() < deadline:
            time.sleep(0.005)

    # -- who reads what

    def place(self, cursors: list[Cursor], latest: int) -> None:
        """See where each begins. One that knows no place begins before the *latest* entries."""
        if latest:
            with self._lock:
                self._latest.update((each, latest) for each in cursors if each.position is None)
        # The listener finds out when it is back; nobody else need wait for that.
        if self.state == "down":
            return
        try:
            for cursor in cursors:
                try:
                    self._place(cursor)
                except ChannelError as error:
                    self._ailing.add(error, listener=False)
        except BrokerError:  # which the listener will meet, too
            pass

    def _place(self, cursor: Cursor) -> None:
        at = cursor.position
        piece = self._broker.read(cursor.name, 0 if at is None else at.number, 0, 0)
        cursor.began = piece.end
        if at is None:
            self._start(cursor, piece)
        elif piece.misses(at):
            # What the client has made up is in no id of ours.
            cursor.position = NOWHERE
        elif at.number == piece.last and at.log == piece.log:
            cursor.position = piece.end

    def _start(self, cursor: Cursor, piece: Slice) -> None:
        """Let it begin before the latest entries that it is to be given, or at the end."""
        with self._lock:
            latest = self._latest.pop(cursor, 0)
            if cursor.position is None:
                before = max(piece.first - 1, piece.last - latest)
                at_end = before == piece.last
                cursor.position = piece.end if at_end else Position(piece.log, before)

    def add(self, cursors: list[Cursor]) -> None:
        """Let them follow from where they are. Raises what `current_home` does."""
        # Before they are anywhere: it starts a thread for the first of a process.
        current_home()
        new = False
        with self._lock:
            for cursor in cursors:
                feed = self._feeds.get(cursor.name)
                if feed is None:
                    new = True
                    feed = Feed(cursor.name)
                    self._feeds[cursor.name] = feed
                if feed.position is None:
                    feed.position = cursor.began
                elif feed.position == cursor.began:
                    # One object for all, as they are many.
                    if cursor.position is cursor.began:
                        cursor.position = feed.position
                    cursor.began = feed.position
                cursor.feed = feed
                feed.cursors.add(cursor)
            start = not self._listening and bool(self._feeds)
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
        with self._lock:
            for cursor in cursors:
                self._latest.pop(cursor, None)
                self._untold.pop(cursor.subscription, None)
                feed = self._feeds.get(cursor.name)
                if feed is None or cursor not in feed.cursors:
                    continue
                feed.cursors.discard(cursor)
                feed.fall_behind(cursor)
                cursor.complicate()
                feed.delivered += cursor.delivered
                feed.replayed += cursor.replayed
                feed.gaps += cursor.gaps
                if not feed.cursors:
                    del self._feeds[feed.name]
            last = self._listening and not self._feeds
        if last:
            self._broker.wake()

    def drained(self, cursor: Cursor) -> None:
        """The stream has room again."""
        with self._lock:
            live = cursor in cursor.feed.live
        if not live:
            self.read_on(cursor)

    def published(self, name: str) -> None:
        with self._lock:
            feed = self._feeds.get(name)
            if feed is not None:
                feed.published += 1

    def statistics(self) -> dict[str, ChannelStatistics]:
        with self._lock:
            return {name: feed.statistics() for name, feed in self._feeds.items()}

    # -- the listener

    def _listen(self) -> None:
        pause = SOONEST
        try:
            while feeds := self._followed():
                try:
                    self._hear(feeds)
                    if not self._is_unsteady:
                        pause = SOONEST
                    continue
                except BrokerError as error:
                    self._down(error)
                except Exception:
                    logger.exception("channels: the listener failed, and goes on")
                # All processes have lost the broker at once.
                time.sleep(pause * chance.uniform(0.5, 1.0))
                pause = min(pause * 2, LATEST)
        except BaseException as error:
            self._replace(self._listen, error)

    def _replace(self, work: Callable[[], object], error: BaseException) -> None:
        """The listener or a reader was stopped by *error*, and another goes on.

        It was killed, or an app's filter has left a ``gevent.Timeout`` running.
        """
        logger.error("channels: %r was stopped, and starts again", work, exc_info=error)
        if not sys.is_finalizing():
            spawn(work)
        if isinstance(error, GreenletExit):
            raise error

    def _followed(self) -> list[Feed]:
        with self._lock:
            if not self._feeds:
                self._listening = False
                self.state = "idle"
            return list(self._feeds.values())

    def _hear(self, feeds: list[Feed]) -> None:
        """Wait for news of *feeds* once, and hand it on. Raises `BrokerError`."""
        if self.state == "down":
            self._probe(feeds)
        for feed in feeds:
            if feed.position is None and feed.name not in self._ailing:
                try:
                    end = self._broker.read(feed.name, 0, 0, 0).end
                except ChannelError as error:
                    self._ailing.add(error, listener=True)
                else:
                    self._found(feed, end)
        was_down = self.state == "down"
        if was_down:
            # For one round only: to read may work, and to wait may not.
            self._broker.wake()
        elif self.state != "listening":
            self._up()
        asked = {feed.name: feed for feed in feeds if feed.name not in self._ailing}
        places = ((name, feed.position) for name, feed in asked.items())
        news = self._broker.wait({name: position for name, position in places if position})
        if was_down:
            self._up()
        with self._lock:
            failure, self._failure = self._failure, None
        try:
            for name, piece in news.items():
                with self._lock:
                    found = self._feeds.get(name)
                # Another of that name was made meanwhile, for whom this is no news.
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

    def _probe(self, feeds: list[Feed]) -> None:
        """Read an entry. Raises `BrokerError` where that does not work, of any channel."""
        for feed in feeds:
            if feed.name not in self._ailing:
                after = 0 if feed.position is None else max(feed.position.number - 1, 0)
                try:
                    self._broker.read(feed.name, after, 1, 1)
                    return
                except ChannelError as error:
                    self._ailing.add(error, listener=True)
        self._broker.ping()

    def _down(self, error: BrokerError) -> None:
        if self.state == "down":
            return
        was_unsteady, words = self._is_unsteady, str(error)
        self._is_unsteady = clock.now() < self._back_at + STEADY
        # What works and fails in turn is told of until it has failed a second time.
        if not (was_unsteady and self._is_unsteady and words == self._told):
            lasts = " this lasts until somebody mends it, and" if error.lasting else ""
            level = logging.ERROR if error.lasting else logging.WARNING
            logger.log(level, "channels: %s;%s their streams stay open meanwhile", words, lasts)
        self._told = words
        self.state = "down"

    def _up(self) -> None:
        if self.state == "down":
            self._back_at = clock.now()
            if not self._is_unsteady:
                logger.warning("channels: the broker is back")
            elif not self._is_awaiting:
                self._is_awaiting = True
                spawn(self._await_steadiness)
        with self._lock:
            self.state = "listening"
            feeds = self._feeds.values()
            waiting = [cursor for feed in feeds for cursor in feed.cursors - feed.live]
        for cursor in waiting:
            self.read_on(cursor)

    def _await_steadiness(self) -> None:
        """Say that the broker is back once it is for good."""
        try:
            while self._is_unsteady and self.state != "idle":
                left = self._back_at + STEADY - clock.now()
                if left <= 0 and self.state == "listening":
                    logger.warning("channels: the broker is back")
                    break
                time.sleep(max(left, STEADY / 4))
        finally:
            self._is_unsteady = self._is_awaiting = False

    # -- channels that fail alone

    def places(self, name: str) -> list[int] | None:
        """See `ailing.Followed`."""
        with self._lock:
            feed = self._feeds.get(name)
            if feed is None:
                return None
            here = feed.position or Position("", 0)
            behind = [at.number for each in feed.cursors - feed.live if (at := each.position)]
            return [here.number, min(behind)] if behind else [here.number]

    def resume(self, name: str) -> None:
        """See `ailing.Followed`."""
        with self._lock:
            feed = self._feeds.get(name)
            cursors = list(feed.cursors - feed.live) if feed else []
        for cursor in cursors:
            # A stream of several channels waits until all their places are known.
            for each in cursor.subscription.cursors:
                with self._lock:
                    behind = each not in each.feed.live
                if behind:
                    self.read_on(each)
        self._broker.wake()

    def _found(self, feed: Feed, end: Position) -> None:
        with self._lock:
            if feed.position is None:
                feed.position = end

    def _take(self, feed: Feed, piece: Slice) -> None:
        """Hand on what has come to all that are live and for whom it is the next."""
        items = items_of(piece)
        # Who is behind might never get to the word that takes the access from it.
        cuts = [item for item in items if item.frame.startswith(CUT)]
        with self._lock:
            here = feed.position
            before = feed.advance(piece, items)
            # And what was lost may have been such a word: who comes back is asked anew.
            missed = here is not None and here.log == piece.log and piece.misses(here)
            # To look at each of them only for that would cost a broadcast dearly.
            all_cursors = list(feed.cursors) if cuts or missed else []
        # A cursor that has read on may be beyond what comes by this way and have missed
        # nothing, unless its log has another past.
        lost_end = here is not None and piece.has_other_past(here)
        try:
            self._hand_on(feed, before, piece, items, lost_end)
        except BaseException:
            self._let_the_rest_read(feed)
            raise
        finally:
            for cursor in all_cursors:
                subscription = cursor.subscription
                told = any(cursor.is_cut(item) and cursor.is_told(item) for item in cuts)
                if not subscription.over and (told or (missed and cursor.word is not None)):
                    subscription.end(WAS_CUT if told else MAY_BE_CUT, cursor.name)
                if subscription.over:
                    subscription.finish()

    def _hand_on(
        self, feed: Feed, before: Position, piece: Slice, items: list[Item], lost_end: bool
    ) -> None:
        batches = batches_of(feed.name, before, items)
        parcels = [Parcel.of(batch) for batch in batches]
        home = current_home()
        has_sent = False
        for parcel in parcels:
            for _ in send_to_convoys(feed, parcel, home):
                if has_sent:
                    give_way()
                has_sent = True
        with self._lock:
            apart = list(feed.apart if parcels else feed.live)
        for start in range(0, len(apart), TURN):
            if start or has_sent:
                give_way()
            turn = apart[start : start + TURN]
            others = [] if parcels else turn
            for parcel in parcels:
                left = hand_round(feed, parcel, turn, home)
                if left:
                    others = others + left
                    rest = set(left)
                    turn = [cursor for cursor in turn if cursor not in rest]
            for cursor in others:
                self._hand_to(cursor, before, piece, items, batches, lost_end)

    def _let_the_rest_read(self, feed: Feed) -> None:
        """The handing on was interrupted: who was to come yet reads what it has not got."""
        with self._lock:
            missing = [cursor for cursor in feed.live if cursor.position != feed.position]
            for cursor in missing:
                cursor.leave_convoy()
                feed.fall_behind(cursor)
        for cursor in missing:
            self.read_on(cursor)

    def _hand_to(
        self,
        cursor: Cursor,
        before: Position,
        piece: Slice,
        items: list[Item],
        batches: list[Batch],
        lost_end: bool,
    ) -> None:
        """Hand *items* on to one that is live, or let it read on from where it is."""
        subscription = cursor.subscription
        try:
            if batches and all(subscription.give_at_once(cursor, batch) for batch in batches):
                return
            # It sees for itself what it was given of them.
            if (
                not lost_end
                and cursor.is_next(before, items, piece.last)
                and subscription.give(cursor, items)
            ):
                return
        except Exception as error:
            self._break(cursor, error)
        if lost_end and cursor.is_beyond(piece):
            subscription.lose_place(cursor)
        with self._lock:
            cursor.feed.fall_behind(cursor)
        self.read_on(cursor)

    def _break(self, cursor: Cursor, error: Exception) -> None:
        """Its stream ends rather than stand still with nobody the wiser."""
        origin = cursor.subscription.stream._lane.origin
        log_failure(origin, "channels: %r could not be handed on", cursor.name)
        cursor.subscription.finish()
        cursor.subscription.stream.destroy(error)

    # -- what clients do not know

    def passed(self, subscription: Subscription, cursor: Cursor, silently: int) -> None:
        """Its stream has passed entries that were not sent, or was sent one and knows of all.

        Its client's id would be a gap once the log has those no more.
        """
        with self._lock:
            if not silently:
                self._untold.pop(subscription, None)
                return
            count = self._untold.get(subscription, 0) + silently
            self._untold[subscription] = count
            history = cursor.feed.bounds.history
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
        home = current_home()
        schedule_of(home).add(clock.now() + TELL, lambda now: home.spawn(self._tell))

    def _tell(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, {}
        for number, subscription in enumerate(untold, 1):
            if subscription.stream.writable_need_drain:
                # A client that reads nothing is told later, if it reads again.
                with self._lock:
                    self._untold.setdefault(subscription, 1)
            else:
                subscription.tell_place()
            if number % TURN == 0:
                give_way()
        with self._lock:
            self._telling = again = bool(self._untold)
        if again:
            self._tell_later()

    # -- the readers

    def read_on(self, cursor: Cursor) -> None:
        """Let *cursor* catch up, soon, if it can."""
        if cursor.subscription.over:
            cursor.subscription.finish()
            return
        with self._lock:
            if cursor.reading or cursor not in cursor.feed.cursors:
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
                    # When the broker is back all that are not live read on.
                    while self._behind and self.state == "down":
                        self._behind.popleft().reading = False
                    if not self._behind:
                        self._readers -= 1
                        return
                    cursor = self._behind.popleft()
                self._read_for(cursor)
                give_way()
        except BaseException as error:
            self._replace(self._read, error)

    def _read_for(self, cursor: Cursor) -> None:
        again = False
        try:
            again = self._catch_up(cursor)
        except Busy:  # it has waited already
            again = True
        except ChannelError as error:
            with self._lock:
                cursor.reading = False
            self._ailing.add(error, listener=False)
        except BrokerError as error:
            # The listener says so, and lets all read on when it is back.
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
                # Behind the others that are behind.
                with self._lock:
                    self._behind.append(cursor)

    def _catch_up(self, cursor: Cursor) -> bool:
        """Read on for *cursor*, once. Whether it is to be done again.

        If not, it is live or over, or told of a gap, or has no room.
        """
        subscription = cursor.subscription
        drains = subscription.drains
        if self._goes_live(cursor):
            return False
        if not subscription.has_begun:
            self._begin(subscription)
            return True
        with self._lock:
            here, at = cursor.feed.position, cursor.position
            items = None if at is None else cursor.feed.after(at)
        if not items:
            after = 0 if at is None else at.number
            piece = self._broker.read(cursor.name, after, READ, READ_BYTES)
            if at is None:
                self._start(cursor, piece)
                subscription.tell_place()
                return True
            if piece.misses(at):
                if piece.has_other_past(at):
                    # What was said to others before it came is not known any more.
                    cursor.began = None
                return self._tell_of_gap(cursor, piece)
            items = items_of(piece)
            if not items:
                # At its end: live, unless the listener has got something meanwhile.
                cursor.position = piece.end
                self._found(cursor.feed, piece.end)
                return not self._goes_live(cursor, here or piece.end)
        if subscription.give(cursor, items, replayed=True):
            return True
        with self._lock:
            cursor.reading = False
        # It may have drained while this looked like reading.
        if subscription.over or subscription.drains != drains:
            self.read_on(cursor)
        return False

    def _begin(self, subscription: Subscription) -> None:
        """Where the broker was down when it came: no event before all places are known.

        The id of one that came before could not say where the other channels began.
        """
        cursors = [each for each in subscription.cursors if each.position is None]
        pieces = [self._broker.read(cursor.name, 0, 0, 0) for cursor in cursors]
        for cursor, piece in zip(cursors, pieces, strict=True):
            self._start(cursor, piece)
        subscription.tell_place()

    def _goes_live(self, cursor: Cursor, seen: Position | None = None) -> bool:
        """Whether it does, or is over.

        With *seen*, the broker had nothing more for it since the listener was there.
        """
        feed = cursor.feed
        with self._lock:
            over = cursor.subscription.over or cursor not in feed.cursors
            here, at = feed.position, cursor.position
            live = (
                here is not None
                and at is not None
                and cursor.subscription.has_begun
                # Beyond it is where its log has lost its end, unless it has just been read.
                and here in (at, seen)
            )
            if live and not over:
                feed.go_live(cursor)
            if live or over:
                cursor.reading = False
            return live or over

    def _tell_of_gap(self, cursor: Cursor, piece: Slice) -> bool:
        """Before anything else of the channel is delivered: an app may write a snapshot.

        Whether to read on at once, as what is lost was told of already.
        """
        oldest, told, at = piece.beginning, cursor.told, cursor.position
        assert at is not None
        is_known = told.log == piece.log and piece.first <= told.number + 1 <= piece.last + 1
        if is_known and not piece.has_other_past(at):
            cursor.position = oldest
            return True
        cursor.gaps += 1
        cursor.told = piece.end
        stream = cursor.subscription.stream

        def go_on() -> None:
            # Not before: a client that leaves without the snapshot is told again.
            cursor.position = oldest
            # The id that the client has would be a gap again, if nothing else followed.
            cursor.subscription.tell_place()
            with self._lock:
                cursor.reading = False
            self.read_on(cursor)

        lane = stream._lane
        lane.soon(stream.emit, "gap", cursor.name)
        lane.soon(go_on)
        return False
