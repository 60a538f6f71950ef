"""What a broker is: an append-only log for each channel, and a way to wait for more.

Live delivery, replay, lag and recovery are all "read after this position". A
log numbers its entries from 1 on, without a hole. It forgets its oldest entries,
by count and by age, and never a number: `Slice.first` says where it begins now,
so that whoever asks for what is no longer there can tell.

Each log has an identity, made when the first entry comes. A position in one log
means nothing in another, such as the one that a restarted process or an emptied
database begins for the same channel.

A log can lose its end: a backup is put back, a server dies before its disk has all,
a replica that lags takes over. The log then gives the same numbers again, to other
entries. So an entry has a *check* beside its number, a few characters at random, and a
position carries the check of its entry. Where the log has another entry under that
number, it has another past (`Slice.misses`).

What is kept is the frame of a message without its id, as the id depends on the
stream. A frame that begins with NUL is a control frame: it is no message, and tells
the readers of the log something (see ``channels``). Control frames do not count as
history.

How much a log keeps belongs to the log (`Bounds`). The first who appends sets it.
Others can widen it, and never narrow it by appending.
"""

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

from ..errors import BrokerError
from ..hub import logger
from ..plain import plain_text

__all__ = [
    "Bounds",
    "Broker",
    "BrokerError",
    "Busy",
    "ChannelError",
    "Entry",
    "Position",
    "Slice",
    "check_name",
    "parse_position",
    "shortage",
]

#: Messages that a log keeps where nobody has said another number. As many as a stream
#: may have waiting, minutes of a busy channel.
HISTORY = 1000

#: Control frames that a log keeps beside its messages. A log that is given more of them
#: loses its oldest entries, messages too: nothing may grow without bound.
CONTROLS = 10_000

#: What a control frame begins with, and no message.
CONTROL = b"\0"

#: Characters of a channel's name: letters, digits and what joins them. It is part
#: of ids, of keys in Redis, and of what operators type.
NAME = re.compile(r"[A-Za-z0-9_.:/@+-]{1,100}")

#: An identity on the wire, as brokers make them.
LOG = re.compile(r"[A-Za-z0-9]{1,32}")

#: Entries of one channel, and their bytes, that one `Broker.wait` gives at most.
WAITED, WAITED_BYTES = 256, 1024 * 1024

#: Digits of a number at most: enough for ever, and an int in every database.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

#: The check of an entry, as brokers make it: `CHECK_LENGTH` hexadecimal digits.
CHECK_LENGTH = 6
_CHECK = re.compile(rf"[0-9a-f]{{{CHECK_LENGTH}}}")

_N = TypeVar("_N", int, float)


class Position(NamedTuple):
    """Behind the entry *number* of the log with the identity *log*.

    Number 0 is before the first. The log ``""`` is that of a channel in which
    nothing was ever published, and its only position is 0.

    *check* is that of the entry, or ``""`` where the check is not known: such a
    position is taken on trust.
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
    #: Which entry this is, of all that may have had its number.
    check: str = ""


class Bounds(NamedTuple):
    """How much a log keeps, or how much somebody asks it to keep.

    *history* is a number of messages, *age* a number of seconds. None is nothing
    said: then a new log keeps `HISTORY` messages of any age.
    """

    history: int | None = None
    age: float | None = None

    def of_new_log(self) -> "Bounds":
        """Those of a log for which this is asked first."""
        return Bounds(HISTORY if self.history is None else self.history, self.age)

    def widened(self, asked: "Bounds") -> "Bounds":
        """Those of a log that has these, once *asked* was asked for as well."""
        # A log that has no age keeps its entries for ever, and nothing is wider.
        return Bounds(_wider(self.history, asked.history), _wider(self.age, asked.age))

    def warn_of(self, asked: "Bounds", channel: str) -> bool:
        """Say so where *channel*, whose log has these, keeps more than is *asked* for.

        Whether that was so.
        """
        fewer = asked.history is not None and self.history is not None
        fewer = fewer and asked.history < self.history  # type: ignore[operator]
        younger = asked.age is not None and (self.age is None or asked.age < self.age)
        if not (fewer or younger):
            return False
        logger.warning(
            "channels: %r keeps %s, as its log was told before, and not %s, as is set here:"
            " Channels.keep() or 'python -m ssestream keep' changes that",
            channel,
            self.in_words(),
            asked.in_words(),
        )
        return True

    def in_words(self) -> str:
        count = "all events" if self.history is None else f"{self.history} events"
        return count if self.age is None else f"{count} of {self.age:g} s"


def _wider(mine: _N | None, asked: _N | None) -> _N | None:
    return mine if mine is None or asked is None else max(mine, asked)


class Slice(NamedTuple):
    """A part of a log, and where the log stood when it was read."""

    log: str
    #: The number of the oldest entry that is kept; *last* + 1 where none is.
    first: int
    #: The number of the newest that ever was; 0 where none was.
    last: int
    #: Oldest first, without a hole.
    entries: list[Entry]
    #: The check of the entry behind which was read; ``""`` where that is not kept.
    check: str = ""
    #: The check of the newest entry; ``""`` where that is not known.
    last_check: str = ""
    #: How much the log keeps.
    bounds: Bounds = Bounds()

    @property
    def end(self) -> Position:
        """Behind the newest entry."""
        return Position(self.log, self.last, self.last_check)

    @property
    def beginning(self) -> Position:
        """Before the oldest entry that is kept."""
        return Position(self.log, self.first - 1)

    def has_other_past(self, at: Position) -> bool:
        """Whether this log has given the numbers up to *at* to other entries, or not yet.

        It must have been read from *at* on.
        """
        if at.log != self.log:
            return False
        return at.number > self.last or bool(at.check and self.check and at.check != self.check)

    def misses(self, at: Position) -> bool:
        """Whether the log does not have what comes after *at*: a gap.

        It must have been read from *at* on.
        """
        if at.log != self.log and (at.log, at.number) != ("", 0):
            return True
        return self.has_other_past(at) or self.first > at.number + 1


class Busy(BrokerError):
    """This process asks for more at once than its broker takes. The broker is not down."""


class ChannelError(BrokerError):
    """The log of one *channel* cannot be had. The broker is not down, and has the others."""

    def __init__(self, channel: str, reason: str) -> None:
        super().__init__(reason, lasting=True)
        self.channel = channel


#: What `Broker.wait` gives.
News = dict[str, Slice | ChannelError]


class Broker(Protocol):
    """One log for each channel. Every method may be called from any thread.

    Where only one channel's log fails, the error is a `ChannelError`, and `wait` gives that
    in the place of the channel's slice. It gives it again at once to a caller that asks for
    the channel again.

    Making one connects to nothing. Each method raises `BrokerError`, within
    the time that the broker states, when it could not be done; names are
    valid, and frames are bytes of any length. *history* and *history_age* are what it
    asks of the logs that it appends to (see `Bounds`).
    """

    #: Whether other processes read what is appended here.
    shared: bool

    def append(self, channel: str, frame: bytes) -> Position:
        """Add *frame*. When this returns it is stored, and will be read by everybody."""

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        """The entries whose numbers are above *after*.

        At most *limit* of them, and no more once they are *max_bytes* long
        together, but one where there is one. With a *limit* of 0 it only says
        where the log stands. They follow each other without a hole, also while
        others append and trim. An *after* beyond the log's last has none.
        """

    def keep(self, channel: str, bounds: Bounds) -> Bounds:
        """Let the log of *channel* keep just this from now on: what it keeps.

        None leaves the history as it is, and means any age. A channel in which
        nothing was ever published has no log, and keeps nothing of this.
        """

    def ping(self) -> None:
        """Raises `BrokerError` where the broker cannot be used now. It is tried once."""

    def wait(self, positions: Mapping[str, Position]) -> News:
        """Wait until there is more in a channel than its position says, or for `wake`.

        One caller at a time, which may be a greenlet. Gives what `read` would
        of the channels that have more, at most `WAITED` entries of each, and of
        those whose log is another by now or has another past (from its beginning), or
        gone. Who asks
        again with the same position is given the same again. After a `wake`, and
        for no reason at all, it may give nothing.
        """

    def wake(self) -> None:
        """Let `wait` return: now, or the next one if none is going on. Never blocks."""

    def close(self) -> None:
        """Let go of all connections. What is called afterwards opens them again."""


def check_name(name: object) -> str:
    """*name* as plain text, if a channel can have it. Raises ``TypeError`` and ``ValueError``."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a channel is a str, not {type(name).__name__}")
    # It is part of ids, and so of what is sent.
    name = plain_text(name)
    if not NAME.fullmatch(name):
        raise ValueError(
            "the name of a channel is 1 to 100 letters, digits and any of _.:/@+-,"
            f" and not {name[:120]!r}"
        )
    return name


def shortage(descriptors: int) -> str:
    """Words for an error, where this process cannot open as many *descriptors*; else ``""``.

    Libraries report a lack of descriptors as whatever they were about to do.
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
    """What ``str()`` of a position gave; None where *text* is no such thing."""
    log, _, rest = text.partition(".")
    number, dot, check = rest.partition(".")
    if not _NUMBER.fullmatch(number) or (dot and not _CHECK.fullmatch(check)):
        return None
    if not (LOG.fullmatch(log) or (log, rest) == ("", "0")):
        return None
    return Position(log, int(number), check)
