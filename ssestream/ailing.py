"""Channels whose own logs cannot be read, while the broker serves the others.

In Redis such a key has another type, or the account may not read it; in SQLite a row or
a page is damaged. The streams of such a channel stay open and wait. It is told of once,
tried again while somebody follows it, and told of once more when all is well.
"""

import time
import weakref
from collections.abc import Callable
from typing import Protocol

from .brokers.broker import Broker, ChannelError
from .errors import BrokerError
from .hub import logger, new_lock
from .settings import chance

#: Seconds before such channels are tried again, at first and at most.
SOONEST, LATEST = 0.1, 2.0

#: Of many such channels those that are tried at a time.
AT_ONCE = 16

#: Channels of which it is remembered that they were told of.
REMEMBERED = 1000

#: Of a try: entries that are read, and their bytes.
TRIED, TRIED_BYTES = 128, 256 * 1024


class Followed(Protocol):
    """What follows the channels in this process."""

    def places(self, name: str) -> list[int] | None:
        """The numbers behind which a channel is to be read, or None where nobody follows it.

        Of the listener first, then of the stream that is furthest behind.
        """

    def resume(self, name: str) -> None:
        """The listener can go on with it, or all can."""


class Ailing:
    """Those of one broker, in one process. *start* runs a function that waits."""

    def __init__(
        self, broker: Broker, start: Callable[[Callable[[], None]], object], followed: Followed
    ) -> None:
        self._broker = broker
        self._start = start
        # Without a cycle: what is dropped closes its connections at once.
        self._followed_by = weakref.ref(followed)
        self._lock = new_lock()
        # Whether the listener is to leave it out.
        self._channels: dict[str, bool] = {}
        self._is_trying = False

    def __contains__(self, name: str) -> bool:
        """Whether the listener is to leave the channel *name* out."""
        return self._channels.get(name, False)

    def add(self, error: ChannelError, *, listener: bool) -> None:
        """The log of a channel could not be read, by the *listener* or by a reader."""
        with self._lock:
            is_new = error.channel not in self._channels
            self._channels[error.channel] = listener or error.channel in self
            while len(self._channels) > REMEMBERED:
                del self._channels[next(iter(self._channels))]
        if is_new:
            logger.warning(
                "channels: %s; this is of the channel %r alone: its streams stay open and"
                " wait, and the other channels go on",
                error,
                error.channel,
            )
        self.go_on()

    def go_on(self) -> None:
        """Somebody follows a channel that may be one of these."""
        with self._lock:
            start = bool(self._channels) and not self._is_trying
            self._is_trying = self._is_trying or start
        if start:
            self._start(self.run)

    def run(self) -> None:
        """Try them again, until nobody follows any of them."""
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
            names = [name for name in self._channels if self._places(name) is not None]
            self._is_trying = bool(names)
        chance.shuffle(names)
        return names[:AT_ONCE]

    def _places(self, name: str) -> list[int] | None:
        followed = self._followed_by()
        return None if followed is None else followed.places(name)

    def _resume(self, name: str) -> None:
        followed = self._followed_by()
        if followed is not None:
            followed.resume(name)

    def _try(self, name: str) -> None:
        try:
            for index, after in enumerate(self._places(name) or ()):
                self._broker.read(name, after, TRIED, TRIED_BYTES)
                if index == 0 and name in self:
                    with self._lock:
                        self._channels[name] = False
                    self._resume(name)
        except BrokerError:
            return
        with self._lock:
            was_there = self._channels.pop(name, None) is not None
        if was_there:
            logger.warning("channels: %r can be read again", name)
            self._resume(name)
