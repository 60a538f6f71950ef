"""One batch of events handed to many streams, which is what a broadcast costs.

Most streams, at most times, read one channel, have been given all there was, and
have nothing waiting. For them nothing is decided, made or counted that could be
for all of them together: they share the frames, the position, the time and one
callback that lets their readers go on. Whoever is not so simple is left to
`feeds.Subscription.give`.
"""

import time
from collections.abc import Callable, Iterable

from .feeds import Batch, Cursor
from .hub import Home


def hand_round(batch: Batch, cursors: Iterable[Cursor], home: Home) -> list[Cursor]:
    """Give the whole of *batch* to those it can be given at once. Returns the others.

    In the thread of *home*; it is over before anything else runs there.
    """
    before, after, frames, messages = batch
    now = time.monotonic()
    others: list[Cursor] = []
    wakes: list[Callable[[None], object]] = []
    for cursor in cursors:
        at = cursor.position
        if cursor.simple and (at is before or at == before):
            buffer = cursor.stream._straight
            if buffer is not None:
                bell = buffer.put_for_sleeper(frames, messages, now)
                if bell is not None:
                    cursor.position = after
                    cursor.delivered += messages
                    if bell.home is home:
                        wakes.append(bell.wake)
                    else:
                        bell.ring()
                    continue
        others.append(cursor)
    home.in_turn(wakes)
    return others
