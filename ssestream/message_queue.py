"""MessageQueue: the messages that wait in a stream, in order, with their callbacks and bounds."""

import functools
from collections import deque
from collections.abc import Callable

from .http.interning import shared
from .settings import Settings

Callback = Callable[[BaseException | None], object]


class MessageQueue:
    """A queue of frames. It has no lock of its own: the lock of its stream guards it."""

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

    def __init__(
        self, high_water_mark: int, max_messages: int, max_bytes: int, is_shared: bool = False
    ) -> None:
        self.high_water_mark = high_water_mark
        #: Bytes of all waiting frames.
        self.bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._is_shared = is_shared
        #: The time when ``write()`` last returned False; 0.0 means never.
        self.full_at = 0.0
        # A higher bound in messages for a burst, until the queue is empty; 0 means none.
        self._granted = 0
        # A frame with a callback is a pair. A frame without one is only the frame, because a
        # pair takes 56 bytes more. An empty queue has no deque: most queues are empty.
        self._entries: deque[bytes | tuple[bytes, Callback]] | tuple[()] = ()

    @staticmethod
    def empty(high_water_mark: int, settings: Settings) -> "MessageQueue":
        """An empty queue that all streams with these bounds share."""
        return _empty(high_water_mark, settings.max_messages, settings.max_bytes)

    def appendable(self) -> "MessageQueue":
        """This queue, or a new one if this one is shared: a shared queue must stay empty."""
        if not self._is_shared:
            return self
        return MessageQueue(self.high_water_mark, self._max_messages, self._max_bytes)

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, frame: bytes, callback: Callback | None) -> None:
        # Only a frame that waits behind another frame is shared with other streams. The first
        # frame of a queue mostly leaves at once.
        if self._entries:
            frame = shared(frame)
        else:
            self._entries = deque()
        self._entries.append(frame if callback is None else (frame, callback))
        self.bytes += len(frame)

    def extend(self, frames: list[bytes]) -> int:
        """Append the first of *frames*, until half of a bound is used.

        Returns how many were appended.
        """
        entries: deque[bytes | tuple[bytes, Callback]] = self._entries or deque()
        most, room = self._max_messages // 2, self._max_bytes // 2
        count, size = 0, self.bytes
        for frame in frames:
            if len(entries) > most or size + len(frame) > room:
                break
            # Clients that come back at the same time each read the log, and get copies of it.
            entries.append(shared(frame) if entries else frame)
            size += len(frame)
            count += 1
        if count:
            self._entries, self.bytes = entries, size
        return count

    def popleft(self) -> tuple[bytes, Callback | None]:
        assert self._entries
        entry = _pair(self._entries.popleft())
        self._has_less(len(entry[0]))
        return entry

    def take(self, room: int) -> tuple[list[bytes], list[Callback | None]]:
        """Remove the oldest messages, up to *room* bytes, but at least one.

        Returns their frames and their callbacks.
        """
        frames: list[bytes] = []
        callbacks: list[Callback | None] = []
        entries, taken = self._entries, 0
        while entries:
            frame, callback = _pair(entries[0])
            if frames and taken + len(frame) > room:
                break
            entries.popleft()
            frames.append(frame)
            callbacks.append(callback)
            taken += len(frame)
        self._has_less(taken)
        return frames, callbacks

    def _has_less(self, length: int) -> None:
        """Messages of *length* bytes were removed."""
        self.bytes -= length
        if not self._entries:
            self._entries = ()
            self._granted = 0

    def clear(self) -> list[tuple[bytes, Callback | None]]:
        """Remove all entries and return them."""
        entries = [_pair(entry) for entry in self._entries] if self._entries else []
        self._entries = ()
        self.bytes = self._granted = 0
        return entries

    def take_callbacks(self) -> list[Callback | None]:
        """Take the callbacks of the oldest messages, up to the high-water mark. The frames stay."""
        count = min(self.high_water_mark, len(self._entries))
        entries = [_pair(self._entries[index]) for index in range(count)]
        for index, (frame, _) in enumerate(entries):
            assert self._entries
            self._entries[index] = frame
        return [callback for _, callback in entries]

    def is_full(self) -> bool:
        """Whether a writer has to wait."""
        return len(self) >= self.high_water_mark or self.bytes >= self._max_bytes

    def note_full(self, now: float) -> None:
        """A writer has to wait since *now*."""
        self.full_at = now

    def has_room(self) -> bool:
        """Whether the queue is at most half full, in messages and in bytes."""
        return len(self) <= self._max_messages // 2 and self.bytes <= self._max_bytes // 2

    def exceeds_bounds(self, frame: bytes | None = None) -> bool:
        """Whether the queue, with *frame* if that is not None, is above one of its two bounds."""
        count = len(self._entries) + (frame is not None)
        if count > self._max_messages and count > self._granted:
            return True
        return self.exceeds_bytes(frame)

    def exceeds_bytes(self, frame: bytes | None = None) -> bool:
        """Whether the queue, with *frame* if that is not None, is above its bound in bytes.

        A single message may be of any size.
        """
        size = self.bytes if frame is None else self.bytes + len(frame)
        return size > self._max_bytes and len(self._entries) + (frame is not None) > 1

    def grant(self, count: int) -> None:
        """Raise the bound in messages to *count* until the queue is empty."""
        self._granted = max(self._granted, count)

    def trim(self) -> list[Callback | None]:
        """Drop the oldest messages until the bounds hold. Returns their callbacks."""
        dropped = []
        while self.exceeds_bounds():
            dropped.append(self.popleft()[1])
        return dropped


@functools.lru_cache
def _empty(high_water_mark: int, max_messages: int, max_bytes: int) -> MessageQueue:
    return MessageQueue(high_water_mark, max_messages, max_bytes, is_shared=True)


def _pair(entry: bytes | tuple[bytes, Callback]) -> tuple[bytes, Callback | None]:
    return (entry, None) if isinstance(entry, bytes) else entry
