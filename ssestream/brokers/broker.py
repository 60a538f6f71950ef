"""The contract of all brokers: an append-only log for each channel, and a wait for news.

Live delivery, replay, lag and recovery are all "read after this position". A log numbers
its entries 1, 2, 3, ... without a gap. A log removes its oldest entries, by count and by
age, but never uses a number twice. `Slice.first` is the number of the oldest entry that is
kept, so a reader can see that older entries are lost.

Each log has an identity, made with its first entry. A position in one log means nothing in
another log. A restarted process or an emptied database begins another log for the same
channel.

A log can lose its newest entries: a backup is restored, a server dies before its disk has
every entry, a lagging replica takes over. The log then gives the same numbers to other
entries. Therefore an entry has a *check* beside its number, a few random characters, and a
position carries the check of its entry. If the log has another entry at that number, the
log has another past (`Slice.has_other_past`).

An entry holds the frame of a message without its id, because the id depends on the stream.
A frame that begins with NUL is a control frame. A control frame is not a message: it tells
the readers of the log to do something (see ``channels.publication``). Control frames do not
count as history.

Each log has its own `Bounds`: how much it keeps. The first append sets the bounds. A later
append can widen them, and never narrows them.

A log can be *ended*. The control frame `END` then follows its last message, and the log takes no
more messages. It still takes other control frames: they can take away the access of a stream that
reads the log.

A log can have a *lease*. A process says that it will append more, and says so again before the
lease runs out. Anybody may end a log with a lapsed lease.

A log can have a *ttl*. It is deleted so many seconds after its last append, or after the end of its
lease if that is later. A deleted log is as if it had never been. A later append to its channel
begins another log, in which a position of the old log is a gap.
"""

import contextlib
import errno
import os
import re
from typing import NamedTuple, Protocol

from ..errors import BrokerError, ChannelEnded
from ..plain import plain_text
from .bounds import HISTORY, Bounds

__all__ = [
    "END",
    "HISTORY",
    "PLAIN",
    "Bounds",
    "Broker",
    "BrokerError",
    "Busy",
    "ChannelEnded",
    "ChannelError",
    "Entry",
    "Position",
    "Refused",
    "Slice",
    "Terms",
    "check_name",
    "parse_position",
    "shortage",
]

#: Control frames that a log keeps beside its messages. With more control frames, the log
#: loses its oldest entries, even messages: no log may grow without bound.
CONTROLS = 10_000

#: The first byte of every control frame. No message begins with it.
CONTROL = b"\0"

#: The control frame that ends a log. A space and a word may follow.
END = CONTROL + b"end"

#: The name of a channel: letters, digits and some joining characters. The name is part of
#: event ids and of keys in Redis, and operators type it.
NAME = re.compile(r"[A-Za-z0-9_.:/@+-]{1,100}")

#: The identity of a log, as it is written in event ids.
LOG = re.compile(r"[A-Za-z0-9]{1,32}")

#: The most entries of one channel, and about the most bytes, that one `Broker.wait` returns.
WAITED, WAITED_BYTES = 256, 1024 * 1024

#: The number of an entry: at most 18 digits, so that it is an int in every database.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

#: The check of an entry: `CHECK_LENGTH` hexadecimal digits.
CHECK_LENGTH = 6
_CHECK = re.compile(rf"[0-9a-f]{{{CHECK_LENGTH}}}")


class Position(NamedTuple):
    """The point just after entry *number* in the log with the identity *log*.

    Number 0 is the point before the first entry. *log* is ``""`` for a channel in which
    nothing was ever published; the only position in that log is 0.

    *check* is the check of the entry, or ``""`` if the check is not known. A position
    without a check matches any entry with its number.
    """

    log: str
    number: int
    check: str = ""

    def __str__(self) -> str:
        if self.check:
            return f"{self.log}.{self.number}.{self.check}"
        return f"{self.log}.{self.number}"


class Entry(NamedTuple):
    number: int
    frame: bytes
    #: Random characters that tell this entry from another entry with the same number.
    check: str = ""


class Slice(NamedTuple):
    """Some entries of a log, and the state of the log at the time of the read."""

    #: The identity of the log.
    log: str
    #: The number of the oldest entry that is kept; *last* + 1 if no entry is kept.
    first: int
    #: The number of the newest entry ever appended; 0 if there was none.
    last: int
    #: The entries that were read, oldest first, without a gap.
    entries: list[Entry]
    #: The check of the entry after which the read began; ``""`` if that entry is not kept.
    check: str = ""
    #: The check of the newest entry; ``""`` if it is not known.
    last_check: str = ""
    #: How much the log keeps.
    bounds: Bounds = Bounds()
    #: In the result of `Broker.wait`, the followed position after which there is this news.
    after: Position | None = None
    #: The number of the entry that ended the log; 0 if the log was not ended.
    ended: int = 0
    #: Seconds until the lease of the log runs out, negative if it has; None without a lease.
    lease: float | None = None

    @property
    def end(self) -> Position:
        """The position after the newest entry."""
        return Position(self.log, self.last, self.last_check)

    @property
    def read_to(self) -> Position:
        """The position after the last of *entries*; without entries, the end of the log."""
        if not self.entries:
            return self.end
        return Position(self.log, self.entries[-1].number, self.entries[-1].check)

    @property
    def beginning(self) -> Position:
        """The position before the oldest entry that is kept."""
        return Position(self.log, self.first - 1)

    def has_other_past(self, at: Position) -> bool:
        """Whether *at* cannot be a position in the past of this log.

        The log has another entry at that number, or has not reached the number yet. The log
        then lost its newest entries. False for a position in another log. The read must have
        begun after *at*.
        """
        if at.log != self.log:
            return False
        return at.number > self.last or bool(at.check and self.check and at.check != self.check)

    def with_check(self, check: str) -> "Slice":
        """The same slice, with the *check* of the entry that its reader asked for."""
        return self._replace(check=check)

    def with_after(self, at: Position) -> "Slice":
        """The same slice, as `Broker.wait` returns it to a caller that follows from *at*."""
        return self._replace(after=at)

    def misses(self, at: Position) -> bool:
        """Whether some entries after *at* are lost: a gap.

        A gap has three causes: *at* is in another log, *at* is in another past of this log, or
        the log has removed entries after *at*. The read must have begun after *at*.
        """
        if at.log != self.log and (at.log, at.number) != ("", 0):
            return True
        return self.has_other_past(at) or self.first > at.number + 1


class Terms(NamedTuple):
    """The terms of one append."""

    #: How much the log is asked to keep; None asks for the bounds of the broker.
    bounds: Bounds | None = None
    #: Let the log have this ttl from now on; None leaves its ttl as it is.
    ttl: float | None = None
    #: Append only if the channel has no log yet.
    new: bool = False
    #: Append only to the log of this position, and not to another log of the channel.
    of: Position | None = None
    #: Let the log have a lease that runs out after so many seconds; None leaves it as it is.
    lease: float | None = None
    #: Append only if the entry gets this number. So a lost answer does no harm.
    number: int | None = None
    #: End the log after this entry.
    end: bool = False
    #: Why the log ends: a word that its last entry has, for readers who ask.
    reason: str = ""
    #: Append only if the log has a lease that has run out.
    if_lapsed: bool = False

    @property
    def end_frame(self) -> bytes:
        """The control frame that ends the log; ``b""`` if the log is not to end."""
        if not self.end:
            return b""
        return END + b" " + self.reason.encode() if self.reason else END


#: The terms of most appends.
PLAIN = Terms()


class Refused(BrokerError):
    """A log does not meet the terms of an append. Nothing was stored."""

    def __init__(self, channel: str) -> None:
        super().__init__(f"the log of {channel!r} does not meet the terms of an append")
        self.channel = channel


class Busy(BrokerError):
    """This process has no free connection to its broker. The broker is not down."""


class ChannelError(BrokerError):
    """The log of *channel* cannot be used. The broker is not down and serves other channels."""

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(reason, lasting=True)
        self.channel = channel


#: The result of `Broker.wait`: the news of each channel that has some.
News = dict[str, Slice | ChannelError]


class Broker(Protocol):
    """One log for each channel. Every method may be called from any thread.

    A broker connects at the first call, not when it is made. A broker asks for *history* and
    *history_age* in each log to which it appends (see `Bounds`). Callers give valid channel
    names, and frames of any length.

    All methods that use a log raise `BrokerError` if they fail, within a time that each broker
    states. The error is a `ChannelError` if only the log of one channel fails. `wait`
    returns such a `ChannelError` in the place of the channel's slice.

    One caller, the listener of a process, follows channels and waits for their news. The broker
    keeps the position of each followed channel, and moves it past the news that `wait` returns.
    What a call of `follow`, of `unfollow` or of `wait` costs does not depend on how many channels
    are followed.
    """

    #: Whether other processes can read the entries that this process appends.
    shared: bool

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        """Store *frame* in the log of *channel*, for all readers. Returns its position.

        If *terms* end the log, `Terms.end_frame` is stored after *frame*, unless it is *frame*.
        Raises `ChannelEnded` if the log has ended already, and *frame* is a message or is to end
        it. Raises `Refused` if the log does not meet the *terms*. Nothing is stored then.
        """

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        """Let the lease of the log of *of* run out *lease* seconds from now; None ends the lease.

        Returns False, and changes nothing, if the log has ended or is gone.
        """

    def delete(self, channel: str) -> None:
        """Delete the log of *channel*, with all that is kept of it.

        `wait` tells of it as of another log.
        """

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        """Read entries with numbers above *after*.

        The slice has at most *limit* entries. The read stops after the entry that brings the
        frames to *max_bytes* together. With a *limit* of 0, the slice has only the state of
        the log. The entries follow each other without a gap, even while other processes append
        and trim. If *after* is beyond the newest entry, the slice has no entries.
        """

    def keep(self, channel: str, bounds: Bounds, ttl: float | None = None) -> Bounds:
        """Let the log of *channel* keep exactly *bounds* from now on.

        A *history* of None leaves the history as it is. An *age* of None means any age. The log
        has the *ttl* from now on, and none with None (see `Terms`). Returns the
        new bounds. Does nothing for a channel without a log.
        """

    def ping(self) -> None:
        """Try once to use the broker. Raises `BrokerError` if that fails."""

    def follow(self, channel: str, position: Position) -> None:
        """Let `wait` return the news of *channel* after *position* from now on.

        A `wait` that has begun heeds this at once. A channel that is followed already goes on
        from *position*, so the same news can be asked for again. Never blocks, and raises no
        `BrokerError`. The caller may hold a lock.
        """

    def unfollow(self, channel: str) -> None:
        """Let `wait` return no news of *channel* any more, and forget its position.

        A result of `wait` that is on its way may still have the channel. Does nothing for a
        channel that is not followed. Never blocks, and raises no `BrokerError`. The caller may
        hold a lock.
        """

    def wait(self) -> News:
        """Wait until a followed channel has news, or until `wake` is called.

        Only one caller may wait at a time; the caller may be a greenlet. The result has a
        slice of each channel with new entries, as `read` would return it, with at most `WAITED`
        entries; the next call returns the rest. `Slice.after` is the position that was followed,
        and the broker goes on from `Slice.read_to`. If a channel has another log, another past
        or no log any more, its slice begins at the beginning of the log. One result may leave out
        some of the channels with news, which the next call returns. The result may be empty after
        a `wake`, or at any other time.

        After a `BrokerError`, all channels are followed as before, and no news is lost. A channel
        with a `ChannelError` in the result is not looked at again until it is followed again.
        """

    def wake(self) -> None:
        """Let `wait` return now, or the next `wait` if nobody waits. Never blocks."""

    def close(self) -> None:
        """Close all connections. The next call of a method opens them again.

        All channels are followed as before.
        """


def check_name(name: object) -> str:
    """The name of a channel as plain text (see ``plain``).

    Raises ``TypeError`` if *name* is not a str, and ``ValueError`` if no channel can have it.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a channel is a str, not {type(name).__name__}")
    # The name is sent as part of event ids, so a subclass of str must not change it later.
    name = plain_text(name)
    if not NAME.fullmatch(name):
        raise ValueError(
            "the name of a channel is 1 to 100 letters, digits and any of _.:/@+-,"
            f" and not {name[:120]!r}"
        )
    return name


def shortage(descriptors: int) -> str:
    """Words to append to an error if this process cannot open *descriptors* more files.

    ``""`` if it can. Libraries do not report a lack of descriptors: their error names only the
    operation that failed.
    """
    opened: list[int] = []
    try:
        for _ in range(descriptors):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EMFILE:
            return " (this process has no file descriptor left: raise its limit, ulimit -n)"
        if error.errno == errno.ENFILE:
            return " (this machine has no file descriptor left: raise fs.file-max)"
    finally:
        for descriptor in opened:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    return ""


def parse_position(text: str) -> Position | None:
    """The position whose ``str()`` is *text*; None if *text* is not a position."""
    log, _, rest = text.partition(".")
    number, dot, check = rest.partition(".")
    if not _NUMBER.fullmatch(number) or (dot and not _CHECK.fullmatch(check)):
        return None
    if not (LOG.fullmatch(log) or (log, rest) == ("", "0")):
        return None
    return Position(log, int(number), check)
