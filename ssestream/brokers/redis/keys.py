"""How channels, positions, bounds, terms and slices are written in Redis."""

import os

from ..broker import PLAIN, Bounds, Entry, Position, Slice, Terms

_PREFIX = "ssestream:{"


def key_of(channel: str) -> str:
    # A cluster hashes only the part in braces, so all keys of a channel are on one node.
    return f"{_PREFIX}{channel}}}"


def bounds_key_of(channel: str) -> str:
    return f"{key_of(channel)}:bounds"


def followers_of(channel: str, db: int) -> str:
    """The Pub/Sub channel on which the log of *channel* in the database *db* is announced.

    Pub/Sub knows no databases. In a cluster, this channel is on the node of the keys.
    """
    return f"{key_of(channel)}@{db}"


def followed_in(followers: bytes) -> str:
    """The channel whose log is announced on *followers*."""
    return followers[len(_PREFIX) : followers.rindex(b"}")].decode()


def written_bounds(bounds: Bounds) -> list[int | str]:
    """*bounds* for the scripts: ``""`` for None, and the age in microseconds."""
    history, age = bounds
    return ["" if history is None else history, written_time(age)]


def written_terms(terms: Terms) -> list[bytes | int | str]:
    """*terms*, except for their bounds, for ``append.lua``. Most terms need no words."""
    if terms is PLAIN:
        return []
    return [
        int(terms.new),
        "" if terms.of is None else terms.of.log,
        written_time(terms.lease),
        written_time(terms.ttl),
        terms.end_frame,
        os.urandom(8) if terms.end else b"",
        int(terms.if_lapsed),
        "" if terms.number is None else terms.number,
    ]


def written_time(seconds: float | None) -> int | str:
    """*seconds* for the scripts: in microseconds, ``""`` for None."""
    return "" if seconds is None else int(seconds * 1e6)


def bounds_of(history: bytes | None, age: bytes | None) -> Bounds:
    return Bounds(int(history) if history else None, int(age) / 1e6 if age else None)


def slice_of(
    log: bytes,
    first: int,
    last: int,
    flat: list[bytes],
    check: bytes,
    last_check: bytes,
    history: bytes,
    age: bytes,
    ended: int,
    lease: bytes,
) -> Slice:
    """The slice of a log, from what ``read.lua`` returns for it."""
    entries = [
        Entry(int(entry.partition(b"-")[2]), frame, own.decode())
        for entry, frame, own in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    ]
    return Slice(
        log.decode(),
        first,
        last,
        entries,
        check.decode(),
        last_check.decode(),
        bounds_of(history, age),
        ended=ended,
        lease=int(lease) / 1e6 if lease else None,
    )


def entry_id(position: Position, further: int = 0) -> str:
    # The identity of a log in Redis is a number. Any other position, in an empty channel or in
    # the log of another broker, is before the first entry.
    return f"{position.log}-{position.number + further}" if position.log.isdecimal() else "0-0"
