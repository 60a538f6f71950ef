"""A comment now and then on streams that are silent.

Proxies cut what is silent, commonly after 60 s; and where a server hides the
client's socket, only a write finds out that the client has left. So a silent
stream is sent ``:\\n``, a comment without the blank line, as some clients choke
on an empty event.

Each home has one timer for all its streams. It wakes for the stream that is due
first; a stream that was written to meanwhile is put off and sent nothing.
"""

import heapq
import itertools
import random
import time
import weakref
from typing import Any, Protocol

import flask

from .hub import Home

#: Seconds of silence before a beat. The WHATWG's own note for authors advises a
#: comment "every 15 seconds or so"; nginx and most proxies cut at 60.
INTERVAL = 15.0

#: A beat comes after this part of the interval or later, at random, so that
#: streams which fell silent together (a broadcast, a restart) do not beat
#: together for ever.
EARLIEST = 0.8

BEAT = b":\n"

#: Stopped entries that may lie in a heap before it is swept. A hundred bytes
#: each; sweeping costs one pass.
SWEEP = 1000


# Not the one that apps may have seeded, nor one that every worker has a copy of.
_random = random.SystemRandom()


class Silent(Protocol):
    """What beats: it knows since when it is silent, and how to send a beat."""

    _last_write: float

    def _beat(self) -> None: ...


class Entry:
    """A stream's place in the heap; `stop` may be called from any thread."""

    __slots__ = ("due", "heart", "interval", "order", "stream")

    def __init__(self, heart: "Heart", stream: Silent, interval: float, order: int) -> None:
        self.heart = heart
        self.stream: Silent | None = stream
        self.interval = interval
        self.order = order
        self.due = 0.0

    def __lt__(self, other: "Entry") -> bool:
        return (self.due, self.order) < (other.due, other.order)

    def stop(self) -> None:
        # It stays in the heap, a few words long, until it is due or swept.
        self.stream = None
        self.heart.dead += 1


class Heart:
    """The beats of one home. All but `add` runs in its loop."""

    def __init__(self, home: Home) -> None:
        self._home = weakref.ref(home)
        # About how many of the entries are stopped: threads may miscount.
        self.dead = 0
        self._entries: list[Entry] = []
        self._order = itertools.count()
        self._timer = home.loop.timer(0.0)
        self._timer.ref = False

    def add(self, stream: Silent, interval: float) -> Entry:
        entry = Entry(self, stream, interval, next(self._order))
        home = self._home()
        assert home is not None
        home.call(self._enter, entry)
        return entry

    def _enter(self, entry: Entry) -> None:
        stream = entry.stream
        if stream is None:
            return
        if self.dead > max(SWEEP, len(self._entries) // 2):
            self._entries = [each for each in self._entries if each.stream is not None]
            heapq.heapify(self._entries)
            self.dead = 0
        self._put(entry, stream)
        if self._entries[0] is entry:
            self._arm()

    def _put(self, entry: Entry, stream: Silent) -> None:
        entry.due = stream._last_write + entry.interval * _random.uniform(EARLIEST, 1.0)
        heapq.heappush(self._entries, entry)

    def _tick(self) -> None:
        now = time.monotonic()
        while self._entries and self._entries[0].due <= now:
            entry = heapq.heappop(self._entries)
            stream = entry.stream
            if stream is None:
                continue
            if now - stream._last_write >= entry.interval * EARLIEST:
                stream._beat()
                stream._last_write = now
            self._put(entry, stream)
        self._arm()

    def _arm(self) -> None:
        self._timer.stop()
        if self._entries:
            self._timer.close()
            home = self._home()
            if home is None:
                return
            self._timer = home.loop.timer(max(0.01, self._entries[0].due - time.monotonic()))
            self._timer.ref = False
            self._timer.start(self._tick)


_hearts: "weakref.WeakKeyDictionary[Home, Heart]" = weakref.WeakKeyDictionary()


def heart_of(home: Home) -> Heart:
    """The one heart of *home*."""
    heart = _hearts.get(home)
    return _hearts.setdefault(home, Heart(home)) if heart is None else heart


def default_interval() -> float | None:
    """Seconds, from the app's ``SSESTREAM_HEARTBEAT`` where there is an app; None is off."""
    if not flask.has_app_context():
        return INTERVAL
    return check_interval(
        flask.current_app.config.get("SSESTREAM_HEARTBEAT", INTERVAL), "SSESTREAM_HEARTBEAT"
    )


def check_interval(value: Any, name: str) -> float | None:
    """*value* if it is a positive number of seconds or None."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is a number of seconds or None, not {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, or None, and is {value}")
    return value
