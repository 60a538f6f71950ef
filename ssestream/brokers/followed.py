"""The channels that a broker follows, and which of them may have news (see `broker.Broker`)."""

import itertools

from ..runtime.threads import new_lock
from .broker import ChannelError, News, Position, Slice


class FollowedLogs:
    """The followed channels of one broker. Thread-safe.

    One thread or greenlet, in `Broker.wait`, looks for news and moves the positions. Any thread
    may follow and unfollow channels meanwhile.

    A channel is *unchecked* if it may have news after its position: a caller has followed it from
    there, or the broker has noted that its log has changed.
    """

    def __init__(self) -> None:
        # Guards both dicts. Held for a few instructions only.
        self._lock = new_lock()
        self._positions: dict[str, Position] = {}
        self._unchecked: dict[str, None] = {}

    def follow(self, channel: str, position: Position) -> None:
        with self._lock:
            self._positions[channel] = position
            self._unchecked[channel] = None

    def unfollow(self, channel: str) -> None:
        with self._lock:
            self._positions.pop(channel, None)
            self._unchecked.pop(channel, None)

    def position(self, channel: str) -> Position | None:
        """The position in *channel*; None if the channel is not followed."""
        return self._positions.get(channel)

    def all(self) -> dict[str, Position]:
        """The position of each followed channel now."""
        with self._lock:
            return self._positions.copy()

    # -- the channels that may have news

    def note(self, channel: str) -> bool:
        """Note that the log of *channel* has changed. Returns whether the channel is followed."""
        with self._lock:
            is_followed = channel in self._positions
            if is_followed:
                self._unchecked[channel] = None
            return is_followed

    def note_all(self) -> None:
        """Note that any log may have changed."""
        with self._lock:
            self._unchecked.update(dict.fromkeys(self._positions))

    @property
    def has_unchecked(self) -> bool:
        return bool(self._unchecked)

    def is_unchecked(self, channel: str) -> bool:
        return channel in self._unchecked

    def unchecked(self, limit: int) -> list[tuple[str, Position]]:
        """At most *limit* of the unchecked channels, the first that were noted, and positions."""
        with self._lock:
            names = itertools.islice(self._unchecked, limit)
            return [(name, self._positions[name]) for name in names]

    def settle(self, channel: str, at: Position) -> None:
        """Note that *channel* has no news after *at*, unless it is followed from elsewhere now."""
        with self._lock:
            if self._positions.get(channel) is at:
                self._unchecked.pop(channel, None)

    def pass_on(self, channel: str, at: Position, piece: Slice | ChannelError, news: News) -> None:
        """Add *piece*, which was found after *at*, to *news*, and go on behind *piece*.

        Does nothing if *channel* is followed from another position by now, or not at all.
        """
        with self._lock:
            if self._positions.get(channel) is not at:
                return
            self._unchecked.pop(channel, None)
            if isinstance(piece, ChannelError):
                del self._positions[channel]
            else:
                piece = piece.with_after(at)
                self._positions[channel] = at = piece.read_to
                if at.number != piece.last:
                    self._unchecked[channel] = None
        news[channel] = piece
