"""The channels that a broker is asked to follow, and the position in each (see `broker.Broker`)."""

from ..runtime.threads import new_lock
from .broker import ChannelError, News, Position, Slice


class Followed:
    """The followed channels of one broker. Thread-safe.

    One thread or greenlet, in `Broker.wait`, looks for news and moves the positions. Any thread
    may follow and unfollow channels meanwhile.
    """

    def __init__(self) -> None:
        # Guards the dict. Held for a few instructions only.
        self._lock = new_lock()
        self._positions: dict[str, Position] = {}

    def follow(self, channel: str, position: Position) -> None:
        with self._lock:
            self._positions[channel] = position

    def unfollow(self, channel: str) -> None:
        with self._lock:
            self._positions.pop(channel, None)

    def all(self) -> dict[str, Position]:
        """The position of each followed channel now."""
        with self._lock:
            return self._positions.copy()

    def pass_on(self, channel: str, at: Position, piece: Slice | ChannelError, news: News) -> None:
        """Add *piece*, which was found after *at*, to *news*, and go on behind *piece*.

        Does nothing if *channel* is followed from another position by now, or not at all.
        """
        with self._lock:
            if self._positions.get(channel) is not at:
                return
            if isinstance(piece, ChannelError):
                del self._positions[channel]
            else:
                piece = piece.told_after(at)
                self._positions[channel] = piece.read_to
        news[channel] = piece
