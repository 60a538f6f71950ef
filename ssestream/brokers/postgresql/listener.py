"""Hear of the news of all followed channels, by NOTIFY and from the logs.

A notification names a channel that has changed. The listener then reads their logs. So a
notification may be lost, doubled or invented without harm: each log is looked at in its turn, too.
"""

import math
import time
from collections.abc import Callable

from ...runtime.clock import clock
from ..broker import WAITED, WAITED_BYTES, ChannelError, News, Position, Slice
from ..followed import FollowedLogs
from ..waker import PollableWaker
from . import logs
from .deletion import Broom
from .errors import ERRORS, is_of_channel
from .migration import ANSWER
from .psycopg import Connection
from .target import Target

#: Seconds between two looks at a part of the logs. Each look also shows that the server answers.
LOOK = 1.0

#: The channels of one look. The more channels, the longer it takes until each had its turn.
PER_LOOK = 500

#: The most seconds until each had its turn, however many there are.
LONGEST_ROUND = 60.0

#: The channels that one query compares. It reads at most `logs.AT_ONCE` of them.
COMPARED = 500

#: Seconds after which a wait returns even without news.
LONGEST = 5.0


class Listener:
    """The connection *db* of one process that listens. Only one caller uses it at a time."""

    def __init__(self, db: Connection, target: Target, followed: FollowedLogs) -> None:
        self.db = db
        self._target = target
        self._followed = followed
        self._broom = Broom()
        # The channels that this round has not looked at yet.
        self._round: list[str] = []
        self._part = PER_LOOK
        self._look_at = clock.real() + LOOK
        # What was heard during a query. It may have come behind the snapshot of the query.
        self._heard: list[str] = []
        db.allow(ANSWER)
        db.add_notify_handler(lambda notification: self._heard.append(notification.payload))
        db.execute(f"LISTEN {logs.LISTENED}")
        # Anything may have come before.
        followed.note_all()

    def wait(self, waker: PollableWaker, take_wake: Callable[[], bool]) -> News:
        """Wait for news. Returns without news after a wake, or after `LONGEST` seconds."""
        deadline = clock.real() + LONGEST
        while True:
            news: News = {}
            self._look()
            if unchecked := self._followed.unchecked(COMPARED):
                self._read(unchecked, news)
            # The positions are behind the news. So nothing may fail before it is returned.
            if take_wake() or news or clock.real() >= deadline:
                return news
            self._hear()
            if self._followed.has_unchecked:
                time.sleep(0)  # let other greenlets run
                continue
            seconds = min(deadline, self._look_at) - clock.real()
            waker.wait(seconds, self.db)
            self._hear()
            # `close` also wakes, and then nothing may be asked any more.
            if take_wake():
                return {}

    def _hear(self) -> None:
        heard, self._heard = self._heard, []
        for name in (*heard, *self.db.payloads()):
            self._followed.note(name)

    def _look(self) -> None:
        """Let the next part of the followed logs be read, and free what nobody reads."""
        now = clock.real()
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        if not self._round:
            self._round = list(self._followed.all())
            self._part = max(PER_LOOK, math.ceil(len(self._round) * LOOK / LONGEST_ROUND))
        for name in self._round[-self._part :]:
            self._followed.note(name)
        del self._round[-self._part :]
        self.db.allow(ANSWER)
        self._broom.sweep(self.db)

    def _read(self, unchecked: list[tuple[str, Position]], news: News) -> None:
        self.db.allow(ANSWER)
        found: dict[str, Slice | ChannelError]
        try:
            found = dict(logs.news(self.db, unchecked, WAITED, WAITED_BYTES))
        except ERRORS as error:
            if not is_of_channel(error):
                raise
            # One of them is damaged.
            unchecked = unchecked[: logs.AT_ONCE]
            found = {name: piece for name, at in unchecked for piece in self._read_one(name, at)}
        is_whole = len(found) < logs.AT_ONCE
        for name, at in unchecked:
            if name in found:
                self._followed.pass_on(name, at, found[name], news)
            elif is_whole:
                self._followed.settle(name, at)

    def _read_one(self, name: str, at: Position) -> list[Slice | ChannelError]:
        """The news of the channel *name* after *at*, if there is any, or its error."""
        self.db.allow(ANSWER)
        try:
            return list(logs.news(self.db, [(name, at)], WAITED, WAITED_BYTES).values())
        except ERRORS as error:
            if not is_of_channel(error):
                raise
            return [ChannelError(name, self._target.explain(error))]
