"""Carried positions: those of the client's id in channels that its stream does not follow, yet.

A view may follow its channels by several calls, and its client may leave in between. An id of the
channels of the first call alone would take the client's positions in the other channels from it,
and with them the events there. So all ids of the stream carry these positions until the view has
had the time to follow the channels. Then they are dropped: a view may have changed since the last
visit, and an id that names channels which nobody follows makes a stream slower.
"""

from collections.abc import Collection, Mapping

from ..brokers.broker import Position
from .ids import fits

#: Seconds for which ids carry positions in channels that the stream does not follow. Also the
#: seconds for which such a stream stays open after the end of all channels that it follows.
CARRIED = 10.0

Positions = Mapping[str, Position]

NOTHING: Positions = {}


def rest_of(positions: Positions, names: Collection[str]) -> Positions:
    """The *positions* in other channels than *names*; none if an id has no room for all."""
    if not positions:  # as of most streams
        return NOTHING
    rest = {name: at for name, at in positions.items() if name not in names}
    return rest if rest and fits({*rest, *names}) else NOTHING
