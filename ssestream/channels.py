"""Channels: publish once, and every browser that follows gets it, in order, once.

A channel is an append-only log (see ``brokers``). Its positions are the ids of
events, so that the browser's own ``Last-Event-ID`` says where it stands, to any
worker on any host.
"""

import gc
import os
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import flask
from flask.json.provider import JSONProvider

from .brokers import open_broker
from .brokers.broker import Bounds, Broker, Position, check_name
from .brokers.configuration import Configuration, check
from .brokers.configuration import configuration as make_configuration
from .brokers.memory import MemoryBroker
from .callables import check_callable
from .errors import MessageError, StreamError
from .feeds import (
    CLOSE,
    NOWHERE,
    ChannelStatistics,
    Cursor,
    Filter,
    Subscription,
    cut_word,
)
from .following import Following, State
from .hub import logger, new_lock
from .jsontext import app_dumps, app_json
from .plain import plain_text
from .positions import format_id, parse_id
from .settings import current_app
from .stream import SseStream
from .uncopyable import Uncopyable
from .wire import Decoder, Message, encode, is_frame, with_id

#: Seconds for which `Channels.close` waits for the listener.
CLOSING = 1.0

#: Entries of a log that `Channels.history` asks for at once, and their bytes.
_PAGE, _PAGE_BYTES = 256, 1024 * 1024


class Channels(Uncopyable):
    """The channels of one broker.

    *url* says which: ``memory://`` is this process, ``sqlite:///relative/path`` or
    ``sqlite:////absolute/path`` every process of this host, and ``redis://`` (or
    ``rediss://``, ``unix://``, as redis-py has them) every host. None is taken from
    ``SSESTREAM_URL`` in the configuration of the app that it is first used in, else
    ``memory://``. *url* may be a
    Flask app as well, as Flask's extensions have it; see `init_app`. Apps of one
    configuration share a broker, and an app of another has its own, in its context.

    *history* is the number of events that each channel keeps, *history_age* their age in
    seconds at most. They belong to the channel's log: the first event of a channel sets
    them, and None is 1000 events of any age then. For a log that is there they can only
    widen what it keeps, and None leaves it as it is; less is said once at WARNING, and
    `keep` changes it.

    Making one connects to nothing. Raises ``TypeError`` or ``ValueError`` for an
    argument that is wrong.
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
        self._url = url if isinstance(url, str) else None
        self._history, self._history_age = history, history_age
        check(None if isinstance(url, flask.Flask) else url, history, history_age)
        self._configuration: Configuration | None = None
        self._broker_made: Broker | None = None
        # Of the app, for who publishes outside of its context.
        self._json: JSONProvider | None = None
        # The configuration of each app, and the channels of those that differ from this one's.
        self._apps: weakref.WeakKeyDictionary[flask.Flask, Configuration]
        self._apps = weakref.WeakKeyDictionary()
        self._others: dict[Configuration, Channels] = {}
        # Whether an app has said that it uses these.
        self._is_told = False
        self._begin()
        _all.add(self)
        if isinstance(url, flask.Flask):
            self.init_app(url)
        elif url is not None:
            self._configure(url, history, history_age)

    def _begin(self) -> None:
        # Never held while anybody waits.
        self._lock = new_lock()
        self._following_made: Following | None = None
        self._subscriptions: dict[int, Subscription] = {}
        self._warned = False

    # -- which broker

    def init_app(self, app: flask.Flask) -> None:
        """Take what was not given from *app*'s configuration.

        ``SSESTREAM_URL``, ``SSESTREAM_HISTORY``, ``SSESTREAM_HISTORY_AGE``. The
        extension is ``app.extensions["ssestream"]`` then. What is published outside of
        the app's context is written as JSON by its provider.

        Of several apps those with the same configuration share a broker, in which
        ``memory://`` is one memory. Those with another have their own: what is done in an
        app's context is done with that app's broker. Outside of all contexts it is a
        ``RuntimeError`` then, as it could be any.
        """
        self._take_from(app)
        self._is_told = True
        app.extensions["ssestream"] = self

    def _take_from(self, app: flask.Flask) -> None:
        given = {"url": self._url, "history": self._history, "history_age": self._history_age}
        taken = {
            name: app.config.get(f"SSESTREAM_{name.upper()}") if value is None else value
            for name, value in given.items()
        }
        try:
            configuration = make_configuration(**taken)
            with self._lock:
                shared = [each for each in self._apps if each is not app]
                if configuration != self._configuration and any(
                    self._apps[each] == self._configuration for each in shared
                ):
                    self._part_off(app, configuration)
                else:
                    self._configure(*configuration)
                    self._json = app.json
                self._apps[app] = configuration
                known = {*self._apps.values()}
                left = [each for each in self._others if each not in known]
                gone = [self._others.pop(each) for each in left]
        except (TypeError, ValueError) as error:
            # It begins with the argument, which the app knows by its longer name.
            name, _, rest = str(error).partition(" ")
            raise type(error)(f"SSESTREAM_{name.upper()} {rest}") from None
        for each in gone:
            each.close()

    def _part_off(self, app: flask.Flask, configuration: Configuration) -> None:
        """Let *app*, whose configuration is another than this one's, have its own broker."""
        other = self._others.get(configuration)
        if other is None:
            url, history, history_age = configuration
            other = Channels(url, history=history, history_age=history_age)
            self._others[configuration] = other
        other._json = app.json

    def _here(self) -> "Channels":
        """These channels, with the broker that is meant where the caller is."""
        app = current_app()
        if app is not None and self._url is None and not self._is_told and app not in self._apps:
            self._take_from(app)
        if not self._others:
            return self
        configuration = None if app is None else self._apps.get(app)
        if configuration is None:
            # An app may be gone, and wait for the collector.
            if len({*self._apps.values()}) > 1:
                gc.collect()
            known = {*self._apps.values()}
            if len(known) != 1:
                nobody = "no app is current" if app is None else "the current app is none of them"
                raise RuntimeError(
                    "these channels belong to several apps with different brokers"
                    " (SSESTREAM_URL, SSESTREAM_HISTORY, SSESTREAM_HISTORY_AGE), and here"
                    f" {nobody}: use them in 'with app.app_context():', of an app for which"
                    " init_app() was called"
                )
            (configuration,) = known
        return self._others.get(configuration, self)

    def _configure(self, url: Any, history: Any, history_age: Any) -> None:
        configuration = make_configuration(url, history, history_age)
        with self._lock:
            # Several apps, or one that is made several times, share it.
            if self._configuration == configuration:
                return
            if self._following_made is not None and not self._following_made.idle:
                raise RuntimeError("these channels have subscribers already")
            broker = open_broker(*configuration)
            if self._broker_made is not None:
                self._broker_made.close()
            self._broker_made, self._configuration = broker, configuration
            self._following_made = None

    @property
    def _broker(self) -> Broker:
        with self._lock:
            if self._broker_made is None:
                app = current_app()
                if app is None:
                    self._configure(self._url, self._history, self._history_age)
                else:
                    self._take_from(app)
            assert self._broker_made is not None
            return self._broker_made

    @property
    def _following(self) -> Following:
        with self._lock:
            if self._following_made is None:
                broker = self._broker
                self._following_made = Following(broker)
            return self._following_made

    @property
    def state(self) -> State:
        """Of the listener: ``"idle"``, ``"listening"``, or ``"down"`` while the broker is."""
        return self._here()._following.state

    # -- writing

    def publish(self, channel: str, message: Message) -> str:
        """Store *message* in *channel*: whoever follows it gets it. Returns its id.

        From any thread and any process; it needs no app and no request. Raises
        `MessageError` for a message that cannot be sent or has an ``id`` of its own,
        which is the log's to give, ``TypeError`` or ``ValueError`` for a name that no
        channel can have, and `BrokerError` when it was not stored.
        """
        channel = check_name(channel)
        here = self._here()
        if here is not self:
            return here.publish(channel, message)
        if isinstance(message, Mapping) and message.get("id") is not None:
            raise MessageError("'id' is given by the log of the channel, and by nobody else", "id")
        dumps = app_dumps(app_json() or self._json)
        event_id = self._append(channel, encode(message, dumps))
        self._following.published(channel)
        return event_id

    def close_channel(self, name: str) -> None:
        """End every stream that follows *name* now, in all processes.

        Its history stays, and who subscribes afterwards follows it as ever.
        """
        self._here()._append(check_name(name), CLOSE)

    def cut(self, name: str, key: Hashable) -> None:
        """End the streams that follow *name* now and were subscribed with *key*.

        In all processes: *key* is compared by its ``repr()``, so it is a str, an int, a
        tuple of them, or what else looks the same everywhere. Of a proxy, such as
        ``current_user``, it is the value that counts. Raises ``ValueError`` for
        None, which is the key of all that were given none, and for a key without a
        ``repr()`` of its own.
        """
        word = None if key is None else cut_word(key)
        if word is None:
            raise ValueError("key must be one that a stream was subscribed with, and not None")
        self._here()._append(check_name(name), word)

    def _append(self, name: str, frame: bytes) -> str:
        self._check_shared()
        return format_id({name: self._broker.append(name, frame)})

    def keep(
        self, channel: str, *, history: int | None = None, history_age: float | None = None
    ) -> None:
        """Let the log of *channel* keep this much from now on, and no more.

        *history* is a number of events, None as many as it keeps now; *history_age* is
        their age in seconds at most, None is any age. What is more than that is kept no
        longer. It does nothing for a channel in which nothing was published yet.

        A `Channels` with a larger *history* or *history_age* of its own widens the log
        again when it publishes. Raises ``TypeError`` or ``ValueError`` for an argument that
        is wrong, and `BrokerError`.
        """
        check(None, history, history_age)
        self._here()._broker.keep(check_name(channel), Bounds(history, history_age))

    # -- reading

    def subscribe(
        self,
        sse_stream: SseStream,
        *names: str,
        since: str | None = None,
        latest: int = 0,
        filter: Filter | None = None,
        key: Hashable | None = None,
    ) -> None:
        """Let *sse_stream* follow the channels *names*, until it ends.

        It begins after *since*, an id of these channels, or after the stream's own
        `SseStream.last_event_id`; what the logs have kept since is replayed. With
        neither it begins now, or with the *latest* so many that are kept. So does a
        channel that the id does not know; and
        one that the stream follows already goes on as it does. The ids of events know
        the channels followed so far: one call for all of them is the sure way.

        Where events are lost, as the history of a channel did not keep them or the id
        is of another log or none of ours, the stream emits ``"gap"`` with the
        channel's name, before anything else of that channel: an app may write a
        snapshot there, in a handler that was there before this call. Then follows what
        was kept.

        *filter* is given each message of these channels as a browser would see it (a
        dict of str, and ``retry`` an int), but for its id, and says whether this stream
        gets it; it is quick, and has no request. One that raises is logged, and the
        message is not sent. *key* is what `cut` of these channels knows the stream by; its
        value is taken now.

        Raises ``TypeError`` and ``ValueError`` for arguments that are wrong, such as a
        *filter* that is an ``async def`` or a *key* without a ``repr()`` of its own, and for
        more channels than an id has room for. Not when the broker is down: the stream
        catches up when it is back, and what begins now begins then.
        """
        if not isinstance(sse_stream, SseStream):
            raise TypeError(f"sse_stream must be an SseStream, not {type(sse_stream).__name__}")
        if not names:
            raise TypeError("subscribe() needs the name of a channel at least")
        if since is not None and not isinstance(since, str):
            raise TypeError(f"since is an id or None, not {type(since).__name__}")
        if filter is not None:
            check_callable("filter", filter, "a function or None")
        if not isinstance(latest, int) or isinstance(latest, bool) or latest < 0:
            raise ValueError(f"latest is an int from 0 on, and not {latest!r}")
        names = tuple(map(check_name, names))
        since = None if since is None else plain_text(since)
        # Now, as a proxy has its value in the request only.
        word = None if key is None else cut_word(key)
        here = self._here()
        if here is not self:
            options: dict[str, Any] = {"since": since, "latest": latest}
            here.subscribe(sse_stream, *names, filter=filter, key=key, **options)
            return
        self._check_shared()
        if sse_stream.destroyed or sse_stream.writable_ended:
            return
        text, is_none = since or sse_stream.last_event_id, not sse_stream._has_bad_id
        known = None if text is None else parse_id(text)
        if text is None and is_none:
            known = {}
        subscription = self._subscription(sse_stream)
        subscription.check_fits(names)
        cursors = [
            Cursor(subscription, name, NOWHERE if known is None else known.get(name), filter, word)
            for name in dict.fromkeys(names)
            if subscription.cursor_of(name) is None
        ]
        following = self._following
        following.place(cursors, latest)
        # All of them before the first event, whose id has a position in each.
        new = subscription.add(cursors)
        subscription.tell_place(None if since else sse_stream.last_event_id)
        following.add(new)
        if subscription.over or sse_stream.destroyed:  # since we are at it
            self._gone(subscription)
            self._following.remove(cursors)

    def _subscription(self, sse_stream: SseStream) -> Subscription:
        with self._lock:
            subscription = self._subscriptions.get(id(sse_stream))
            if not sse_stream._belongs_to(self):
                raise StreamError(
                    "this stream follows the channels of another Channels already, and a browser"
                    " keeps one id: let one stream follow those of one"
                )
            if subscription is not None and not subscription.over:
                return subscription
            subscription = Subscription(sse_stream, self)
            self._subscriptions[id(sse_stream)] = subscription
        sse_stream._follow(subscription)
        return subscription

    def unsubscribe(self, sse_stream: SseStream, *names: str) -> None:
        """Let *sse_stream* follow *names* no more, or nothing where none is given."""
        for other in list(self._others.values()):
            other.unsubscribe(sse_stream, *names)
        with self._lock:
            subscription = self._subscriptions.get(id(sse_stream))
        if subscription is not None:
            self._following.remove(subscription.take_out(names))
            if not subscription.cursors:
                sse_stream._channels = None

    def history(self, name: str, limit: int | None = None) -> list[dict[str, str | int]]:
        """The last *limit* messages that *name* has kept, or all of them, oldest first.

        Each as a browser would see it, with its id: a page that is made of them goes on
        with ``subscribe(..., since=messages[-1]["id"])`` and misses nothing. Raises
        `BrokerError`, and as `publish` for a name.
        """
        name = check_name(name)
        here = self._here()
        if here is not self:
            return here.history(name, limit)
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"limit is an int from 0 on, or None, and not {limit!r}")
        where = self._broker.read(name, 0, 0, 0)
        after, wanted = where.last, where.last if limit is None else limit
        messages: list[dict[str, str | int]] = []
        # Further back for those among them that are words, and no messages.
        while len(messages) < wanted and after >= where.first:
            end, after = after, max(where.first - 1, after - (wanted - len(messages)))
            messages = self._messages(name, after, end) + messages
        return messages

    def _messages(self, name: str, after: int, end: int) -> list[dict[str, str | int]]:
        messages: list[dict[str, str | int]] = []
        while after < end:
            piece = self._broker.read(name, after, min(_PAGE, end - after), _PAGE_BYTES)
            if not piece.entries:
                break
            for number, frame, token in piece.entries:
                # It may have been trimmed meanwhile, and begin after the end.
                if number <= end and is_frame(frame):
                    event_id = format_id({name: Position(piece.log, number, token)})
                    messages += Decoder().feed(with_id(frame, event_id.encode()))
            after = piece.entries[-1].number
        return messages

    def channel(self, name: str) -> "Channel":
        """A handle on one channel. Raises as `publish` for a name."""
        return Channel(self, check_name(name))

    def statistics(self) -> dict[str, ChannelStatistics]:
        """Of each channel that has subscribers in this process."""
        return self._here()._following.statistics()

    def ping(self) -> None:
        """Return where the broker can be used now, and raise `BrokerError` where not.

        For a health check: it is tried once, in 2 s with Redis and 5 s with a file that
        others keep locked. `BrokerError.lasting` tells a wrong password or a missing directory
        from an outage.
        """
        self._here()._broker.ping()

    # -- the end

    def close(self) -> None:
        """End every stream that follows these channels in this process, and the listener.

        A stream gets what waits in it, and its browser comes back, as after
        `close_channel`; other processes are not concerned. Then the connections to the
        broker are closed. What ``memory://`` keeps stays. Whatever is asked of these
        channels afterwards opens them again.

        For the end of a program or of a test. Nothing need call it: what is open is
        closed when the `Channels` is dropped, or when the process ends.
        """
        for other in list(self._others.values()):
            other.close()
        with self._lock:
            subscriptions = list(self._subscriptions.values())
            broker, following = self._broker_made, self._following_made
        for subscription in subscriptions:
            subscription.end()
            subscription.finish()
        if following is not None:
            following.wait_until_idle(CLOSING)
        if broker is not None:
            broker.close()

    def clear(self) -> None:
        """Forget every event of every channel: a test finds ``memory://`` as if it were new.

        A stream that still follows a channel is told of a gap. Raises ``RuntimeError``
        where others could miss what is forgotten, with ``sqlite:///`` and ``redis://``.
        """
        here = self._here()
        broker = here._broker
        if not isinstance(broker, MemoryBroker):
            raise RuntimeError("clear() is for memory://, which no other process can read")
        broker.clear()

    # -- what streams ask and tell

    def _knows(self, event_id: str) -> bool:
        """Whether *event_id* can be one of a channel."""
        return parse_id(event_id) is not None

    def _drained(self, subscription: Subscription) -> None:
        # Before it is looked who is behind: a reader that is about to stop sees it.
        subscription.drains += 1
        for cursor in subscription.cursors:
            self._following.drained(cursor)

    def _passed(self, subscription: Subscription, cursor: Cursor, silently: int) -> None:
        self._following.passed(subscription, cursor, silently)

    def _gone(self, subscription: Subscription) -> None:
        subscription.stop()
        self._following.remove(subscription.let_go())
        with self._lock:
            if self._subscriptions.get(id(subscription.stream)) is subscription:
                del self._subscriptions[id(subscription.stream)]
                subscription.stream._channels = None

    def _check_shared(self) -> None:
        if self._warned or self._broker.shared or not flask.has_request_context():
            return
        self._warned = True
        if flask.request.environ.get("wsgi.multiprocess"):
            logger.warning(
                "Channels('memory://') with more than one worker: what one publishes, the"
                " clients of the others do not get. Use sqlite:/// or redis://"
            )


class Channel(Uncopyable):
    """One channel of a `Channels`; what it has is described there."""

    _only_one = "it is a part of its Channels. Ask those for another: channels.channel(name)"

    def __init__(self, channels: Channels, name: str) -> None:
        self.name = name
        self._channels = channels

    def publish(self, message: Message) -> str:
        """See `Channels.publish`."""
        return self._channels.publish(self.name, message)

    def subscribe(self, sse_stream: SseStream, **options: Any) -> None:
        """See `Channels.subscribe`."""
        self._channels.subscribe(sse_stream, self.name, **options)

    def history(self, limit: int | None = None) -> list[dict[str, str | int]]:
        """See `Channels.history`."""
        return self._channels.history(self.name, limit)

    def close(self) -> None:
        """See `Channels.close_channel`."""
        self._channels.close_channel(self.name)

    def cut(self, key: Hashable) -> None:
        """See `Channels.cut`."""
        self._channels.cut(self.name, key)

    @property
    def subscribers(self) -> int:
        """Streams of this process that follow it."""
        return self.statistics().subscribers

    def statistics(self) -> ChannelStatistics:
        """All zeros while nobody follows it here."""
        found = self._channels.statistics().get(self.name)
        return ChannelStatistics(0, 0, 0, 0, 0, 0) if found is None else found


_all: "weakref.WeakSet[Channels]" = weakref.WeakSet()


def _after_fork() -> None:
    # Nothing of the parent's runs here, and nobody is subscribed.
    for channels in list(_all):
        channels._begin()


os.register_at_fork(after_in_child=_after_fork)
