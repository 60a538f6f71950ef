"""One log of the ``memory://`` broker. The broker's lock guards it."""

import secrets
from collections import deque
from typing import NamedTuple

from ..runtime.clock import clock
from .broker import CHECK_LENGTH, CONTROL, CONTROLS, Bounds, Entry, Terms


class _Kept(NamedTuple):
    entry: Entry
    at: float
    #: The number of this message among all messages of the log. A control frame has the
    #: number of the next message, and is kept as long as that message.
    message: int


class Log:
    __slots__ = (
        "_asked",
        "_ttl",
        "bounds",
        "check",
        "due",
        "ended",
        "expires",
        "kept",
        "last",
        "leased",
        "messages",
        "name",
        "start",
    )

    def __init__(self, name: str, start: int, asked: Bounds) -> None:
        self.name = name
        #: The number after which the first entry comes.
        self.start = self.last = start
        self.bounds = asked.of_new_log()
        # The bounds that were asked for last. Nearly every append asks for the same object.
        self._asked = asked
        #: How many messages were ever appended. Control frames do not count.
        self.messages = 0
        self.kept: deque[_Kept] = deque()
        #: The check of all entries.
        self.check = secrets.token_hex(CHECK_LENGTH // 2)
        #: The number of the entry that ended the log; 0 if it was not ended.
        self.ended = 0
        #: The times when the lease runs out, on the real clock as a thread renews it, and when the
        #: log is deleted; None for never.
        self.leased: float | None = None
        self.expires: float | None = None
        self._ttl: float | None = None
        #: When the broker looks whether the log has expired or has old entries; None for never.
        self.due: float | None = None

    @property
    def first(self) -> int:
        return self.kept[0].entry.number if self.kept else self.last + 1

    @property
    def changes_at(self) -> float | None:
        """When the log expires, or its oldest entry is too old; None for never."""
        age = self.bounds.age
        if age is None or not self.kept:
            return self.expires
        old_at = self.kept[0].at + age
        return old_at if self.expires is None else min(old_at, self.expires)

    def look_at(self, due: float | None) -> None:
        """The broker looks at the log at the time *due*."""
        self.due = due

    def check_of(self, number: int) -> str:
        """The check of the entry *number*; ``""`` if the log never had this entry."""
        return self.check if number > self.start else ""

    def append(self, frame: bytes) -> None:
        self.last += 1
        kept = Entry(self.last, frame, self.check)
        self.kept.append(_Kept(kept, clock.now(), self.messages + 1))
        self.messages += not frame.startswith(CONTROL)

    def widen(self, asked: Bounds) -> None:
        """Keep as much as *asked* from now on, if that is more."""
        if asked is not self._asked:
            self._asked, self.bounds = asked, self.bounds.widened(asked)

    def meets(self, terms: Terms) -> bool:
        """Whether an entry may be appended on *terms*, if the log has not ended."""
        lapsed = self.leased is not None and self.leased <= clock.real()
        right = terms.of is None or terms.of.check == self.check
        right = right and terms.number in (None, self.last + 1)
        return right and not terms.new and (lapsed or not terms.if_lapsed)

    def grant(self, terms: Terms) -> None:
        """Grant what *terms* ask beside an entry, which is appended already."""
        if terms.end:
            if self.kept[-1].entry.frame != terms.end_frame:
                self.append(terms.end_frame)
            self.ended, self.leased = self.last, None
        elif terms.lease is not None:
            self.leased = clock.real() + terms.lease
        self.live_for(self._ttl if terms.ttl is None else terms.ttl)

    def live_for(self, ttl: float | None) -> None:
        """Expire *ttl* seconds from now, or after the lease; with None, never."""
        self._ttl = ttl
        leased = 0.0 if self.leased is None else max(0.0, self.leased - clock.real())
        self.expires = None if ttl is None else clock.now() + leased + ttl

    def renew(self, lease: float | None) -> None:
        """See `Broker.renew`."""
        self.leased = None if lease is None else clock.real() + lease
        self.live_for(self._ttl)

    def keep(self, bounds: Bounds, ttl: float | None) -> Bounds:
        """See `Broker.keep`."""
        history = self.bounds.history if bounds.history is None else bounds.history
        self.bounds = Bounds(history, bounds.age)
        self.live_for(ttl)
        self.trim()
        return self.bounds

    def trim(self) -> None:
        history, age = self.bounds
        history = self.messages if history is None else history
        oldest = None if age is None else clock.now() - age
        while self.kept and (
            self.kept[0].message <= self.messages - history
            or len(self.kept) > history + CONTROLS
            or (oldest is not None and self.kept[0].at <= oldest)
        ):
            self.kept.popleft()
