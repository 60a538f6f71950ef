"""How channels, positions and bounds are written in Redis."""

from ..broker import Bounds, Position


def key_of(channel: str) -> str:
    # A cluster hashes only the part in braces, so all keys of a channel are on one node.
    return f"ssestream:{{{channel}}}"


def bounds_key_of(channel: str) -> str:
    return f"{key_of(channel)}:bounds"


def written_bounds(bounds: Bounds) -> list[int | str]:
    """*bounds* for the scripts: ``""`` for None, and the age in microseconds."""
    history, age = bounds
    return ["" if history is None else history, "" if age is None else int(age * 1e6)]


def bounds_of(history: bytes | None, age: bytes | None) -> Bounds:
    return Bounds(int(history) if history else None, int(age) / 1e6 if age else None)


def channel_of(key: bytes) -> str:
    return key.decode()[len("ssestream:{") : -1]


def entry_id(position: Position, further: int = 0) -> str:
    # The identity of a log in Redis is a number. Any other position, in an empty channel or in
    # the log of another broker, is before the first entry.
    return f"{position.log}-{position.number + further}" if position.log.isdecimal() else "0-0"
