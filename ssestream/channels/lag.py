"""How far the streams of a channel are behind, for those who watch an app."""

import dataclasses

from ..brokers.broker import Position
from ..runtime.clock import clock
from .tail import Tail, Tails


@dataclasses.dataclass(frozen=True)
class Lag:
    """How far the streams of one channel are behind, in this process at one moment."""

    #: Entries that the streams which are behind have not got yet, added up over these streams.
    events: int
    #: The position of the stream that is furthest behind, and the end of the log.
    furthest: Position
    end: Position
    #: Seconds since this process has heard of the first entry which that stream has not got. Less
    #: than that if the tail no longer keeps the entry.
    seconds: float


def lags_of(tails: Tails) -> dict[str, Lag]:
    """How far the streams of each channel of *tails* are behind, where a stream is."""
    lags = {}
    for tail in tails.all():
        # Take the lock for each channel, and not for all of them together: a broadcast needs it.
        with tails.lock:
            lag = _lag(tail)
        if lag is not None:
            lags[tail.name] = lag
    return lags


def _lag(tail: Tail) -> Lag | None:
    end = tail.position
    if end is None or len(tail.live) == len(tail.cursors):
        return None
    behind = [
        at.number
        for cursor in tail.cursors - tail.live
        if (at := cursor.position) and at.log == end.log and at.number < end.number
    ]
    if not behind:
        return None
    furthest = min(behind)
    missing = [each.came_at for each in tail.recent if each.number > furthest]
    return Lag(
        sum(end.number - number for number in behind),
        Position(end.log, furthest),
        end,
        clock.now() - missing[0] if missing else 0.0,
    )
