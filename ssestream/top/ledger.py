"""Ledger: the ids and the ages of open streams, and how the last streams ended."""

import itertools
import secrets
import time
from collections import deque
from typing import Any

from ..http.body import Body
from ..http.registry import Cause, Open, StreamObserver
from ..runtime.clock import clock

#: The number of ended streams that are kept.
LAST = 50


class Ledger(StreamObserver):
    """Keeps what the registry itself does not keep."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin with no streams, as a new process does."""
        #: A word of this process alone. A later process with its number has another one, so an
        #: order for an old stream never meets a new stream.
        self.token = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        # The number and the time of the opening, by the id() of the stream.
        self._opened: dict[int, tuple[int, float]] = {}
        self._ends: deque[dict[str, Any]] = deque(maxlen=LAST)

    def opened(self, stream: Open) -> None:
        self._opened[id(stream)] = next(self._numbers), clock.now()
        if isinstance(stream, Body) and stream.over:
            self._opened.pop(id(stream), None)

    def closed(self, stream: Open, cause: Cause, messages: int, length: int) -> None:
        entry = self._opened.pop(id(stream), None)
        if entry is None:  # it was opened before there was this ledger
            return
        number, opened = entry
        self._ends.append(
            {
                "id": f"{self.token}-{number}",
                "client": stream.name if isinstance(stream, Body) else "",
                # Seconds since 1970, for the clock of an operator.
                "at": time.time(),
                "seconds": max(0.0, clock.now() - opened),
                "messages": messages,
                "bytes": length,
                "cause": cause,
            }
        )

    def ends(self) -> list[dict[str, Any]]:
        """How the last streams ended, oldest first."""
        # A copy, since another thread may add to it meanwhile.
        return list(self._ends.copy())

    def seconds(self, stream: Open, now: float) -> float:
        """The age of *stream* at the time *now*; 0 if it is over."""
        return max(0.0, now - self._opened.get(id(stream), (0, now))[1])

    def id_of(self, stream: Open) -> str:
        """The id of *stream*, which no other stream of the host has; ``""`` if it is over."""
        entry = self._opened.get(id(stream))
        return "" if entry is None else f"{self.token}-{entry[0]}"
