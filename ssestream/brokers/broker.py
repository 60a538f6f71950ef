"""What a broker is: an append-only log for each channel, and a way to wait for more.

Live delivery, replay, lag and recovery are all "read after this position". A
log numbers its entries from 1 on, without a hole. It forgets its oldest entries,
by count and by age, and never a number: `Slice.first` says where it begins now,
so that whoever asks for what is no longer there can tell.

Each log has an identity, made when the first entry comes. A position in one log
means nothing in another, such as the one that a restarted process or an emptied
database begins for the same channel.

What is kept is the frame of a message without its id, as the id depends on who
reads. A frame that begins with NUL is no message but says something to those
who read (see ``channels``).
"""

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from ..errors import BrokerError
from ..plain import plain_text

__all__ = [
    "Broker",
    "BrokerError",
    "Busy",
    "Entry",
    "Position",
    "Slice",
    "check_name",
    "parse_position",
    "shortage",
]

#: Characters of a channel's name: letters, digits and what joins them. It is part
#: of ids, of keys in Redis, and of what operators type.
NAME = re.compile(r"[A-Za-z0-9_.:/@+-]{1,100}")

#: An identity on the wire, as brokers make them.
LOG = re.compile(r"[A-Za-z0-9]{1,32}")

#: Entries of one channel, and their bytes, that one `Broker.wait` gives at most.
WAITED, WAITED_BYTES = 256, 1024 * 1024

#: Digits of a number at most: enough for ever, and an int in every database.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


class Position(NamedTuple):
    """Behind the entry *number* of the log with the identity *log*.

    Number 0 is before the first. The log ``""`` is that of a channel in which
    nothing was ever published, and its only position is 0.
    """

    log: str
    number: int

    def __str__(self) -> str:
        return f"{self.log}.{self.number}"


class Entry(NamedTuple):
    number: int
    frame: bytes


class Slice(NamedTuple):
    """A part of a log, and where the log stood when it was read."""

    log: str
    #: The number of the oldest entry that is kept; *last* + 1 where none is.
    first: int
    #: The number of the newest that ever was; 0 where none was.
    last: int
    #: Oldest first, without a hole.
    entries: list[Entry]


class Busy(BrokerError):
    """This process asks for more at once than its broker takes. The broker is not down."""


class Broker(Protocol):
    """One log for each channel. Every method may be called from any thread.

    Making one connects to nothing. Each method raises `BrokerError`, within
    the time that the broker states, when it could not be done; names are
    valid, and frames are bytes of any length.
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

    def wait(self, positions: Mapping[str, Position]) -> dict[str, Slice]:
        """Wait until there is more in a channel than its position says, or for `wake`.

        One caller at a time, which may be a greenlet. Gives what `read` would
        of the channels that have more, at most `WAITED` entries of each, and of
        those whose log is another by now (from its beginning), or gone. Who asks
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
    log, _, number = text.partition(".")
    if not _NUMBER.fullmatch(number) or not (LOG.fullmatch(log) or (log, number) == ("", "0")):
        return None
    return Position(log, int(number))
