"""Give one batch of events to many streams, as fast as possible.

An event reaches a socket by the first of these ways that works:

==  ======================================  ==================================================
no  way                                     when
==  ======================================  ==================================================
1   one ``send`` for each member of a       a broadcast under ``SseWorker``, to streams that
    cohort: `SharedPlace.send`              were sent the same last batch and nothing else
                                            since
2   one ``send`` to the stream's own        a broadcast under ``SseWorker``, to another
    socket: `DirectReader.send_batch`. The  *simple* stream whose body is in chunks without
    stream then joins a cohort              compression. Nothing waits for it
3   to the reader that sleeps:              a broadcast to any other *simple* stream: on
    `OutputBuffer.hand_to_reader`           gevent's servers, or compressed or over HTTP/1.0
                                            under ``SseWorker``. Nothing waits for it
4   past the stream's queue, into the       any other event of a channel, and a ``write()`` or
    buffer: `OutputBuffer.put_if_clear`     ``push()`` without a callback, if the stream has
                                            one pipe, which leads to a response, and nothing
                                            waits in the stream
5   through the stream's queue, and from    always
    there to each destination: `Pipe.send`
==  ======================================  ==================================================

Several events that a stream is given one after another, and not as a batch, take way 5 together:
`Flow.hand_on_together`. One by one, most of them would have to wait and would take it singly.

A stream is *simple* if it follows one channel without a filter, in a greenlet, with the
library's own ``push()`` (see `Cursor.simple`). All streams of threaded servers, and the streams
that are not simple, go through `Subscription.deliver_now` and `Subscription.deliver`, and so by
way 4 or 5. A stream that has missed entries, or has no room, does so too.

The speed of a broadcast depends on this module. Most streams are simple, have got all earlier
events, and have nothing waiting. For such streams, all common work is done only once.

Only ``SseWorker`` has readers of the class `DirectReader`, and cohorts, which are places of the
class `SharedPlace`. This module knows no more of the worker than these two.
"""

from collections.abc import Callable, Iterable

from ..http.account import ALONE
from ..runtime.clock import clock
from ..runtime.loop import Loop
from ..runtime.waker import Wakeable
from .cursor import Cursor
from .place import Place
from .publication import Batch
from .tail import Tail

#: Streams that get a batch before other greenlets have a turn.
STREAMS_AT_ONCE = 256


class DirectReader(Wakeable):
    """A reader that can send a batch to its socket itself, past its buffer."""

    __slots__ = ()

    def send_batch(self, batch: Batch, cursor: Cursor, now: float) -> None:
        """Send *batch* to the stream of *cursor*, and move *cursor*.

        Called in the loop of this reader, while the reader sleeps.
        """
        raise NotImplementedError


class SharedPlace(Place):
    """The place of a group of cursors that are sent to together. False without a cursor."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise NotImplementedError

    def send(self, batch: Batch, loop: Loop, now: float) -> int:
        """Send *batch* to all streams here, and move all cursors. Returns the number of streams.

        Called in the thread of *loop*. If the streams cannot be sent *batch* together, because
        they run in another loop or stand elsewhere, they all leave.
        """
        raise NotImplementedError


def broadcast_together(tail: Tail, batch: Batch, loop: Loop) -> Iterable[None]:
    """Send *batch* to the groups of *tail*. Called in the thread of *loop*.

    Yields before each group, so that the caller can let other greenlets run.
    """
    for group in tail.living_groups():
        yield
        tail.count_together(group.send(batch, loop, clock.now()) * batch.messages)


def broadcast(tail: Tail, batch: Batch, cursors: Iterable[Cursor], loop: Loop) -> list[Cursor]:
    """Give *batch* to each of *cursors* that can take all of it at once. Returns the others.

    Called in the thread of *loop*. No other greenlet of *loop* runs before this returns.
    """
    before, place, frames, messages = batch.before, batch.place, batch.frames, batch.messages
    now = clock.now()
    others: list[Cursor] = []
    changed: list[Cursor] = []
    wakes: list[Callable[[None], object]] = []
    for cursor in cursors:
        buffer = cursor.flow.output if cursor.simple else None
        # Ask the buffer, too: its stream may be in a group of another channel.
        if buffer is None or buffer.account is not ALONE or cursor.place.position != before:
            others.append(cursor)
            continue
        reader = buffer.waiting_reader
        if isinstance(reader, DirectReader) and reader.loop is loop:
            # The reader stays marked as asleep, because nothing else is sent before this returns.
            reader.send_batch(batch, cursor, now)
            if not cursor.simple:
                changed.append(cursor)
            continue
        waker = buffer.hand_to_reader(frames, messages, now)
        if waker is None:
            if not buffer.put_if_clear(frames, messages):
                others.append(cursor)
                continue
        elif waker.loop is loop:
            wakes.append(waker.wake_now)
        else:
            waker.wake()
        # As `Cursor.advance` does. A call would take longer than both lines.
        cursor.place = place
        cursor.delivered += messages
        if not cursor.simple:
            changed.append(cursor)
    loop.call_each(wakes)
    # Another thread has let these streams follow one more channel meanwhile. The ids of *batch*
    # lack this channel, and an id that was sent since may lack *batch*.
    for cursor in changed:
        cursor.subscription.send_id()
    return others
