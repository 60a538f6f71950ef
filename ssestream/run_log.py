"""The log of one run: how it begins, what its state is, and how it ends exactly once.

A run is a channel. Its first entry is a control frame, so that the run exists before its first
message. Its last entry is the control frame that ends the log, with the status of the run.
"""

import hashlib
from typing import Literal, NamedTuple

from .brokers.broker import (
    CONTROL,
    Bounds,
    Broker,
    ChannelEnded,
    Position,
    Refused,
    Terms,
    check_name,
)
from .channels.last_message import Status

#: What the names of the channels of runs begin with.
PREFIX = "run:"

#: The most characters of the id of a run.
LONGEST_ID = 80

#: The first entry of a run. The name of what happens without watchers and a digest of the key
#: follow, each after a space.
BEGIN = CONTROL + b"run"

#: Seconds after which a producer that has not said that it goes on counts as dead.
LEASE = 3.0

#: The most bytes of an entry that has a status.
_SMALL = 1000

OnDisconnect = Literal["continue", "cancel"]


class State(NamedTuple):
    """The state of a run at one moment."""

    #: The position of its first entry, by which its log is known.
    begin: Position
    #: The number of its newest entry.
    last: int
    status: Status
    #: Whether its producer counts as dead, and nobody has ended the run.
    is_lapsed: bool
    on_disconnect: OnDisconnect
    #: A digest of the key that it was started with; ``""`` without a key.
    key: str


class RunLog:
    """The log of the run *id* in *broker*. Raises as `check_id` for an *id*."""

    def __init__(self, broker: Broker, id: str) -> None:
        self.id = check_id(id)
        self.broker = broker
        self.name = PREFIX + self.id

    def begin(self, on_disconnect: OnDisconnect, key: str, bounds: Bounds, ttl: float) -> Position:
        """Begin the run. Returns its first position. Raises `Refused` if there is such a run."""
        frame = b" ".join((BEGIN, on_disconnect.encode(), key.encode()))
        terms = Terms(bounds=bounds, ttl=ttl, new=True, lease=LEASE)
        return self.broker.append(self.name, frame, terms)

    def append(self, begin: Position, frame: bytes, number: int, bounds: Bounds) -> Position:
        """Append *frame* as entry *number* of the run that began at *begin*. Renews the lease.

        Raises `ChannelEnded` if the run has ended, and `Refused` if another entry has the number.
        """
        terms = Terms(bounds=bounds, of=begin, number=number, lease=LEASE)
        return self.broker.append(self.name, frame, terms)

    def state(self) -> State | None:
        """The state of the run; None if there is none."""
        piece = self.broker.read(self.name, 0, 1, 1)
        if not piece.entries or not piece.entries[0].frame.startswith(BEGIN):
            return None
        number, frame, check = piece.entries[0]
        _, on_disconnect, key = frame.decode().split(" ", 2)
        status: Status = "running"
        if piece.ended:
            end = self.broker.read(self.name, piece.ended - 1, 1, _SMALL)
            if end.log != piece.log or not end.entries:
                return None  # the run has expired since the first read
            status = end.entries[0].frame.decode().rpartition(" ")[2]  # type: ignore[assignment]
        return State(
            Position(piece.log, number, check),
            piece.last,
            status,
            piece.lease is not None and piece.lease <= 0,
            "cancel" if on_disconnect == "cancel" else "continue",
            key,
        )

    def end(self, begin: Position, status: Status, frame: bytes | None) -> bool:
        """End the run that began at *begin*, with the message *frame*, if nobody has ended it.

        Returns whether this call has ended it.
        """
        terms = Terms(of=begin, end=True, reason=status)
        try:
            self.broker.append(self.name, terms.end_frame if frame is None else frame, terms)
        except (ChannelEnded, Refused):
            return False
        return True


def check_id(id: object) -> str:
    """The *id* of a run as plain text. Raises ``TypeError`` or ``ValueError`` if it is none."""
    if not isinstance(id, str):
        raise TypeError(f"id is a str, not {type(id).__name__}")
    if not 1 <= len(id) <= LONGEST_ID:
        raise ValueError(f"id has 1 to {LONGEST_ID} characters, and not {len(id)}")
    try:
        return check_name(PREFIX + id).removeprefix(PREFIX)
    except ValueError:
        raise ValueError(
            f"id is made of letters, digits and any of _.:/@+-, and is not {id!r}"
        ) from None


def digest_of(key_frame: bytes | None) -> str:
    """A digest of a key, from its frame (see ``channels.publication``); ``""`` without a key."""
    return "" if key_frame is None else hashlib.sha256(key_frame).hexdigest()[:32]
