"""Send clients their positions after entries that they were not sent.

A filter withholds events, and control frames are no events. A client does not know such entries,
and its id would be a gap once the log drops them. So the client gets an id with its positions:
`TELL` seconds later, or at once after half of the history.
"""

from ..runtime.clock import clock
from ..runtime.loop import checkpoint, current_loop
from ..runtime.wheel import wheel_of
from .cursor import Cursor
from .fanout import TURN
from .subscription import Subscription
from .tail import Tails

#: Seconds before a client gets its positions, if its filter has withheld the last events.
#: If the `Bounds.age` of a log is as short as this, the client may still get a gap.
TELL = 5.0


class IdBlocks:
    """The clients of one `Listener` that must get an id with their positions."""

    def __init__(self, tails: Tails) -> None:
        self._tails = tails
        # For each subscription: how many entries it has passed since its client last got an id.
        # The lock of the tails guards this dict.
        self._untold: dict[Subscription, int] = {}
        # Whether a call of `_tell` is planned or running.
        self._telling = False

    def passed(self, subscription: Subscription, cursor: Cursor, silently: int) -> None:
        """Note that *cursor* has passed *silently* entries since the last entry that was sent.

        With 0, the newest entry was sent, and its id has all positions.
        """
        with self._tails.lock:
            if not silently:
                self._untold.pop(subscription, None)
                return
            count = self._untold.get(subscription, 0) + silently
            self._untold[subscription] = count
            tail = self._tails.of(cursor)
            history = None if tail is None else tail.bounds.history
            at_once = (
                history is not None
                and count >= max(1, history // 2)
                and not subscription.stream.writable_need_drain
            )
            if at_once:
                del self._untold[subscription]
            start = not at_once and not self._telling
            self._telling = self._telling or start
        if at_once:
            subscription.tell_place()
        elif start:
            self._tell_later()

    def forget(self, cursors: list[Cursor]) -> None:
        """Send no id to the streams of *cursors*, which are removed."""
        with self._tails.lock:
            for cursor in cursors:
                self._untold.pop(cursor.subscription, None)

    def _tell_later(self) -> None:
        loop = current_loop()
        wheel_of(loop).add(clock.now() + TELL, lambda now: loop.spawn(self._tell))

    def _tell(self) -> None:
        """Send each client in `_untold` an id with its positions."""
        with self._tails.lock:
            untold, self._untold = self._untold, {}
        for number, subscription in enumerate(untold, 1):
            if subscription.stream.writable_need_drain:
                # Wait with a client that does not read, so that its stream does not fill.
                with self._tails.lock:
                    self._untold.setdefault(subscription, 1)
            else:
                subscription.tell_place()
            if number % TURN == 0:
                checkpoint()
        with self._tails.lock:
            self._telling = again = bool(self._untold)
        if again:
            self._tell_later()
