"""One connection that is subscribed to the Pub/Sub channels of followed channels."""

import select
from collections import deque
from typing import Any

from gevent import monkey
from redis import exceptions

from ...runtime.clock import clock
from ...runtime.forking import process
from .client import ANSWER, socket_of
from .keys import followed_in, followers_of
from .replies import Replies

_poll: Any = monkey.get_original("select", "poll")

#: Seconds of silence after which a subscriber asks Redis for a sign of life. A dead connection
#: is found within `SILENCE` and `ANSWER` together.
SILENCE = 5.0

#: The most channels that one write subscribes to. While so many answers are awaited, no more
#: channels are subscribed to: Redis and this process do other work in between.
BATCH = 500

#: The bytes that are read at once.
_AT_ONCE = 65536


class Subscriber:
    """A connection of redis-py that is used for subscribing only.

    Each channel has a command of its own, so that each answer, or refusal, is for one channel.
    On a cluster, one command could not name channels of two slots.
    """

    def __init__(self, connection: Any, db: int, sharded: bool) -> None:
        self._connection = connection
        self._db = db
        self._words = ("SSUBSCRIBE", "SUNSUBSCRIBE") if sharded else ("SUBSCRIBE", "UNSUBSCRIBE")
        self._replies = Replies()
        # The commands that were not answered yet: the channel, and whether it is to be followed.
        self._unanswered: deque[tuple[str, bool]] = deque()
        #: The channels for which the last command was to subscribe.
        self.asked: dict[str, None] = {}
        #: The channels of `asked` to which Redis has confirmed the subscription.
        self.confirmed: set[str] = set()
        # When Redis has last sent something, or a command after a silence was sent.
        self._heard_at = clock.real()

    @property
    def socket(self) -> Any:
        """The connection's socket. Raises ``ConnectionError`` if the connection is closed."""
        if self._any_socket is None:  # redis-py would connect again, without the subscriptions
            raise exceptions.ConnectionError("the connection is closed")
        return self._any_socket

    @property
    def _any_socket(self) -> Any:
        return socket_of(self._connection)

    @property
    def has_room(self) -> bool:
        """Whether the next batch may be sent."""
        return len(self._unanswered) < BATCH

    @property
    def is_idle(self) -> bool:
        """Whether this connection has nothing to hear and may be dead without a sign."""
        return not self.asked and clock.real() > self._heard_at + SILENCE

    def send(self, changes: dict[str, bool]) -> None:
        """Subscribe to each channel of *changes* whose value is True, and leave the others."""
        assert self.socket
        if not self._unanswered:
            self._heard_at = clock.real()
        commands = []
        for name, is_followed in changes.items():
            word = self._words[0 if is_followed else 1]
            commands.append((word, followers_of(name, self._db)))
            self._unanswered.append((name, is_followed))
            if is_followed:
                self.asked[name] = None
            else:
                self.asked.pop(name, None)
                self.confirmed.discard(name)
        self._connection.send_packed_command(
            self._connection.pack_commands(commands), check_health=False
        )

    def seconds_left(self) -> float:
        """The seconds until `check` is to be called."""
        if self._unanswered:
            return self._heard_at + ANSWER - clock.real()
        return self._heard_at + SILENCE - clock.real() if self.asked else SILENCE

    def check(self) -> None:
        """Ask for a sign of life after a silence. Raises ``TimeoutError`` without an answer."""
        if self.seconds_left() > 0:
            return
        if self._unanswered:
            raise exceptions.TimeoutError(f"no answer to {self._words[0]}")
        if self.asked:
            # Subscribe once more, and send no PING: the account may have no right to it.
            self.send({next(iter(self.asked)): True})

    def receive(self) -> list[tuple[str, Any]]:
        """What has come to the socket, which can be read: the channel, and what is told of it.

        That is bytes for what was published; True for a subscription that is confirmed; False
        for a subscription that Redis has ended; or an error for a refusal.
        """
        told: list[tuple[str, Any]] = []
        while True:
            data = self.socket.recv(_AT_ONCE)
            if not data:
                raise exceptions.ConnectionError("Connection closed by server.")
            self._heard_at = clock.real()
            for reply in self._replies.feed(data):
                if isinstance(reply, list) and len(reply) == 3:
                    self._take(reply, told)
                elif isinstance(reply, exceptions.ResponseError):
                    self._take_refusal(reply, told)
            if len(data) < _AT_ONCE or not self._is_readable():
                return told

    def _take(self, reply: list[Any], told: list[tuple[str, Any]]) -> None:
        kind, followers, payload = reply
        if kind in (b"message", b"smessage"):
            told.append((followed_in(followers), payload))
        elif kind in (b"subscribe", b"ssubscribe"):
            name, _ = self._unanswered.popleft()
            if name in self.asked and name not in self.confirmed:
                self.confirmed.add(name)
                told.append((name, True))
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            name = followed_in(followers)
            if self._unanswered and self._unanswered[0] == (name, False):
                self._unanswered.popleft()
            else:  # the slot of the channel has moved to another node
                self.asked.pop(name, None)
                self.confirmed.discard(name)
                told.append((name, False))

    def _take_refusal(self, error: exceptions.ResponseError, told: list[tuple[str, Any]]) -> None:
        if not self._unanswered:
            raise error
        name, is_followed = self._unanswered.popleft()
        if not is_followed:
            raise error
        self.asked.pop(name, None)
        self.confirmed.discard(name)
        told.append((name, error))

    def _is_readable(self) -> bool:
        if getattr(self.socket, "pending", int)():  # decrypted already
            return True
        poll = _poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def silence(self) -> None:
        """Called in a child: let its copy of the connection be none."""
        if self._any_socket is not None:
            process.silence(self._any_socket)

    def close(self) -> None:
        self._connection.disconnect()
