"""One broker, and the streams of this process that follow its channels."""

import functools
from collections.abc import Callable
from typing import Any

import flask
from flask.json.provider import JSONProvider

from ..brokers.broker import PLAIN, Broker, Position, Terms
from ..runtime.clock import clock
from ..runtime.forking import process
from ..runtime.loop import current_loop
from ..runtime.threads import new_lock
from ..runtime.wheel import wheel_of
from ..stream import SseStream, flow_of, has_bad_id
from .carried import CARRIED, NOTHING
from .cursor import Cursor, Filter
from .ending import HAS_ENDED, end_if_over, have_finished, note_end
from .ids import UNKNOWN, id_of, parse_id
from .leases import Lost
from .listener import Listener
from .statistics import ChannelStatistics
from .subscription import Subscription
from .unheard import Audience
from .watchers import Watchers

#: Seconds for which `Exchange.close` waits for the listener, and for the watchers.
CLOSING = 1.0


class ChannelObserver:
    """Counts what exchanges do."""

    def forgotten(self, name: str, numbers: ChannelStatistics) -> None:
        """Called with the last *numbers* of the channel *name*, which no stream follows here."""

    def timed(self, append: Callable[..., Position]) -> Callable[..., Position]:
        """A function that does as *append* of a broker, and counts."""
        return append


class Exchange:
    """What a `Channels` does with one broker in this process.

    A `Channels` has one exchange, or several if it belongs to apps with different brokers.
    """

    def __init__(
        self, broker: Broker, audience: Audience, json: JSONProvider | None = None
    ) -> None:
        self.broker = broker
        self.audience = audience
        #: The app's JSON provider, for calls of `Channels.publish` outside of the app's context.
        self.json = json
        #: The counted streams of all processes.
        self.watchers = Watchers(broker)
        self._lost: dict[str, Lost] = {}
        self._observers: list[ChannelObserver] = []
        self._begin()

    def _begin(self) -> None:
        self.listener = Listener(self.broker, self._lost)
        for observer in self._observers:
            self.listener.tails.when_forgotten(observer.forgotten)
        # Guards the dict. Nobody holds it while waiting.
        self._lock = new_lock()
        # By the id() of the stream.
        self._subscriptions: dict[int, Subscription] = {}
        # One for each call of `subscribe` that runs.
        self._subscribing: list[Subscription] = []

    def use_json_of(self, app: flask.Flask) -> None:
        """Let `Channels.publish` use the JSON provider of *app* outside of its context."""
        self.json = app.json

    def observe(self, observer: ChannelObserver) -> None:
        """Let *observer* count from now on."""
        self._observers.append(observer)
        self.listener.tails.when_forgotten(observer.forgotten)
        # In the broker itself, so that an append costs nothing more while nobody counts.
        attributes: dict[str, Any] = vars(self.broker)
        attributes["append"] = observer.timed(self.broker.append)

    def forked(self) -> None:
        """This process is a child. The parent's listener and streams do not run here."""
        if not process.is_job:  # a job knows that it has none of its parent's streams
            cursors = [each for one in self._subscriptions.values() for each in one.cursors]
            names = (repr(each.name) for each in cursors)
            process.leave_behind("subscription to a channel", "made", "Make", names)
        self.watchers.forked()
        self._begin()
        self.audience.forked()

    def say_lost(self, prefix: str, lost: Lost) -> None:
        """Let *lost* make the last frame of each lost log whose name begins with *prefix*."""
        self._lost[prefix] = lost

    @property
    def subscriptions(self) -> list[Subscription]:
        with self._lock:
            return list(self._subscriptions.values())

    def append(self, name: str, frame: bytes, terms: Terms = PLAIN, connection: Any = None) -> str:
        """Append *frame* to the log of the channel *name*, and return the id of the event.

        The entry is a part of the transaction of *connection*, if there is one.
        """
        if connection is None:
            position = self.broker.append(name, frame, terms)
        else:
            position = self._append_within()(connection, name, frame, terms)
        if not self.broker.shared:
            self.audience.published()
        return id_of(name, position)

    def _append_within(self) -> Callable[..., Position]:
        """The broker's way to append in an app's own transaction."""
        within: Callable[..., Position] | None = getattr(self.broker, "append_within", None)
        if within is None:
            raise TypeError(
                "connection= is for channels of postgresql:// only, which can be a part of a"
                f" transaction, and these channels have a {type(self.broker).__name__}"
            )
        return within

    def publish(self, name: str, frame: bytes, terms: Terms = PLAIN, connection: Any = None) -> str:
        """Append *frame*, which is a message, and count it."""
        event_id = self.append(name, frame, terms, connection)
        self.listener.tails.published(name)
        return event_id

    def subscribe(
        self,
        sse_stream: SseStream,
        names: tuple[str, ...],
        since: str | None,
        latest: int,
        filter: Filter | None,
        cut_frame: bytes | None,
        counted: bool = False,
    ) -> None:
        """See `Channels.subscribe`. All arguments are checked. Raises as `current_loop`."""
        if not self.broker.shared:
            self.audience.followed()
        is_over = sse_stream.destroyed or sse_stream.writable_ended
        if is_over or flow_of(sse_stream).expects_nothing:
            return
        # Call this first: it may start a thread and fail, and then nothing may be added.
        current_loop()
        subscription = self._subscription(sse_stream)
        try:
            self._follow(subscription, names, since, latest, filter, cut_frame, counted)
        finally:
            with self._lock:
                self._subscribing.remove(subscription)
            # If the call has failed, the stream may follow nothing.
            self._forget_idle(subscription)

    def _follow(
        self,
        subscription: Subscription,
        names: tuple[str, ...],
        since: str | None,
        latest: int,
        filter: Filter | None,
        cut_frame: bytes | None,
        counted: bool,
    ) -> None:
        sse_stream = subscription.stream
        own = sse_stream.last_event_id
        text = since or own
        # The client's position in each channel. None if it has an id, but not one of channels.
        known: dict[str, Position] | None = None
        if text is not None:
            known = parse_id(text)
        elif not has_bad_id(sse_stream):
            known = {}
        subscription.check_fits(names)
        carried = subscription.carried
        begins = carried is None
        if carried is None:
            carried = known or NOTHING
            if since and own:
                # The client's own id counts for the channels that *since* does not name.
                carried = {**(parse_id(own) or NOTHING), **carried}
        # An id that the app gives goes before the place where the stream has left a channel.
        left = {} if since else subscription.left
        cursors = [
            Cursor(
                subscription,
                name,
                left.get(name, UNKNOWN if known is None else known.get(name)),
                filter,
                cut_frame,
            )
            for name in dict.fromkeys(names)
            if subscription.cursor_of(name) is None
        ]
        finished = self.listener.replay.place(cursors, latest)
        # The client may have all events of the channels of all calls, and of no other channel.
        if (
            finished
            and len(finished) == len(cursors)
            and carried.keys() <= set(names)
            and self._got_nothing(subscription)
        ):
            # First the status: another thread may end the stream at once.
            subscription.flow.expect_nothing()
            subscription.end_stream(HAS_ENDED, cursors[-1].name)
            self.gone(subscription)
            return
        # Add all cursors before the first event, because its id has a position in each channel.
        new = subscription.add(cursors, carried)
        # The client still has its own id if this is the first call, or if all ids until now have
        # carried the positions in these channels.
        has_own = not (since or left) and (begins or all(each.name in carried for each in new))
        subscription.send_id(own if has_own else None)
        self.listener.add(new)
        if begins and subscription.carried:
            self._carry_for_a_while(subscription)
        if counted:
            self.watchers.add(new)
        for cursor in finished:
            self.ended(cursor)
        # The stream may have ended during this call.
        if subscription.closed or sse_stream.destroyed:
            self.gone(subscription)
            self._remove(cursors)

    def _got_nothing(self, subscription: Subscription) -> bool:
        """Whether the channels of *subscription* have ended, and its stream got nothing of them."""
        cursors = subscription.cursors
        got = any(each.delivered or each.gaps for each in cursors)
        return not got and have_finished(self.listener.tails, cursors)

    def _carry_for_a_while(self, subscription: Subscription) -> None:
        loop = current_loop()
        stop = functools.partial(self._stop_carrying, subscription)
        wheel_of(loop).add(clock.now() + CARRIED, lambda now: loop.spawn(stop))

    def _stop_carrying(self, subscription: Subscription) -> None:
        if subscription.closed:
            return
        if not subscription.carry_no_more():
            self._carry_for_a_while(subscription)
            return
        for cursor in subscription.cursors[-1:]:
            end_if_over(self.listener.tails, cursor)

    def _remove(self, cursors: list[Cursor]) -> None:
        self.listener.remove(cursors)
        self.watchers.remove(cursors)

    def _subscription(self, sse_stream: SseStream) -> Subscription:
        with self._lock:
            subscription = self._subscriptions.get(id(sse_stream))
            flow_of(sse_stream).follow(self)
            is_new = subscription is None or subscription.closed
            if subscription is None or subscription.closed:
                subscription = Subscription(sse_stream, self)
                self._subscriptions[id(sse_stream)] = subscription
            self._subscribing.append(subscription)
        if is_new:
            subscription.flow.add_follower(subscription)
        return subscription

    def _forget_idle(self, subscription: Subscription) -> None:
        """Forget *subscription* if it follows no channel. Its stream may then have any ids.

        An app may drop a stream of no request without ending it.
        """
        flow = subscription.flow
        with self._lock:
            if subscription.cursors or subscription in self._subscribing:
                return
            flow.follow_no_more(self)
            if flow.connection is not None:  # it ends with its request
                return
            if self._subscriptions.get(id(subscription.stream)) is subscription:
                del self._subscriptions[id(subscription.stream)]
        flow.remove_follower(subscription)

    def unsubscribe(self, sse_stream: SseStream, names: tuple[str, ...]) -> None:
        """See `Channels.unsubscribe`."""
        with self._lock:
            subscription = self._subscriptions.get(id(sse_stream))
        if subscription is not None:
            self._remove(subscription.take_out(names))
            self._forget_idle(subscription)

    def close(self) -> None:
        """See `Channels.close`."""
        for subscription in self.subscriptions:
            subscription.end_stream("its Channels were closed")
            subscription.cancel()
        self.listener.close(CLOSING)
        self.watchers.close(CLOSING)
        self.broker.close()

    # -- called by streams and subscriptions

    def knows(self, event_id: str) -> bool:
        """Whether *event_id* has the form of an id of channels."""
        return parse_id(event_id) is not None

    def drained(self, subscription: Subscription) -> None:
        """The stream of *subscription* takes events again."""
        # Count before looking for cursors that are behind. A reader that is about to stop
        # compares the count, and then reads on.
        subscription.count_drain()
        for cursor in subscription.cursors:
            self.listener.replay.drained(cursor)

    def passed(self, subscription: Subscription, cursor: Cursor, unsent: int) -> None:
        """*cursor* has passed *unsent* entries since the last entry that was sent."""
        self.listener.id_blocks.passed(subscription, cursor, unsent)

    def about_to_end(self, subscription: Subscription) -> None:
        """The stream of *subscription* ends after what it is given now."""
        self.listener.id_blocks.send_now(subscription)

    def ended(self, cursor: Cursor) -> None:
        """*cursor* has passed the end of its log."""
        note_end(self.listener.tails, cursor)

    def gone(self, subscription: Subscription) -> None:
        """*subscription* follows nothing any more."""
        subscription.close()
        self._remove(subscription.release())
        with self._lock:
            if self._subscriptions.get(id(subscription.stream)) is subscription:
                del self._subscriptions[id(subscription.stream)]
                subscription.flow.follow_no_more(self)
