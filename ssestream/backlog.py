"""What waits in a stream: messages in order, each with its callback, and their bounds."""

import functools
from collections import deque
from collections.abc import Callable

from .settings import Settings
from .shared import shared

Callback = Callable[[BaseException | None], object]


class Backlog:
    """A queue of frames. It has no lock: its stream's guards it."""

    __slots__ = (
        "_entries",
        "_granted",
        "_is_shared",
        "_max_bytes",
        "_max_messages",
        "bytes",
        "full_at",
        "high_water_mark",
    )

    def __init__(self, high_water_mark: int, max_messages: int, max_bytes: int) -> None:
        self.high_water_mark = high_water_mark
        #: Bytes of all that wait.
        self.bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._is_shared = False
        #: When a writer was last told to wait; 0.0 is never.
        self.full_at = 0.0
        # As many messages as were granted beyond their bound, until nothing waits.
        self._granted = 0
        # A bare frame where there is no callback: a pair takes 56 bytes more. And no
        # deque while nothing waits, as with most streams and at most times.
        self._entries: deque[bytes | tuple[bytes, Callback]] | tuple[()] = ()

    @staticmethod
    def empty(high_water_mark: int, settings: Settings) -> "Backlog":
        """One in which nothing waits, that of all streams with these bounds."""
        return _empty(high_water_mark, settings.max_messages, settings.max_bytes)

    def appendable(self) -> "Backlog":
        """Itself, or one of one's own in the place of what is shared."""
        if not self._is_shared:
            return self
        return Backlog(self.high_water_mark, self._max_messages, self._max_bytes)

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, frame: bytes, callback: Callback | None) -> None:
        # A frame that finds nothing before it leaves at once, mostly.
        if self._entries:
            frame = shared(frame)
        else:
            self._entries = deque()
        self._entries.append(frame if callback is None else (frame, callback))
        self.bytes += len(frame)

    def popleft(self) -> tuple[bytes, Callback | None]:
        assert self._entries
        entry = _pair(self._entries.popleft())
        self.bytes -= len(entry[0])
        if not self._entries:
            self._entries = ()
            self._granted = 0
        return entry

    def clear(self) -> list[tuple[bytes, Callback | None]]:
        """Everything, which waits here no more."""
        entries = [_pair(entry) for entry in self._entries]
        self._entries = ()
        self.bytes = self._granted = 0
        return entries

    def take_callbacks(self) -> list[Callback | None]:
        """The callbacks of the oldest, up to the high-water mark. Their frames wait on."""
        count = min(self.high_water_mark, len(self._entries))
        entries = [_pair(self._entries[index]) for index in range(count)]
        for index, (frame, _) in enumerate(entries):
            assert self._entries
            self._entries[index] = frame
        return [callback for _, callback in entries]

    def is_full(self) -> bool:
        """Whether a writer is to wait."""
        return len(self) >= self.high_water_mark or self.bytes >= self._max_bytes

    def has_room(self) -> bool:
        """Whether less than half of what may wait does."""
        return len(self) <= self._max_messages // 2 and self.bytes <= self._max_bytes // 2

    def is_over(self, *more: bytes) -> bool:
        """Whether more waits than may, with these *more* frames.

        One message alone may be of any size.
        """
        return len(self) + len(more) > max(self._max_messages, self._granted) or self.is_heavy(
            *more
        )

    def is_heavy(self, *more: bytes) -> bool:
        """The same, of their bytes alone."""
        size = self.bytes + sum(map(len, more))
        return size > self._max_bytes and len(self) + len(more) > 1

    def grant(self, count: int) -> None:
        """Let *count* messages wait, until none does."""
        self._granted = max(self._granted, count)

    def trim(self) -> list[Callback | None]:
        """Drop the oldest until no more waits than may: the callbacks of the dropped."""
        dropped = []
        while self.is_over():
            dropped.append(self.popleft()[1])
        return dropped


@functools.lru_cache
def _empty(high_water_mark: int, max_messages: int, max_bytes: int) -> Backlog:
    backlog = Backlog(high_water_mark, max_messages, max_bytes)
    backlog._is_shared = True
    return backlog


def _pair(entry: bytes | tuple[bytes, Callback]) -> tuple[bytes, Callback | None]:
    return (entry, None) if isinstance(entry, bytes) else entry
