"""The channels that a broker of Redis is to follow, and the requests that still wait."""

from itertools import islice

from ...runtime.threads import new_lock
from ..broker import ChannelError, News, Position, Slice


class FollowRequests:
    """The followed channels with their positions, and the requests for the listener.

    Any thread may follow and unfollow channels: this is a request to subscribe in Redis, or to
    unsubscribe. The listener takes the requests a batch at a time, and moves the positions. The
    position of a channel is the same object until it is moved or followed anew.
    """

    def __init__(self) -> None:
        # Guards both. Held for a few instructions only.
        self._lock = new_lock()
        self._positions: dict[str, Position] = {}
        # The channels that were followed or left since the listener took its last changes.
        self._changed: dict[str, None] = {}
        # Where the channels stood from which news was passed on since `begin`.
        self._passed: dict[str, Position] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def follow(self, channel: str, position: Position) -> None:
        with self._lock:
            # A new object: the listener must not take this for the position that it knows.
            self._positions[channel] = Position(*position)
            self._changed[channel] = None
            self._passed.pop(channel, None)

    def unfollow(self, channel: str) -> None:
        with self._lock:
            self._passed.pop(channel, None)
            if self._positions.pop(channel, None) is not None:
                self._changed[channel] = None

    def at(self, channel: str) -> Position | None:
        """The position in *channel*; None if it is not followed."""
        return self._positions.get(channel)

    def names(self) -> list[str]:
        with self._lock:
            return list(self._positions)

    def positions(self) -> dict[str, Position]:
        with self._lock:
            return self._positions.copy()

    @property
    def has_changes(self) -> bool:
        return bool(self._changed)

    def change(self, channels: list[str]) -> None:
        """Let the listener take each of *channels* for a change."""
        with self._lock:
            self._changed.update(dict.fromkeys(channels))

    def take_changes(self, limit: int) -> dict[str, bool]:
        """At most *limit* channels that have changed, and whether each is followed now."""
        with self._lock:
            names = list(islice(self._changed, limit))
            for name in names:
                del self._changed[name]
            return {name: name in self._positions for name in names}

    def pass_on(self, channel: str, at: Position, piece: Slice | ChannelError, news: News) -> bool:
        """Add *piece*, which was found after *at*, to *news*, and go on behind *piece*.

        Does nothing, and returns False, if *channel* is not followed from *at* any more. A
        *piece* that takes the place of earlier news contains that news.
        """
        with self._lock:
            if self._positions.get(channel) is not at:
                return False
            self._passed.setdefault(channel, at)
            if isinstance(piece, ChannelError):
                del self._positions[channel]
                self._changed[channel] = None
            else:
                self._positions[channel] = piece.read_to
                # A piece in the place of earlier news has the position before that.
                piece = piece if piece.after else piece.with_after(at)
        news[channel] = piece
        return True

    def begin(self) -> None:
        """The news that was passed on until now has come to the caller of `RedisBroker.wait`."""
        with self._lock:
            self._passed.clear()

    def take_back(self) -> None:
        """The news since `begin` is lost: go back to where its channels stood before."""
        with self._lock:
            self._positions |= self._passed
            self._changed.update(dict.fromkeys(self._passed))
            self._passed.clear()
