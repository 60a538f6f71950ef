"""Hear of every change in the broker, and hand the new entries on to the live cursors.

The broker follows each channel that has a tail, from the position of the tail (see ``tail``). The
listener waits for the news of all these channels together. The first subscription starts the
listener, and the listener ends after the last subscription. When the broker fails, the listener
waits again after growing pauses, and the broker goes on from the same positions. So an outage of
the broker ends no subscription.

If the listener fails while it has news in hand, it lets the broker follow all channels again
from the positions of their tails. So no news is lost.

A cursor that is behind is moved by a reader (see ``replay``) until the cursor is live.
"""

import time

from ..brokers.broker import Broker, ChannelError, Slice
from ..errors import BrokerError
from ..runtime.clock import clock
from ..runtime.loop import checkpoint, current_loop, logger
from ..settings import chance
from .cursor import Cursor
from .fanout import STREAMS_AT_ONCE, broadcast, broadcast_together
from .health import Health
from .id_blocks import IdBlocks
from .leases import Leases, Lost
from .publication import News
from .replay import Replay
from .tail import Tail, Tails
from .tasks import spawn, start_again

#: Seconds before the broker is tried again: after the first failure, and at most.
SOONEST, LATEST = 0.1, 2.0

#: Channels whose news is handed on, or whose ends are asked for, before other work has a turn.
CHANNELS = 32


class Listener:
    """The listener of one `Channels` in one process."""

    def __init__(self, broker: Broker, lost: dict[str, Lost]) -> None:
        self._broker = broker
        #: The channels that streams of this process follow.
        self.tails = Tails(broker)
        self.health = Health()
        self._leases = Leases(broker, self.tails, lost)
        self.replay = Replay(broker, self.tails, self.health, self._leases)
        #: The clients that must get an id with their positions.
        self.id_blocks = IdBlocks(self.tails)
        self._ailing = self.replay.ailing
        # Whether `_listen` runs. The lock of the tails guards this.
        self._listening = False
        # Channels that had news since other work had its turn.
        self._turns = 0

    @property
    def is_running(self) -> bool:
        """Whether the listener or a reader runs."""
        return self._listening or self.replay.is_running

    @property
    def watches_leases(self) -> bool:
        """Whether this process looks at the leases of logs that it streams."""
        return self._leases.is_running

    def close(self, seconds: float) -> None:
        """Wait until the listener and the readers have ended, and look at no lease any more.

        No stream follows a channel. Waits at most *seconds*.
        """
        deadline = clock.real() + seconds
        while self.is_running and clock.real() < deadline:
            time.sleep(0.005)
        self._leases.forget_all()
        while self._leases.is_looking and clock.real() < deadline:
            time.sleep(0.005)

    # -- cursors

    def add(self, cursors: list[Cursor]) -> None:
        """Let *cursors* follow their channels from their positions."""
        with self.tails.lock:
            new = self.tails.add(cursors)
            start = not self._listening and bool(self.tails)
            if start:
                self._listening = True
        for cursor in cursors:
            self.replay.start(cursor)
        if start:
            spawn(self._listen)
        elif new and self.tails.unplaced(1):
            self._broker.wake()
        if new:
            self._ailing.followed(new)

    def remove(self, cursors: list[Cursor]) -> None:
        """Let *cursors* follow their channels no more."""
        with self.tails.lock:
            self.replay.forget(cursors)
            self.id_blocks.forget(cursors)
            self.tails.remove(cursors)
            last = self._listening and not self.tails
        if last:
            self._broker.wake()

    # -- the wait for news

    def _listen(self) -> None:
        pause = SOONEST
        try:
            while self._goes_on():
                try:
                    self._hear()
                    if not self.health.is_unsteady:
                        pause = SOONEST
                    continue
                except BrokerError as error:
                    self.health.down(error)
                except Exception:
                    logger.exception("channels: the listener failed, and goes on")
                    self.tails.follow_all_again()
                # A random pause: all processes lose the broker at the same moment, and must not
                # come back at the same moment.
                time.sleep(pause * chance.uniform(0.5, 1.0))
                pause = min(pause * 2, LATEST)
        except BaseException as error:
            # The broker has moved on past news that the cursors may not have got.
            self.tails.follow_all_again()
            start_again(self._listen, error)

    def _goes_on(self) -> bool:
        """Whether a stream follows a channel. If not, notes that the listener ends."""
        with self.tails.lock:
            if not self.tails:
                self._listening = False
                self.health.idle()
            return self._listening

    def _hear(self) -> None:
        """Wait once for news, and give the news to the cursors. Raises `BrokerError`."""
        if self.health.is_down:
            self._probe()
        self._find_ends()
        was_down = self.health.is_down
        if was_down:
            # Let this wait return at once. The broker is back only if a wait works too: a read
            # may work while a wait fails.
            self._broker.wake()
        elif self.health.state != "listening":
            self._up()
        news = self._broker.wait()
        if was_down:
            self._up()
        # First hand on the news, and only then raise the failure of a reader.
        failure = self.health.take_failure()
        try:
            for name, piece in news.items():
                self._take_turn()
                tail = self.tails.get(name)
                if tail is None:
                    continue
                if isinstance(piece, ChannelError):
                    self._ailing.add(piece, listener=True)
                elif piece.after == tail.position:
                    self._hand_on(tail, piece)
                else:
                    # The tail was replaced during the wait, and has another position. This news
                    # is not for the new tail.
                    self.tails.follow_again(name)
        except BaseException:
            if failure is not None:
                self.health.note(failure)
            raise
        if failure is not None:
            raise failure

    def _probe(self) -> None:
        """Test the broker: read one entry of any channel, or ping. Raises `BrokerError`."""
        for tail in self.tails.all():
            if tail.name not in self._ailing:
                after = 0 if tail.position is None else max(tail.position.number - 1, 0)
                try:
                    self._broker.read(tail.name, after, 1, 1)
                    return
                except ChannelError as error:
                    self._ailing.add(error, listener=True)
        self._broker.ping()

    def _find_ends(self) -> None:
        """Ask the broker for the ends of some logs that are not known yet."""
        tails = self.tails.unplaced(CHANNELS)
        for tail in tails:
            try:
                piece = self._broker.read(tail.name, 0, 0, 0)
            except ChannelError as error:
                self.tails.leave_out(tail.name)
                self._ailing.add(error, listener=True)
            else:
                self.tails.found(tail, piece.end, bool(piece.ended))
                self._leases.note(tail.name, piece)
            self._take_turn()
        if len(tails) == CHANNELS:
            # There may be more, which the next turn asks for. The news of the other channels
            # does not wait for them.
            self._broker.wake()

    def _take_turn(self) -> None:
        """Let other work have its turn after each `CHANNELS` channels."""
        self._turns += 1
        if self._turns >= CHANNELS:
            self._turns = 0
            checkpoint()

    def _up(self) -> None:
        """Note that the broker can be used, and let all cursors that are behind read on."""
        self.health.up()
        self.replay.read_on_all()

    # -- the entries on their way to the live cursors

    def _hand_on(self, tail: Tail, piece: Slice) -> None:
        """Give the new entries in *piece* to the live cursors of *tail*, and obey every cut."""
        self._leases.note(tail.name, piece)
        news = News(tail.name, piece, tail.position)
        with self.tails.lock:
            tail.advance(news)
            # A cursor that is behind may not reach a cut for a long time, so check all cursors
            # here. Without a cut, do not look at each cursor: a broadcast would be slow.
            looks = news.cuts or news.closes or news.may_miss_cut
            concerned = list(tail.cursors) if looks else []
        try:
            self._broadcast(tail, news)
        except BaseException:
            self._let_the_rest_read(tail)
            raise
        finally:
            for cursor in concerned:
                cursor.subscription.obey(cursor, news)

    def _broadcast(self, tail: Tail, news: News) -> None:
        """Give *news* to all live cursors, each by its fastest way (see ``fanout``)."""
        batches = news.batches
        loop = current_loop()
        has_sent = False
        for batch in batches:
            for _ in broadcast_together(tail, batch, loop):
                if has_sent:
                    checkpoint()
                has_sent = True
        with self.tails.lock:
            apart = list(tail.apart if batches else tail.live)
        for start in range(0, len(apart), STREAMS_AT_ONCE):
            if start or has_sent:
                checkpoint()
            turn = apart[start : start + STREAMS_AT_ONCE]
            others = [] if batches else turn
            for batch in batches:
                missed = broadcast(tail, batch, turn, loop)
                if missed:
                    others = others + missed
                    skip = set(missed)
                    turn = [cursor for cursor in turn if cursor not in skip]
            for cursor in others:
                self._deliver(tail, cursor, news)

    def _deliver(self, tail: Tail, cursor: Cursor, news: News) -> None:
        """Give *news* to the live *cursor*, or let the cursor read on from its position."""
        subscription = cursor.subscription
        try:
            batches = news.batches
            if batches and all(subscription.deliver_now(cursor, batch) for batch in batches):
                return
            # Some batches may have been given. `deliver` skips the publications that the cursor
            # has passed.
            if news.continues(cursor.position) and subscription.deliver(cursor, news.publications):
                return
        except Exception as error:
            subscription.break_off(cursor.name, error)
        if news.ends_before(cursor.position):
            subscription.lose_place(cursor)
        with self.tails.lock:
            tail.fall_behind(cursor)
        self.replay.read_on(cursor)

    def _let_the_rest_read(self, tail: Tail) -> None:
        """After an interrupted broadcast, let each cursor without the new entries read them."""
        with self.tails.lock:
            missing = [cursor for cursor in tail.live if cursor.position != tail.position]
            for cursor in missing:
                cursor.leave()
                tail.fall_behind(cursor)
        for cursor in missing:
            self.replay.read_on(cursor)
