"""Send an id to each client whose stream has passed entries that were not sent to it.

A filter withholds events, and control frames are not sent. After such entries the client still
has the id of an earlier entry. With that id it would get a gap, once the log has dropped the
entries after it. So the client gets a new id: `TELL` seconds later, or at once if half of the
history was not sent, or just before its stream ends.
"""

from ..runtime.clock import clock
from ..runtime.loop import checkpoint, current_loop
from ..runtime.wheel import wheel_of
from .cursor import Cursor
from .fanout import STREAMS_AT_ONCE
from .subscription import Subscription
from .tail import Tails

#: Seconds before a client gets a new id, if the last entries were not sent to it.
#: If the `Bounds.age` of a log is as short as this, the client may still get a gap.
TELL = 5.0


class IdBlocks:
    """The clients of one `Listener` that must get a new id."""

    def __init__(self, tails: Tails) -> None:
        self._tails = tails
        # For each subscription: how many entries it has passed since its client last got an id.
        # The lock of the tails guards this dict.
        self._due: dict[Subscription, int] = {}
        # Whether a call of `_send` is planned or running.
        self._is_planned = False

    def passed(self, subscription: Subscription, cursor: Cursor, unsent: int) -> None:
        """Note that *cursor* has passed *unsent* entries since the last entry that was sent.

        With 0, the newest entry was sent, and its id has all positions.
        """
        with self._tails.lock:
            if not unsent:
                self._due.pop(subscription, None)
                return
            count = self._due.get(subscription, 0) + unsent
            self._due[subscription] = count
            tail = self._tails.of(cursor)
            history = None if tail is None else tail.bounds.history
            at_once = (
                history is not None
                and count >= max(1, history // 2)
                and not subscription.stream.writable_need_drain
            )
            if at_once:
                del self._due[subscription]
            start = not at_once and not self._is_planned
            self._is_planned = self._is_planned or start
        if at_once:
            subscription.send_id()
        elif start:
            self._plan()

    def send_now(self, subscription: Subscription) -> None:
        """Send an id now if one is due: the stream of *subscription* is about to end."""
        with self._tails.lock:
            is_due = self._due.pop(subscription, None) is not None
        if is_due:
            subscription.send_id()

    def forget(self, cursors: list[Cursor]) -> None:
        """*cursors* are removed: send no id to those of their streams that follow nothing more."""
        with self._tails.lock:
            for cursor in cursors:
                if not cursor.subscription.cursors:
                    self._due.pop(cursor.subscription, None)

    def _plan(self) -> None:
        loop = current_loop()
        wheel_of(loop).add(clock.now() + TELL, lambda now: loop.spawn(self._send))

    def _send(self) -> None:
        """Send an id to each client that waits for one."""
        with self._tails.lock:
            due, self._due = self._due, {}
        for number, subscription in enumerate(due, 1):
            if subscription.stream.writable_need_drain:
                # The client does not read. Send the id later, so that its stream does not fill.
                with self._tails.lock:
                    self._due.setdefault(subscription, 1)
            else:
                subscription.send_id()
            if number % STREAMS_AT_ONCE == 0:
                checkpoint()
        with self._tails.lock:
            self._is_planned = bool(self._due)
            again = self._is_planned
        if again:
            self._plan()
