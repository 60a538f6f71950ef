"""Retry channels that cannot be read while the broker serves the other channels.

In Redis, the key of such a channel has another type, or the account may not read the key. In
SQLite, a row or a page is damaged. The streams of such a channel stay open and wait. The channel
is logged once, is tried again while a stream follows it, and is logged once more when it can be
read again.
"""

import time
import weakref
from collections.abc import Callable

from ..brokers.broker import Broker, ChannelError
from ..errors import BrokerError
from ..runtime.loop import logger
from ..runtime.threads import new_lock
from ..settings import chance
from .tail import Tails
from .tasks import spawn

#: Seconds before the next try: after the first failure, and at most.
SOONEST, LATEST = 0.1, 2.0

#: Channels that are tried in one round.
AT_ONCE = 16

#: The most channels without a stream that are remembered, so that each is logged only once.
REMEMBERED = 1000

#: Entries that a try reads, and their bytes.
TRIED, TRIED_BYTES = 128, 256 * 1024


class Ailing:
    """The channels of one broker, in one process, that cannot be read now.

    *resume* is a method that lets the listener, and the streams that are behind, read a channel
    again.
    """

    def __init__(self, broker: Broker, tails: Tails, resume: Callable[[str], None]) -> None:
        self._broker = broker
        self._tails = tails
        # A weak reference makes no cycle, so a dropped broker closes its connections at once.
        self._resume = weakref.WeakMethod(resume)
        self._lock = new_lock()
        # For each channel, whether the broker has left it out of the listener's news.
        self._channels: dict[str, bool] = {}
        # The number of channels at which those without a stream are forgotten.
        self._most = REMEMBERED
        self._is_trying = False

    def __contains__(self, name: str) -> bool:
        """Whether the broker has left the channel *name* out of the listener's news."""
        return self._channels.get(name, False)

    def add(self, error: ChannelError, *, listener: bool) -> None:
        """Note *error*, log it if the channel is new here, and start the retries.

        *listener* tells whether the listener met the error, and not a reader of one stream.
        """
        with self._lock:
            is_new = error.channel not in self._channels
            self._channels[error.channel] = listener or error.channel in self
            if len(self._channels) > self._most:
                self._forget_some()
        if is_new:
            logger.warning(
                "channels: %s; only the channel %r is affected: its streams stay open and"
                " wait, and the other channels go on",
                error,
                error.channel,
            )
        self._go_on()

    def followed(self, names: list[str]) -> None:
        """Try those of *names* again that are ailing: the first stream follows each of them."""
        if not self._channels.keys().isdisjoint(names):
            self._go_on()

    def _go_on(self) -> None:
        """Start the retries if they are not running."""
        with self._lock:
            start = not self._is_trying
            self._is_trying = True
        if start:
            spawn(self.run)

    def _forget_some(self) -> None:
        """Remember at most `REMEMBERED` channels besides those that a stream follows."""
        unfollowed = [name for name in self._channels if self._tails.get(name) is None]
        for name in unfollowed[:-REMEMBERED]:
            del self._channels[name]
        # Look again when there are twice as many, so that a look at all of them is rare.
        self._most = max(REMEMBERED, 2 * len(self._channels))

    def run(self) -> None:
        """Try the channels again, until each can be read or has no follower."""
        pause = SOONEST
        try:
            while names := self._names():
                time.sleep(pause * chance.uniform(0.5, 1.0))
                pause = min(pause * 2, LATEST)
                for name in names:
                    self._try(name)
        except BaseException:
            with self._lock:
                self._is_trying = False
            raise

    def _names(self) -> list[str]:
        with self._lock:
            names = [name for name in self._channels if self._tails.get(name) is not None]
            self._is_trying = bool(names)
        chance.shuffle(names)
        return names[:AT_ONCE]

    def _can_be_read(self, name: str) -> None:
        resume = self._resume()
        if resume is not None:
            resume(name)

    def _try(self, name: str) -> None:
        numbers = self._tails.read_points(name)
        if numbers is None:  # no stream follows the channel any more
            return
        try:
            for index, after in enumerate(numbers):
                self._broker.read(name, after, TRIED, TRIED_BYTES)
                if index == 0 and name in self:
                    with self._lock:
                        self._channels[name] = False
                    self._can_be_read(name)
        except BrokerError:
            return
        with self._lock:
            was_there = self._channels.pop(name, None) is not None
        if was_there:
            logger.warning("channels: %r can be read again", name)
            self._can_be_read(name)
