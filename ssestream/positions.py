"""Event ids of channels: where a client stands in each of those that it reads.

``news=4c1b9a20.17.5d0e3a,sports=4c1b9a20.3.9f01c2``: for each channel the identity of
its log, the number of the last event, and the check of that event. A browser sends the
id back as ``Last-Event-ID``, whichever of the channels its last event was of.

An id needs no quoting in a query, where a ``+`` is read as a space: no name has a
space, so a space is a ``+``.
"""

from collections.abc import Collection, Mapping

from .brokers.broker import CHECK_LENGTH, NAME, Position, parse_position
from .request import MAX_LAST_EVENT_ID

#: Characters that one channel may take beside its name.
_LONGEST = len("=") + 32 + len(".") + 18 + len(".") + CHECK_LENGTH + len(",")


def format_id(positions: Mapping[str, Position]) -> str:
    return ",".join(f"{name}={position}" for name, position in positions.items())


def parse_id(text: str) -> dict[str, Position] | None:
    """What `format_id` was given; None where *text* is nothing that it makes."""
    if len(text) > MAX_LAST_EVENT_ID:
        return None
    positions = {}
    for part in text.split(","):
        name, _, rest = part.replace(" ", "+").partition("=")
        position = parse_position(rest)
        if position is None or name in positions or not NAME.fullmatch(name):
            return None
        positions[name] = position
    return positions


def check_fits(names: Collection[str]) -> None:
    """Raises ``ValueError`` where the id of all these could be longer than a request's."""
    if sum(len(name) + _LONGEST for name in names) > MAX_LAST_EVENT_ID:
        raise ValueError(
            f"{len(names)} channels are too many for one stream: an event's id holds a"
            f" position in each, and has {MAX_LAST_EVENT_ID} characters at most"
        )
