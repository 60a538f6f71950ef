"""What this process has done and is doing, as numbers; and which streams are open."""

import dataclasses
import os
from collections import Counter
from collections.abc import Hashable
from typing import Literal, Protocol

from .hub import new_lock

#: Why a stream is over: its client left; the app ended it; its client took
#: nothing for too long; too much was waiting for it; it was old; the worker
#: stopped; there were too many; it was destroyed.
Cause = Literal["client", "ended", "stalled", "overflow", "age", "shutdown", "refused", "error"]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A snapshot of the process. Counts are since it started."""

    #: Streams that are open now.
    open: int
    #: Streams that were opened, these included.
    opened: int
    #: Streams that are over, by cause; those that were refused are not among them.
    closed: dict[Cause, int]
    #: Streams that were refused because there were too many.
    refused: int
    #: Messages handed to servers, and their bytes, before compression and framing.
    messages: int
    bytes: int
    #: Bytes that wait now for their clients, in all open streams and before them.
    waiting: int
    #: Messages dropped by ``overflow="drop-oldest"``.
    dropped: int
    #: Comments sent into silence.
    heartbeats: int


class Counted(Protocol):
    """An open stream."""

    def waiting(self) -> int:
        """Bytes that wait for its client."""

    def sent(self) -> tuple[int, int]:
        """Messages and bytes that were handed to its server."""

    def _in_hand(self) -> bool:
        """Whether its server has something that its client does not take."""

    def retire(self, cause: Cause) -> None:
        """Tell the client when to come back, and end."""

    def cut(self, cause: Cause) -> None:
        """End at once."""


class _Books:
    """Kept under one lock, as any thread may write to them."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Of a process that has done nothing yet."""
        self._lock = new_lock()
        self._open: dict[int, Counted] = {}
        self._counts: Counter[str] = Counter()
        self._messages = self._bytes = 0
        self._closed: Counter[Cause] = Counter()
        self._clients: Counter[Hashable] = Counter()
        self.draining = False

    def open(
        self,
        stream: Counted,
        most: int | None,
        client: Hashable | None,
        most_of_client: int | None,
    ) -> bool:
        """Enter *stream*. False, and it is not, where there are too many already."""
        with self._lock:
            full = most is not None and len(self._open) >= most
            if client is not None and most_of_client is not None:
                full = full or self._clients[client] >= most_of_client
            if full or self.draining:
                self._counts["refused"] += 1
                if client is not None and not self._clients[client]:
                    del self._clients[client]
                return False
            self._open[id(stream)] = stream
            self._counts["opened"] += 1
            if client is not None:
                self._clients[client] += 1
            return True

    def close(self, stream: Counted, cause: Cause, client: Hashable | None) -> None:
        with self._lock:
            messages, length = stream.sent()
            self._messages += messages
            self._bytes += length
            if self._open.pop(id(stream), None) is None:
                return
            self._closed[cause] += 1
            if client is not None:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]

    def count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number

    @property
    def has_open(self) -> bool:
        """Whether a stream is open. Takes no lock: a handler of signals may ask."""
        return bool(self._open)

    def streams(self) -> list[Counted]:
        with self._lock:
            return list(self._open.values())

    def snapshot(self) -> Statistics:
        with self._lock:
            streams = list(self._open.values())
            counts, closed = Counter(self._counts), dict(self._closed)
            sent = [(self._messages, self._bytes), *(stream.sent() for stream in streams)]
        return Statistics(
            open=len(streams),
            opened=counts["opened"],
            closed=closed,
            refused=counts["refused"],
            messages=sum(messages for messages, _ in sent),
            bytes=sum(length for _, length in sent),
            waiting=sum(stream.waiting() for stream in streams),
            dropped=counts["dropped"],
            heartbeats=counts["heartbeats"],
        )


books = _Books()


# No client of the parent is one of the child.
os.register_at_fork(after_in_child=books.begin)


def statistics() -> Statistics:
    """A snapshot of this process's streams, as frozen as a photograph."""
    return books.snapshot()
