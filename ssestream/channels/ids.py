"""Format and parse the event ids of channels, which hold a client's position in each channel.

An example is ``news=4c1b9a20.17.5d0e3a,sports=4c1b9a20.3.9f01c2``. For each channel, the id
holds the identity of the log, the number of the last event, and the check of that event. A
browser sends the id of its last event back as ``Last-Event-ID``. Each id has the positions of
all channels, so it does not matter from which channel the last event came.

An id needs no quoting in a query. A query turns ``+`` into a space, and `parse_id` turns a
space back into ``+``, because no name of a channel has a space.

A library may send the id twice: as the page has set it, and as the library knows it now. ``fetch``
and servers join two headers to one, as in ``news=4c1b9a20.3.9f01c2, news=4c1b9a20.17.5d0e3a``.
"""

import re
from collections.abc import Collection, Mapping

from ..brokers.broker import CHECK_LENGTH, NAME, Position, parse_position
from ..http.request import MAX_LAST_EVENT_ID

#: A position in no log, for a stream that came with an id of another kind. Event ids may have
#: this position too. So a client that leaves before its ``"gap"`` gets a gap when it comes back.
UNKNOWN = Position("nowhere", 0)

#: The most characters that one channel takes in an id, besides its name.
_LONGEST = len("=") + 32 + len(".") + 18 + len(".") + CHECK_LENGTH + len(",")


def id_of(name: str, position: Position) -> str:
    """The id of the event before *position*, for a stream that follows only the channel *name*."""
    return f"{name}={position}"


def format_id(positions: Mapping[str, Position]) -> str:
    return ",".join(f"{name}={position}" for name, position in positions.items())


def parse_id(text: str) -> dict[str, Position] | None:
    """The positions in the id *text*; None if `format_id` cannot have made *text*.

    *text* may be several ids that were joined. The last position in a channel counts.
    """
    if len(text) > MAX_LAST_EVENT_ID:
        return None
    positions = {}
    # The first of two headers may be empty.
    for number, part in enumerate(re.sub("^, ?", "", text).split(",")):
        name, _, rest = part.replace(" ", "+").partition("=")
        position = parse_position(rest)
        if position is None or not NAME.fullmatch(name):
            return None
        positions[name] = position
        if number and part.startswith(" "):
            # The space was no "+", if it is the space between two headers.
            positions[name[1:]] = position
    return positions


def fits(names: Collection[str]) -> bool:
    """Whether an id for the channels *names* can never exceed `MAX_LAST_EVENT_ID`."""
    return sum(len(name) + _LONGEST for name in names) <= MAX_LAST_EVENT_ID


def check_fits(names: Collection[str]) -> None:
    """Raise ``ValueError`` if an id for the channels *names* could exceed `MAX_LAST_EVENT_ID`."""
    if not fits(names):
        raise ValueError(
            f"{len(names)} channels are too many for one stream: the id of an event holds a"
            f" position in each channel, and has at most {MAX_LAST_EVENT_ID} characters"
        )
