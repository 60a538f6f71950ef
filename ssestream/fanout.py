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
from .sender import FLAGS, chunk_of


def hand_round(batch: Batch, cursors: Iterable[Cursor], home: Home) -> list[Cursor]:
    """Give the whole of *batch* to those it can be given at once. Returns the others.

    In the thread of *home*; it is over before anything else runs there.
    """
    before, after, frames, messages = batch
    length = len(frames)
    framed = chunk_of(frames)
    framed_length = len(framed)
    now = time.monotonic()
    others: list[Cursor] = []
    wakes: list[Callable[[None], object]] = []
    for cursor in cursors:
        at = cursor.position
        buffer = cursor.stream._straight if cursor.simple else None
        if buffer is None or (at is not before and at != before):
            others.append(cursor)
            continue
        sender = buffer.direct
        if sender is not None and buffer.asleep is not None and sender.home is home:
            # Not taken from who sleeps: nothing else is sent before this returns.
            try:
                sent = sender.send(framed, FLAGS)
            except BlockingIOError:
                sent = 0
            except OSError:
                sent = -1
            buffer.written_at = now
            if sent == framed_length:
                buffer.messages_left += messages
                buffer.bytes_left += length
            else:
                sender.keep(framed, sent, length, messages)
        else:
            bell = buffer.put_for_sleeper(frames, messages, now)
            if bell is None:
                others.append(cursor)
                continue
            if bell.home is home:
                wakes.append(bell.wake)
            else:
                bell.ring()
        cursor.position = after
        cursor.delivered += messages
    home.in_turn(wakes)
    return others
