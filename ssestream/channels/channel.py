"""Channel: a handle on one channel, and what a process learns and promises about it."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from ..brokers.broker import Terms
from ..brokers.configuration import check_seconds
from ..config import app_dumps, app_json
from ..errors import MessageError
from ..plain import unproxied
from ..runtime.callables import check_callable
from ..runtime.uncopyable import Uncopyable
from ..stream import SseStream
from ..wire import Message, encode
from .exchange import Exchange
from .last_message import Last, last_message
from .producing import Producing
from .statistics import ChannelStatistics
from .watchers import Function


def publish(
    exchange: Exchange, name: str, message: Message, terms: Terms, connection: Any = None
) -> str:
    """Publish *message* to the log of the channel *name*, on *terms*. Returns the event's id.

    *connection* is one of the app's own, whose transaction the event is a part of, or None.
    """
    if isinstance(message, (dict, Mapping)) and message.get("id") is not None:
        raise MessageError(
            "'id' is given by the log of the channel: publish a message without an id", "id"
        )
    dumps = app_dumps(app_json() or exchange.json)
    return exchange.publish(name, encode(message, dumps), terms, connection)


class Channel(Uncopyable):
    """A handle on one channel. Most methods are described at the `Channels` method they call."""

    _only_one = "it is a part of its Channels. Make another with channels.channel(name)"

    _channels: Any  # a Channels

    def __init__(
        self, channels: Any, name: str, terms: Terms, exchange: Callable[[], Exchange]
    ) -> None:
        self.name = name
        self._channels = channels
        self._terms = terms
        # The exchange with the broker of the current app.
        self._exchange = exchange

    def publish(self, message: Message, *, connection: Any = None) -> str:
        """See `Channels.publish`."""
        return publish(self._exchange(), self.name, message, self._terms, connection)

    def subscribe(self, sse_stream: SseStream, **options: Any) -> None:
        """See `Channels.subscribe`."""
        self._channels.subscribe(sse_stream, self.name, **options)

    def history(self, limit: int | None = None) -> list[dict[str, str | int]]:
        """See `Channels.history`."""
        kept: list[dict[str, str | int]] = self._channels.history(self.name, limit)
        return kept

    def end(self, message: Message | None = None, *, ttl: float | None = None) -> bool:
        """See `Channels.end`."""
        has_ended: bool = self._channels.end(self.name, message, ttl=ttl)
        return has_ended

    def delete(self) -> None:
        """See `Channels.delete`."""
        self._channels.delete(self.name)

    def close(self) -> None:
        """See `Channels.close_channel`."""
        self._channels.close_channel(self.name)

    def cut(self, key: Hashable) -> None:
        """See `Channels.cut`."""
        self._channels.cut(self.name, key)

    # -- who produces

    def producer(
        self, ttl: float = 30.0, *, last: Last = last_message, end: bool = True
    ) -> Producing:
        """A context manager: while its block runs, this process is the producer of the channel.

        ::

            with channels.channel("job:7").producer(ttl=30) as job:
                job.publish({"data": "..."})

        The channel has a lease of *ttl* seconds, which a thread of its own renews. If the process
        dies or stands still, the lease runs out. The first process that streams the channel, or
        that a client asks for it, then ends the channel as lost: within *ttl* + 5 seconds, once.

        The block ends the channel, as `Channels.end` does: as done, as failed after an exception,
        and as lost after an exception that ends the process, such as ``SystemExit``. With *end*
        False, a block that is done leaves the channel open and ends the lease only. If the channel
        has ended in the block, its end stands.

        *last* is a function that makes the last message from the status (``"done"``,
        ``"failed"`` or ``"lost"``) and the exception, or None; it returns None for no message. Its
        message for ``"lost"`` is made when the block begins. If it fails, this is logged, and the
        usual message is sent.

        A later block for the same channel, in any process, takes the lease over. The end of the
        earlier block then does nothing. Entering the block raises `ChannelEnded` if the channel has
        ended, and `BrokerError`. Leaving it raises `BrokerError` if the end was not stored.
        Raises ``TypeError`` or ``ValueError`` for a wrong argument.
        """
        if ttl is None:
            raise TypeError("ttl is a number of seconds, not None")
        check_seconds("ttl", ttl)
        check_callable("last", last, "a function of a status and an exception")
        return Producing(self, self._exchange(), self._terms, float(ttl), unproxied(last), end)

    # -- who watches

    def watchers(self) -> int:
        """How many streams of all processes that have subscribed with ``counted=True``.

        A stream counts, and counts no more, within a second in other processes. The streams of a
        process that has died count for 6 more seconds. The call reads from the broker once, and
        raises `BrokerError`.
        """
        return self._exchange().watchers.count(self.name)

    def on_empty(self, function: Function, *, grace: float = 5.0) -> Function:
        """Call *function* with the name of the channel when its last watcher has left.

        The watchers are those that `watchers` counts, in all processes. The call comes when there
        has been none for *grace* seconds, each time anew, in this process: *grace* lets a page
        reload. It does not come before the first watcher. When the broker was away, nothing is
        judged for 6 seconds. Until `off_empty`, or until the channel has ended and is empty, this
        process reads from the broker twice a second. The function runs in a greenlet or a thread of
        its own. It is not called in a process that is forked later, as by gunicorn's ``--preload``.
        Returns *function*, so this is a decorator, too. Raises ``TypeError`` or ``ValueError`` for
        a wrong argument.
        """
        check_callable("function", function)
        if grace is None:
            raise TypeError("grace is a number of seconds, not None")
        if grace != 0:
            check_seconds("grace", grace)
        self._exchange().watchers.on_empty(self.name, unproxied(function), unproxied(grace))
        return function

    def off_empty(self, function: Function) -> None:
        """Undo `on_empty` for *function*."""
        self._exchange().watchers.off_empty(self.name, unproxied(function))

    @property
    def subscribers(self) -> int:
        """The number of streams of this process that follow the channel."""
        return self.statistics().subscribers

    def statistics(self) -> ChannelStatistics:
        """The statistics of the channel in this process; all zeros while no stream follows it."""
        return self._exchange().listener.tails.statistics(self.name)
