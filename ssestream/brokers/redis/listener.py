"""Hear of the news of all followed channels, by Pub/Sub and from the logs.

Each log is announced on a Pub/Sub channel of its own (see ``announcement``). The listener
subscribes to those of the followed channels, and reads a log itself

*   when Redis has confirmed the subscription: something may have come before,
*   when an announcement does not continue the position, or carries no frame,
*   in turn with all others (see `check_seconds`), for what is not announced: a log that is gone,
    an announcement that was lost, an entry of a process with an earlier version.

So an announcement may be lost, doubled or invented without harm. What happens in one channel
costs nothing in the others.
"""

import math
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from redis import exceptions

from ...runtime.clock import clock
from ...runtime.loop import logger
from ..broker import WAITED, WAITED_BYTES, ChannelError, News, Position, Slice
from ..waker import PollableWaker
from .announcement import parse
from .errors import is_of_pubsub_channel, without_rights
from .follow_requests import FollowRequests
from .poller import POLL, poll
from .pool import Pool
from .servers import Servers
from .subscriber import BATCH, Subscriber

#: Seconds in which each followed log is checked once, whatever is announced. The first number is
#: for up to `PER_SECOND` times as many channels, and the second for any number.
CHECK, LONGEST_CHECK = 5.0, 60.0

#: Channels that are checked in a second, and the least seconds between two parts of a check.
PER_SECOND, PART = 500, 1.0

#: Channels that are read at once. Redis runs nothing else during a script.
AT_ONCE = 100

#: Seconds after which a wait returns even without news.
LONGEST = 5.0

#: Refused subscriptions, without one that is confirmed, after which none is tried any more.
REFUSED = 16


def check_seconds(channels: int) -> float:
    """The seconds in which so many followed logs are checked."""
    return min(max(channels / PER_SECOND, CHECK), LONGEST_CHECK)


Read = Callable[[Mapping[str, Position]], News]


class Listener:
    """The connections of one process that are subscribed, and the logs that are to be read.

    Only one caller uses it at a time.
    """

    def __init__(self, pool: Pool, servers: Servers, requests: FollowRequests) -> None:
        self.pool = pool
        self._servers = servers
        self._requests = requests
        # By the name of the server.
        self._subscribers: dict[str, Subscriber] = {}
        # Whether the servers are polled, because they cannot announce.
        self._polls = False
        # The channels whose log is to be read.
        self._due: dict[str, None] = {}
        # The channels of the current check of all, how many of them were read, when the check
        # began, and when its next part is due.
        self._round: list[str] = []
        self._checked = 0
        self._round_began = clock.real()
        self._part_at = self._round_began + CHECK
        self._round_seconds = CHECK
        # The channels that the account may not subscribe to. They are only checked.
        self._refused: set[str] = set()
        # Whether a server has confirmed a subscription, or was polled.
        self._has_heard = False
        # Whether a log was read.
        self._works = False
        # Whether the last wait has ended for a wake and has left logs for the next to read.
        self._has_put_off = False
        # When the servers were last asked which of them announces which channel, and the channels
        # that had then moved to no server that is known.
        self._renewed_at = -math.inf
        self._moved: set[str] = set()
        requests.change(requests.names())

    def wait(self, waker: PollableWaker, take_wake: Callable[[], bool], read: Read) -> News:
        """Wait for news. Returns without news after a wake, or after `LONGEST` seconds.

        *take_wake* tells whether there was a wake. *read* reads the news of some channels. After an
        error, all channels stand where they stood before.
        """
        self._requests.begin()
        try:
            return self._wait(waker, take_wake, read)
        except BaseException:
            # A connection may fail when others, or the same, have already brought news.
            self._requests.take_back()
            raise

    def _wait(self, waker: PollableWaker, take_wake: Callable[[], bool], read: Read) -> News:
        news: News = {}
        was_woken = False
        deadline = clock.real() + LONGEST
        while True:
            self._subscribe()
            sockets = [each.socket for each in self._subscribers.values()]
            _, readable = waker.wait(self._seconds_left(deadline), *sockets)
            was_woken = take_wake() or was_woken
            if readable:
                self._hear(readable, news)
            self._check()
            # After a failure, a wake is answered only when all works again that is needed.
            ends = was_woken and (self._works or not self._requests)
            # A wake does not wait for the logs, unless the last one did not either.
            if self._due and (self._has_put_off or not ends):
                self._read_due(news, read)
                self._has_put_off = False
                # This read may be the first that works since a failure.
                ends = was_woken and self._works
            else:
                self._has_put_off = ends
            if news or ends or clock.real() >= deadline:
                return news

    def _seconds_left(self, deadline: float) -> float:
        """The seconds until there is something to do besides hearing."""
        if self._due or (self._requests.has_changes and self._has_room()):
            return 0.0
        now = clock.real()
        left = [deadline - now, self._part_at - now]
        left += [each.seconds_left() for each in self._subscribers.values()]
        if self._moved:
            left.append(self._renewed_at + PART - now)
        if self._polls:
            left.append(POLL)
        return max(min(left), 0.0)

    # -- subscriptions

    def _has_room(self) -> bool:
        return all(each.has_room for each in self._subscribers.values())

    def _subscribe(self) -> None:
        """Send some of the changes of what is followed, if Redis has answered the last ones."""
        if not (self._requests.has_changes and self._has_room()):
            return
        # If the account may not subscribe at all, a few refusals show this.
        changes = self._requests.take_changes(BATCH if self._has_heard else REFUSED)
        if self._polls:
            self._due.update((name, None) for name, is_followed in changes.items() if is_followed)
            return
        commands: dict[str, dict[str, bool]] = {}
        for name, is_followed in changes.items():
            server = self._servers.of(name)
            subscriber = self._subscribers.get(server)
            is_asked = subscriber is not None and name in subscriber.asked
            if is_asked != is_followed:
                commands.setdefault(server, {})[name] = is_followed
            elif subscriber is not None and name in subscriber.confirmed:
                # The channel was followed anew: the position is another one.
                self._due[name] = None
            if not is_followed:
                self._due.pop(name, None)
                self._refused.discard(name)
                self._moved.discard(name)
        for server, some in commands.items():
            self._subscriber(server).send(some)

    def _subscriber(self, server: str) -> Subscriber:
        subscriber = self._subscribers.get(server)
        if subscriber is not None and subscriber.is_idle:
            subscriber.close()
            subscriber = None
        if subscriber is None:
            connection = self._servers.connect(server)
            subscriber = Subscriber(connection, self._servers.db, self._servers.sharded)
            self._subscribers[server] = subscriber
        return subscriber

    # -- what the servers say

    def _hear(self, readable: list[Any], news: News) -> None:
        for server, subscriber in list(self._subscribers.items()):
            if subscriber.socket not in readable:
                continue
            for name, told in subscriber.receive():
                if isinstance(told, bytes):
                    self._take(name, told, news)
                elif told is True:
                    self._has_heard = True
                    self._due[name] = None
                elif told is False:
                    self._requests.change([name])
                else:
                    self._take_refusal(server, name, told)

    def _take(self, name: str, text: bytes, news: News) -> None:
        """Take the announcement *text* for news, or let the log be read."""
        at = self._requests.at(name)
        if at is None:
            return
        announced = parse(text)
        if announced is not None:
            if announced.is_at(at):
                return
            earlier = news.get(name)
            is_full = earlier is not None and (
                isinstance(earlier, ChannelError) or len(earlier.entries) >= WAITED
            )
            if announced.continues(at) and not is_full:
                piece = announced.slice(earlier)  # type: ignore[arg-type]
                if self._requests.pass_on(name, at, piece, news):
                    return
        self._due[name] = None

    def _take_refusal(self, server: str, name: str, error: exceptions.ResponseError) -> None:
        """Redis has refused the subscription to *name* at *server*."""
        if isinstance(error, exceptions.MovedError):
            self._take_move(server, name)
        elif self._servers.sharded and "unknown command" in str(error):
            self._polls = True
            self._requests.change(self._requests.names())
        elif is_of_pubsub_channel(error):
            self._refused.add(name)
            self._due[name] = None
            if not self._has_heard and len(self._refused) >= min(REFUSED, len(self._requests)):
                raise without_rights(error)
            if len(self._refused) == 1:
                logger.warning(
                    "channels: %s. Until then, the events of %r, and of other such channels, come"
                    " some seconds late",
                    without_rights(error),
                    name,
                )
        elif isinstance(error, exceptions.NoPermissionError):
            raise without_rights(error)
        else:
            raise error

    def _take_move(self, server: str, name: str) -> None:
        """Subscribe to *name* at the server that announces it now, and not *server* any more."""
        if self._servers.of(name) == server and clock.real() > self._renewed_at + PART:
            self._renewed_at = clock.real()
            self._servers.renew()
        if self._servers.of(name) == server:
            self._moved.add(name)
        else:
            self._requests.change([name])

    # -- the logs

    def _check(self) -> None:
        """Ask for signs of life, and let the logs be read that nothing was heard of for long."""
        for subscriber in self._subscribers.values():
            subscriber.check()
        if self._polls:
            positions = self._requests.positions()
            self._due.update(dict.fromkeys(poll(self.pool, positions) if positions else ()))
            self._has_heard = True
        now = clock.real()
        if self._moved and now > self._renewed_at + PART:
            self._requests.change(list(self._moved))
            self._moved.clear()
        if now >= self._part_at:
            self._check_some(now)

    def _check_some(self, now: float) -> None:
        """Let the next part of the followed logs be read."""
        share = (now - self._round_began) / self._round_seconds
        before, self._checked = self._checked, math.ceil(len(self._round) * share)
        self._due.update(dict.fromkeys(self._round[before : self._checked]))
        if share >= 1:
            self._round, self._checked, self._round_began = self._requests.names(), 0, now
            self._round_seconds = check_seconds(len(self._round))
            self._requests.change(list(self._refused))
            self._refused.clear()
        self._part_at = now + max(PART, self._round_seconds / (len(self._round) + 1))

    def _read_due(self, news: News, read: Read) -> None:
        """Read some of the logs that are to be read."""
        names = [name for name in islice(self._due, AT_ONCE) if name not in news]
        positions = {name: at for name in names if (at := self._requests.at(name)) is not None}
        found = read(positions) if positions else {}
        self._works = self._works or bool(positions)
        pieces = [piece for piece in found.values() if isinstance(piece, Slice)]
        length = sum(len(entry.frame) for piece in pieces for entry in piece.entries)
        for name in names:
            piece = found.get(name)
            if piece is None and name in positions and length >= WAITED_BYTES:
                continue  # the script may not have come to it
            del self._due[name]
            if piece is None:
                continue
            if isinstance(piece, Slice) and piece.read_to.number < piece.last:
                self._due[name] = None  # the rest, after the others
            self._requests.pass_on(name, positions[name], piece, news)

    # -- the end

    def silence(self) -> None:
        """Called in a child: let its copies of the connections be none."""
        for subscriber in self._subscribers.values():
            subscriber.silence()

    def close(self) -> None:
        self._servers.close()
