"""Lags: for how many seconds streams have been behind their channels.

An entry of a log has no time. A process knows when it has heard of each of the last entries of a
channel (see ``channels.tail``). For a stream that is further behind, this room remembers where the
end of the log was at earlier readings.
"""

from collections.abc import Mapping

from ..channels.lag import Lag
from ..runtime.clock import clock

#: The most ends of a log that are remembered. With more, each second one is forgotten.
REMEMBERED = 64


class Lags:
    """The ends of the logs in which streams are behind, at the last readings."""

    def __init__(self) -> None:
        # By the name of the channel: the identity of its log, and times with numbers of entries.
        self._ends: dict[str, tuple[str, list[tuple[float, int]]]] = {}

    def seconds(self, lags: Mapping[str, Lag]) -> dict[str, float]:
        """Since how many seconds, at least, the first missing entry of each channel is there.

        Call it with all channels in which streams are behind now: the others are forgotten.
        """
        now = clock.now()
        kept: dict[str, tuple[str, list[tuple[float, int]]]] = {}
        found = {}
        for name, lag in lags.items():
            log, ends = self._ends.get(name, ("", []))
            if log != lag.end.log:
                ends = []
            # The first of them was read when the log had the missing entry already.
            ends = [(at, number) for at, number in ends if number > lag.furthest.number]
            ends.append((now, lag.end.number))
            found[name] = max(now - ends[0][0], lag.seconds)
            kept[name] = lag.end.log, ends if len(ends) <= REMEMBERED else ends[::2]
        self._ends = kept
        return found
