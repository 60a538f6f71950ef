"""Give one batch of events to many streams, as fast as possible.

An event reaches a socket by the first of these ways that works:

==  ======================================  ==================================================
no  way                                     when
==  ======================================  ==================================================
1   one ``send`` for each member of a       a broadcast under ``SseWorker``, to streams that
    cohort: `Together.send`                 were sent the same last batch and nothing else
                                            since
2   one ``send`` to the stream's own        a broadcast under ``SseWorker``, to any other
    socket: `Direct.send_batch`. The        stream that keeps up. Nothing waits for it
    stream then joins a cohort
3   to the reader that sleeps:              a broadcast on any other server, to a stream that
    `OutputBuffer.hand_to_reader`           keeps up. Nothing waits for it
4   past the stream's queue, into the       a ``write()``, or an event of a channel, if the
    buffer: `OutputBuffer.put_if_clear`     stream has one pipe, which leads to a response,
                                            and nothing waits in the stream
5   through the stream's queue and the      always
    buffer: `SseStream.write`
==  ======================================  ==================================================

The speed of a broadcast depends on this module. Most streams follow one channel, have got all
earlier events, and have nothing waiting. For such streams, all common work is done only once. A
stream with a filter, with several channels, or behind goes through `Subscription.deliver`, and so
by way 4 or 5.

The senders of ``SseWorker`` and their cohorts are known here by `Direct` and `Together` alone. On
other servers there are none of them.
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
TURN = 256


class Direct(Wakeable):
    """A reader that can send a batch to its socket itself, past its buffer."""

    __slots__ = ()

    def send_batch(self, batch: Batch, cursor: Cursor, now: float) -> None:
        """Send *batch* to the stream of *cursor*, and move *cursor*.

        Called in the loop of this reader, while the reader sleeps.
        """
        raise NotImplementedError


class Together(Place):
    """The place of cursors that are sent to together. False if no cursor is left there."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise NotImplementedError

    def send(self, batch: Batch, loop: Loop, now: float) -> int:
        """Send *batch* to all streams here, and move all cursors. Returns the number of streams.

        Called in the thread of *loop*. If the streams cannot be sent *batch* together, because
        they run in another loop or stand elsewhere, they all leave.
        """
        raise NotImplementedError


def broadcast_to_cohorts(tail: Tail, batch: Batch, loop: Loop) -> Iterable[None]:
    """Send *batch* to the cohorts of *tail*. Called in the thread of *loop*.

    Yields before each cohort, so that the caller can let other greenlets run.
    """
    for cohort in tail.living_cohorts():
        yield
        tail.count_together(cohort.send(batch, loop, clock.now()) * batch.messages)


def broadcast(tail: Tail, batch: Batch, cursors: Iterable[Cursor], loop: Loop) -> list[Cursor]:
    """Give *batch* to each of *cursors* that can take all of it at once. Returns the others.

    Called in the thread of *loop*. No other greenlet of *loop* runs before this returns.
    """
    before, place, frames, messages = batch.before, batch.place, batch.frames, batch.messages
    now = clock.now()
    others: list[Cursor] = []
    wakes: list[Callable[[None], object]] = []
    for cursor in cursors:
        buffer = cursor.stream._output if cursor.simple else None
        # Ask the buffer for the cohort, too: it may be a cohort of another channel.
        if buffer is None or buffer.account is not ALONE or cursor.place.position != before:
            others.append(cursor)
            continue
        reader = buffer.waiting_reader
        if isinstance(reader, Direct) and reader.loop is loop:
            # The reader stays marked as asleep, because nothing else is sent before this returns.
            reader.send_batch(batch, cursor, now)
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
    loop.call_each(wakes)
    return others
