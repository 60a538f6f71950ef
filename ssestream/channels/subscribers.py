"""All streams of this process that follow channels of one broker."""

from ..brokers.broker import Broker
from ..errors import StreamError
from ..runtime.loop import new_lock
from ..stream import SseStream
from .ids import UNKNOWN, parse_id
from .listener import Listener
from .subscription import Cursor, Filter, Subscription


class Subscribers:
    """The subscriptions of one `Channels` in one process, and their listener."""

    def __init__(self, broker: Broker) -> None:
        self.listener = Listener(broker)
        # Guards the dict. Nobody holds it while waiting.
        self._lock = new_lock()
        # By the id() of the stream.
        self._subscriptions: dict[int, Subscription] = {}

    def __bool__(self) -> bool:
        return bool(self._subscriptions)

    def all(self) -> list[Subscription]:
        with self._lock:
            return list(self._subscriptions.values())

    def subscribe(
        self,
        owner: object,
        sse_stream: SseStream,
        names: tuple[str, ...],
        since: str | None,
        latest: int,
        filter: Filter | None,
        cut_frame: bytes | None,
    ) -> None:
        """See `Channels.subscribe`. *owner* is the `Channels`, and all arguments are checked."""
        text, is_none = since or sse_stream.last_event_id, not sse_stream._has_bad_id
        known = None if text is None else parse_id(text)
        if text is None and is_none:
            known = {}
        subscription = self._subscription(owner, sse_stream)
        subscription.check_fits(names)
        cursors = [
            Cursor(
                subscription,
                name,
                UNKNOWN if known is None else known.get(name),
                filter,
                cut_frame,
            )
            for name in dict.fromkeys(names)
            if subscription.cursor_of(name) is None
        ]
        self.listener.replay.place(cursors, latest)
        # Add all cursors before the first event, because its id has a position in each channel.
        new = subscription.add(cursors)
        subscription.tell_place(None if since else sse_stream.last_event_id)
        self.listener.add(new)
        # The stream may have ended during this call.
        if subscription.closed or sse_stream.destroyed:
            self.gone(subscription)
            self.listener.remove(cursors)

    def _subscription(self, owner: object, sse_stream: SseStream) -> Subscription:
        with self._lock:
            subscription = self._subscriptions.get(id(sse_stream))
            if not sse_stream._belongs_to(owner):
                raise StreamError(
                    "this stream already follows channels of another Channels. A browser keeps one"
                    " id, so a stream can follow the channels of one Channels only"
                )
            if subscription is not None and not subscription.closed:
                return subscription
            subscription = Subscription(sse_stream, self)
            self._subscriptions[id(sse_stream)] = subscription
        sse_stream._follow(subscription)
        return subscription

    def unsubscribe(self, sse_stream: SseStream, names: tuple[str, ...]) -> None:
        """See `Channels.unsubscribe`."""
        with self._lock:
            subscription = self._subscriptions.get(id(sse_stream))
        if subscription is not None:
            self.listener.remove(subscription.take_out(names))
            if not subscription.cursors:
                sse_stream._channels = None

    def end_all(self, why: str, seconds: float) -> None:
        """End all streams, and wait at most *seconds* for the listener. *why* is for the log."""
        for subscription in self.all():
            subscription.end_stream(why)
            subscription.cancel()
        self.listener.wait_until_idle(seconds)

    # -- called by the subscriptions

    def drained(self, subscription: Subscription) -> None:
        """The stream of *subscription* has room again."""
        # Count before looking for cursors that are behind. A reader that is about to stop
        # compares the count, and then reads on.
        subscription.drains += 1
        for cursor in subscription.cursors:
            self.listener.replay.drained(cursor)

    def passed(self, subscription: Subscription, cursor: Cursor, silently: int) -> None:
        """*cursor* has passed *silently* entries since the last entry that was sent."""
        self.listener.id_blocks.passed(subscription, cursor, silently)

    def gone(self, subscription: Subscription) -> None:
        """*subscription* follows nothing any more."""
        subscription.close()
        self.listener.remove(subscription.release())
        with self._lock:
            if self._subscriptions.get(id(subscription.stream)) is subscription:
                del self._subscriptions[id(subscription.stream)]
                subscription.stream._channels = None
