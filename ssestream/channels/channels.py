"""The public `Channels`: publish an event once, and each following stream gets it once, in order.

A channel is an append-only log (see ``brokers``). The id of an event is a position in the log.
A browser sends this id back as ``Last-Event-ID`` (WHATWG HTML, section 9.2.4), so any worker on
any host can continue there.
"""

from collections.abc import Hashable
from typing import Any

import flask

from ..brokers.broker import END, PLAIN, Bounds, Broker, Terms, check_name
from ..brokers.configuration import check, check_seconds
from ..brokers.memory import MemoryBroker
from ..browser import serve_if_early
from ..errors import ChannelEnded
from ..plain import plain_int, plain_text, shortened, unproxied
from ..runtime.uncopyable import Uncopyable
from ..stream import SseStream
from ..wire import Message
from .arguments import START, check_subscription, terms_of
from .channel import Channel, publish
from .cursor import Filter
from .exchange import Exchange
from .exchanges import Exchanges
from .health import State
from .history import read_back
from .publication import CLOSE, cut_frame
from .replay import ALL
from .statistics import ChannelStatistics


class Channels(Uncopyable):
    """The channels of one broker.

    *url* names the broker. ``memory://`` serves this process. ``sqlite:///relative/path`` and
    ``sqlite:////absolute/path`` serve every process of this host. ``redis://``, ``rediss://``
    and ``unix://``, as in redis-py, serve every host; see ``brokers.redis`` for sentinels and
    clusters. ``postgresql://`` serves every host, too; see ``brokers.postgresql``. With None, the
    broker is ``SSESTREAM_URL`` in the configuration of the first app that uses these channels, else
    ``memory://``.

    *url* may also be a Flask app, as with other Flask extensions; then `init_app` is called with
    it. Apps with equal configurations share a broker. An app with another configuration has its
    own broker in its context.

    *history* is the number of events that each channel keeps, and *history_age* is the greatest
    age of an event in seconds. The log of a channel remembers both. The first event of a channel
    sets them; None then means 1000 events of any age. In a log that exists, a larger value makes
    the log keep more, and None changes nothing. A smaller value changes nothing either. A
    WARNING names the first channel where this happens; `keep` can make a log keep less.

    No connection is made until the first use. Raises ``TypeError`` or ``ValueError`` for a wrong
    argument.
    """

    _only_one = (
        "it has connections and subscribers of its own. Make another Channels with the same URL"
    )

    def __init__(
        self,
        url: str | flask.Flask | None = None,
        *,
        history: int | None = None,
        history_age: float | None = None,
    ) -> None:
        history, history_age = unproxied(history), unproxied(history_age)
        check(None if isinstance(url, flask.Flask) else url, history, history_age)
        #: The exchange of each broker, for the other rooms of the package.
        self.exchanges = Exchanges(url if isinstance(url, str) else None, history, history_age)
        if isinstance(url, flask.Flask):
            self.init_app(url)

    # -- choosing a broker

    def init_app(self, app: flask.Flask) -> None:
        """Take each missing argument from *app*'s configuration.

        The keys are ``SSESTREAM_URL``, ``SSESTREAM_HISTORY`` and ``SSESTREAM_HISTORY_AGE``.
        Sets ``app.extensions["ssestream"]``, and serves ``ssestream.js`` (see ``browser.py``). A
        call of `publish` outside of the app's context uses the app's JSON provider.

        Apps with equal configurations share a broker; with ``memory://`` they share one memory.
        An app with another configuration has its own broker, and a call in that app's context
        uses it. A call outside of all contexts then raises ``RuntimeError``, because it could
        mean any of the brokers.

        Raises ``TypeError`` or ``ValueError`` for a wrong value in the configuration, and
        ``RuntimeError`` if the broker would change while streams follow these channels.
        """
        self.exchanges.init_app(app)
        app.extensions["ssestream"] = self
        serve_if_early(app)

    @property
    def _exchange(self) -> Exchange:
        return self.exchanges.current()

    @property
    def _broker(self) -> Broker:
        return self._exchange.broker

    def current_exchange(self) -> Exchange:
        """The exchange with the broker of the current app, for the other rooms of the package."""
        return self._exchange

    @property
    def state(self) -> State:
        """The state of this process's listener.

        ``"idle"`` while no stream follows a channel, ``"down"`` while the broker cannot be
        used, else ``"listening"``.
        """
        return self._exchange.listener.health.state

    # -- writing

    def publish(self, channel: str, message: Message, *, connection: Any = None) -> str:
        """Store *message* in *channel* for all streams that follow it. Returns the event's id.

        Thread-safe, and works in any process, without an app or a request. Raises
        `MessageError` for a message that cannot be sent, or that has an ``id``: the log gives
        the id. Raises ``TypeError`` or ``ValueError`` for a name that no channel can have, and
        `BrokerError` if the event was not stored, or if the answer of the broker was lost. It is
        a `ChannelEnded` if the channel has ended.

        With ``postgresql://``, *connection* makes the event a part of the app's own transaction:
        a ``Connection`` of SQLAlchemy 2 over psycopg, such as ``db.session.connection()``, or one
        of psycopg 3, to the same database. The streams get the event when the app commits, and
        nobody sees it after a rollback. Until then, others that publish to this channel wait.
        Raises ``TypeError`` for another object, and with another broker.
        """
        return publish(self._exchange, check_name(channel), message, PLAIN, connection)

    def end(self, name: str, message: Message | None = None, *, ttl: float | None = None) -> bool:
        """End the channel *name*: nothing more is published to it, in no process.

        *message* is the last message; None publishes none. Each stream gets all messages and
        ends, if all its channels have ended. A stream that subscribes later without an id gets
        all messages that the log keeps, and ends. A client that has them all is answered with
        204. *ttl* is the number of seconds until the channel is deleted, as by `delete`; None
        changes nothing. Returns False, and publishes nothing, if the channel had ended before.
        Raises as `publish` does for a name and for a message.
        """
        name = check_name(name)
        check_seconds("ttl", ttl)
        try:
            if message is None:
                self._exchange.append(name, END, Terms(ttl=ttl, end=True))
            else:
                publish(self._exchange, name, message, Terms(ttl=ttl, end=True))
        except ChannelEnded:
            return False
        return True

    def delete(self, name: str) -> None:
        """Delete the log of the channel *name*, and free all that the broker has of it.

        A message that is published later begins another log. A stream that follows the channel
        now stays open and emits ``"gap"``: at once, or within 15 s with Redis. Raises as
        `publish` does for a name, and `BrokerError`.
        """
        self._broker.delete(check_name(name))

    def close_channel(self, name: str) -> None:
        """End every stream that follows *name* now, in all processes.

        The history of the channel stays, and streams may subscribe to it again. Each stream ends
        with an id, so a client that comes back goes on behind its last event without a ``"gap"``.
        Raises as `publish` does for a name, and `BrokerError`.
        """
        self._exchange.append(check_name(name), CLOSE)

    def cut(self, name: str, key: Hashable) -> None:
        """End the streams, in all processes, that follow *name* now with the key *key*.

        Keys are compared by their ``repr()``, so a key is a str, an int, a tuple of these, or
        another object with the same ``repr()`` in every process. For a proxy, such as
        ``current_user``, its value is compared. Raises ``ValueError`` for None, because None
        means no key, and for a key with a failing ``repr()``. Raises ``TypeError`` for a key whose
        ``repr()`` shows an address in memory, such as a function, or a set, which has no order.
        Raises as `publish` does for a name, and `BrokerError`.
        """
        frame = None if key is None else cut_frame(key)
        if frame is None:
            raise ValueError("key must be the key of a subscription, and not None")
        self._exchange.append(check_name(name), frame)

    def keep(
        self,
        channel: str,
        *,
        history: int | None = None,
        history_age: float | None = None,
        ttl: float | None = None,
    ) -> None:
        """Let the log of *channel* keep exactly this much from now on.

        *history* is a number of events; None leaves the number as it is. *history_age* is the
        greatest age of an event in seconds; None means any age. The log drops all other events.
        *ttl* is the number of seconds after the last event when the log is deleted, as by
        `delete`; None means never. Does nothing for a channel in which nothing was published yet.

        A `Channels` with a larger *history* or *history_age* makes the log keep more again when
        it publishes. Raises ``TypeError`` or ``ValueError`` for a wrong argument, and
        `BrokerError`.
        """
        check(None, history, history_age)
        check_seconds("ttl", ttl)
        self._broker.keep(check_name(channel), Bounds(history, history_age), ttl)

    # -- reading

    def subscribe(
        self,
        sse_stream: SseStream,
        *names: str,
        since: str | None = None,
        latest: int = 0,
        filter: Filter | None = None,
        key: Hashable | None = None,
        counted: bool = False,
    ) -> None:
        """Let *sse_stream* follow the channels *names*, until the stream ends.

        The stream first gets the events after the id *since*, or else after the stream's
        `SseStream.last_event_id`, as far as the logs keep them. Without an id, and in a channel
        that the id does not name, it begins with the last *latest* events; by default it begins
        now. A channel that the stream already follows goes on without a change. A channel that
        it has left by `unsubscribe` goes on where the stream stood in it, unless *since* is an id;
        this holds for the last 1000 channels that it has left. The id of an event names only the
        channels followed at that time, so follow all channels in one call. With several calls, ids
        keep the client's positions in its other channels for 10 s after the first call, so that a
        client that leaves in between misses nothing there.

        If events after the id are lost, the stream emits ``"gap"`` with the channel's name. Events
        are lost if the log no longer keeps them, or if the id is from another log or no id of
        channels. ``"gap"`` comes before any event of that channel, so a handler can write a
        snapshot; add the handler before this call. The events that the log still has follow.

        With *since* ``"start"``, a client without an id gets all events from the first one on, and
        ``"gap"`` comes first if the log does not keep all of them. A client with an id goes on
        after it. A channel that has ended begins so too, unless *latest* is given.

        *filter* is a function that gets each message of these channels, and returns whether this
        stream gets the message. The message is a dict of str as a browser would see it, without
        the id; ``retry`` is an int. The function must be quick, and has no request context. If
        it raises, or returns an awaitable, a future, an iterator or a function, an error is
        logged and the message is not sent. None sends every message.

        *key* names the stream for `cut`. With None, no `cut` ends the stream. The value of a proxy
        is taken now, as of every argument.

        With *counted*, the stream counts among the `Channel.watchers` of each channel.

        Raises ``TypeError`` or ``ValueError`` for a wrong argument, such as an ``async def`` as
        *filter* or a *key* that `cut` does not take, and ``ValueError`` for more channels than
        fit in an id. Raises `StreamError` if the stream follows channels of another
        `Channels`, or if another stream that is piped into the same response follows channels:
        a browser keeps one id. After an error, also one from elsewhere such as
        ``gevent.Timeout``, the stream follows none of the new channels. If the broker is down,
        nothing is raised: the stream catches up when the broker is back, and a channel that should
        begin now begins then.
        """
        check_subscription(sse_stream, names, since, latest, filter)
        # Take every value now, because a proxy has a value only during the request.
        sse_stream, filter = unproxied(sse_stream), unproxied(filter)
        names = tuple(map(check_name, names))
        since, latest = None if since is None else plain_text(since), plain_int(latest)
        frame = None if key is None else cut_frame(key)
        if since == START:
            since, latest = None, ALL
        self._exchange.subscribe(sse_stream, names, since, latest, filter, frame, bool(counted))

    def unsubscribe(self, sse_stream: SseStream, *names: str) -> None:
        """Let *sse_stream* stop following the channels *names*; without names, all channels.

        The stream stays open. If it follows such a channel again, it first gets all events that
        it has missed since this call. A stream of no request that follows no channel any more
        begins anew.
        """
        for exchange in self.exchanges.all():
            exchange.unsubscribe(unproxied(sse_stream), names)

    def history(self, name: str, limit: int | None = None) -> list[dict[str, str | int]]:
        """The last *limit* messages that the log of *name* keeps, oldest first.

        A *limit* of None means all messages. Each message is a dict as a browser would see it,
        with its id. A page that is made from these messages can continue with
        ``subscribe(..., since=messages[-1]["id"])`` and misses nothing. Raises `BrokerError`,
        ``ValueError`` for a *limit* that is not an int from 0 on, and as `publish` does for a
        name.
        """
        name = check_name(name)
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"limit is an int from 0 on, or None, and not {shortened(limit)}")
        exchange = self._exchange
        exchange.audience.read()
        return read_back(exchange.broker, name, limit)

    def channel(
        self,
        name: str,
        *,
        history: int | None = None,
        history_age: float | None = None,
        ttl: float | None = None,
    ) -> "Channel":
        """A handle on the channel *name*.

        Messages that are published by it ask for this *history* and *history_age*, and not for
        those of the `Channels`, if one of both is given. With a *ttl*, the log is deleted so many
        seconds after the last message, as by `delete`; None changes nothing. Raises as `publish`
        does for a name, and ``TypeError`` or ``ValueError`` for another wrong argument.
        """
        terms = terms_of(history, history_age, ttl)
        return Channel(self, check_name(name), terms, lambda: self._exchange)

    def statistics(self) -> dict[str, ChannelStatistics]:
        """The statistics of each channel that a stream of this process follows."""
        return self._exchange.listener.tails.statistics_of_all()

    def ping(self) -> None:
        """Return if the broker can be used now, and raise `BrokerError` if not.

        For a health check. The broker is tried once, for at most 2 s with Redis, 4 s with
        PostgreSQL, and 5 s with an SQLite file that stays locked. `BrokerError.lasting` is True
        for an error that an operator must mend, such as a wrong password or a missing directory.
        """
        self._broker.ping()

    # -- the end

    def close(self) -> None:
        """End this process's streams of these channels, and close the connections to the broker.

        Each stream sends the messages that wait in it, and its browser reconnects, as after
        `close_channel`. Streams of other processes go on. The listener ends too. The streams count
        among the `Channel.watchers` no more, and the functions of `Channel.on_empty` rest until
        this process counts a stream or gives another function. The logs of ``memory://`` stay. The
        next use of these channels opens the connections again. So does a run, or the block of a
        producer, that has not ended.

        For the end of a program or of a test. The call is optional: the connections are closed
        when the `Channels` is dropped or the process ends.
        """
        for exchange in self.exchanges.all():
            exchange.close()

    def clear(self) -> None:
        """Forget all events of all channels, so that a test can begin with an empty ``memory://``.

        A stream that follows a channel emits ``"gap"``. Raises ``RuntimeError`` for other brokers.
        """
        broker = self._broker
        if not isinstance(broker, MemoryBroker):
            raise RuntimeError(
                "clear() works with memory:// only: other processes may use this log"
            )
        broker.clear()
