"""What the append script publishes to the followers of a channel.

An announcement is one line: ``LOG-NUMBER FIRST CHECK BEFORE HISTORY AGE LEASE``. A small frame
follows it, after a newline. FIRST is the number of the oldest entry that Redis has. CHECK is the
check of the new entry, and BEFORE is the check of the entry before it. BEFORE is empty if there is
no such entry, AGE if the log keeps entries of any age, and LEASE if the log has no lease. Both are
in microseconds.

The log is the truth. An announcement is only taken for news if it continues the position of the
follower. Otherwise it tells the follower to read the log.
"""

from typing import NamedTuple

from ..broker import Bounds, Entry, Position, Slice
from .keys import bounds_of

#: The most bytes of a frame that an announcement carries.
MOST_BYTES = 4096


class Announcement(NamedTuple):
    """A new entry of a log, and the state of the log."""

    log: str
    number: int
    first: int
    check: str
    #: The check of the entry before; ``""`` if there is none.
    before: str
    bounds: Bounds
    #: Seconds until the lease of the log runs out; None without a lease.
    lease: float | None
    #: None if the frame is too large to be announced.
    frame: bytes | None

    def is_at(self, at: Position) -> bool:
        """Whether *at* is the position after the new entry."""
        return at == (self.log, self.number, self.check)

    def continues(self, at: Position) -> bool:
        """Whether the new entry is the next one after *at*, and its frame is here."""
        return (
            self.frame is not None
            and self.number == at.number + 1
            and self.before == at.check
            and (self.log == at.log or at == ("", 0, ""))
        )

    def slice(self, earlier: Slice | None) -> Slice:
        """The entry as news, behind the news *earlier* of the same log, if any.

        A log with an age may have dropped entries that this slice counts as kept. The entry's own
        number is not one of them.
        """
        assert self.frame is not None
        entry = Entry(self.number, self.frame, self.check)
        if earlier is not None:
            return Slice(
                self.log,
                earlier.first,
                self.number,
                [*earlier.entries, entry],
                earlier.check,
                self.check,
                self.bounds,
                earlier.after,
                lease=self.lease,
            )
        history = self.number if self.bounds.history is None else self.bounds.history
        first = min(max(self.first, self.number - history + 1), self.number)
        return Slice(
            self.log,
            first,
            self.number,
            [entry],
            self.before,
            self.check,
            self.bounds,
            lease=self.lease,
        )


def parse(text: bytes) -> Announcement | None:
    """The announcement in *text*; None if another program has published *text*."""
    line, newline, frame = text.partition(b"\n")
    try:
        entry, first, check, before, history, age, lease = line.split(b" ")
        log, number = entry.split(b"-")
        return Announcement(
            log.decode(),
            int(number),
            int(first),
            check.decode(),
            before.decode(),
            bounds_of(history, age),
            int(lease) / 1e6 if lease else None,
            frame if newline else None,
        )
    except (ValueError, OverflowError):
        return None
