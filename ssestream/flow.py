"""Flow: the state of a stream, its queue and its pipes, with the semantics of Node's streams.

* All code that changes a stream's state is in this file. It runs under one lock, and the lock
  is never held while other code (an app's, a destination's) runs.
* One thread or greenlet at a time moves frames to the destinations (`_pump`). A writer that
  finds the pump busy leaves its frame in the queue. So the frames stay in order.
* No frame leaves the queue before every destination is ready for it, so the slowest destination
  sets the pace. A destination is not ready while its ``write()`` runs. If ``write()`` returns
  False, it is not ready until its ``drain``.

The theory
----------

A stream is two halves back to back. The writable half takes messages until ``end()``. The
readable half gives the messages to the destinations until the queue is empty. Four states
matter:

=========  ====================  ==============================  ==============
state      ``write()``           the queue                       comes next
=========  ====================  ==============================  ==============
writable   queues                flows while all are ready       ended, closed
ended      raises                flows while all are ready       finished, closed
closed     False, not an error   is dropped                      (none)
finished   False, not an error   is empty and stays so           (none)
=========  ====================  ==============================  ==============

``end()`` leads from writable to ended. When the queue is then empty, the stream emits
``finish``; when it also has a destination, it emits ``end`` and ``close`` and is finished.
``destroy()`` and the client's departure lead to closed from every state. As in Node, a write
raises only between ``end()`` and ``close``: many handlers of ``close`` call ``end()``.

The client's departure closes a stream that was made with a request, because no other client can
come. A stream without a request only loses that destination. It is then idle until the next
``pipe()``, and drops every message that is written meanwhile, because perhaps no client ever
comes. But after the app's own ``unpipe()`` the stream keeps the messages for the next
``pipe()``.
"""

from typing import TYPE_CHECKING

from gevent import GreenletExit

from .errors import BufferFull, ClientDisconnected, StreamDestroyed, StreamError, WriteAfterEnd
from .http.connection import Connection
from .http.diagnosis import burst, never_piped, written_in_a_job
from .http.output import OutputBuffer
from .http.registry import registry
from .message_queue import Callback, MessageQueue
from .pipe import Destination, Pipe, Unpiped
from .runtime.callables import fitting
from .runtime.calls import CallQueue
from .runtime.clock import clock
from .runtime.emitter import Emitter
from .runtime.forking import process
from .settings import Settings


class Flow(Emitter):
    """The part of a stream that other rooms know. `SseStream` adds the methods for apps."""

    # Whether the app has unpiped the stream and not piped it again. A class attribute, because
    # most streams are never unpiped and so need no attribute of their own.
    _unpiped = False

    # Whether its request was answered by a response that it is not piped into. A class attribute,
    # because few streams are left so.
    _is_left_over = False

    def __init__(
        self,
        call_queue: CallQueue | None,
        connection: Connection | None,
        settings: Settings,
        high_water_mark: int,
    ) -> None:
        super().__init__(call_queue)
        self._connection = connection
        self._settings = settings
        # The stream keeps this lock, even when `pipe` moves it to another call queue.
        self._state_lock = self._call_queue.lock
        self._queue = MessageQueue.empty(high_water_mark, settings)
        # A tuple is never changed, only replaced, so that it can be read without the lock.
        self._pipes: tuple[Pipe, ...] = ()
        #: The response's buffer, if frames may go past the queue: there is exactly one pipe, it
        #: leads to a response, and nothing waits. `_set_pipes` and `_hold` keep this true.
        self._output: OutputBuffer | None = None
        self._pumping = False
        self._need_drain = False
        self._ended = self._finished = self._closed = False
        # Whether the last destination has gone and none was piped since. Writes are dropped.
        self._abandoned = False
        # Whether the server has ended the stream. The app cannot know this, so its later writes
        # are no error.
        self._retiring = False
        # The reason that `_close_now` was given; None before that, and after a normal end.
        self._gone: StreamError | None = None

    if TYPE_CHECKING:
        # `SseStream` has it, and a subclass in an app may override it.
        def unpipe(self, destination: Destination | None = None) -> object: ...

    def _end(self) -> None:
        """Take no more writes."""
        with self._state_lock:
            self._ended = True
            self._set_pipes(self._pipes)
        self._move_on()

    def _attach(self, pipe: Pipe) -> None:
        """Let frames flow through *pipe*. Raises `StreamDestroyed` if the stream is over."""
        with self._state_lock:
            over = self._closed
            if not over:
                self._abandoned = self._retiring = False
                if self._unpiped:
                    self._unpiped = False
                pipes = (*self._pipes, pipe)
                self._set_pipes(pipes)
        if over:
            pipe.detach(destroying=True)
            raise StreamDestroyed("this stream is over and cannot be piped")
        if not pipe.attach(pipes if len(pipes) == 1 else (pipe,)):
            self._pipe_closed(pipe)
        elif self._queue or self._ended or self._need_drain:
            self._move_on()

    def _unpipe(self, destination: Destination | None) -> None:
        """Stop the flow to *destination*; None means all destinations."""
        self._part(destination)
        with self._state_lock:
            idle = not self._pipes and not self._closed
            if idle:
                self._unpiped = True
            taken = self._queue.take_callbacks() if idle else []
        self._tell(taken, None)

    def _part(self, destination: Destination | None) -> None:
        with self._state_lock:
            all_pipes = self._pipes
            leaving = [p for p in all_pipes if destination is None or p.destination is destination]
            self._set_pipes(tuple(p for p in all_pipes if p not in leaving))
            belongs = self._connection is not None and not self._closed
        for pipe in leaving:
            pipe.detach()
            if belongs and pipe.body is not None:
                # The stream still ends when its client leaves, unless it is piped elsewhere.
                Unpiped.of(self, pipe.body)
        self._move_on()

    def _set_pipes(self, pipes: tuple[Pipe, ...]) -> None:
        """Set the pipes. Called under the lock, after any other change of state."""
        self._hold()
        self._pipes = pipes
        if len(pipes) == 1 and not (self._ended or self._closed or self._queue or self._pumping):
            self._output = pipes[0].buffer

    def _hold(self) -> None:
        """Let no frame go past the queue. Called under the lock."""
        output, self._output = self._output, None
        if output is not None:
            output.leave()

    def _write_through(self, frame: bytes, messages: int = 1) -> bool:
        """Write *frame* (*messages* messages) past the queue. False if it has to be queued."""
        buffer = self._output
        if buffer is None or (process.is_job and self._call_queue.is_lost):
            return False
        return buffer.put_if_clear(frame, messages)

    def _hand_on(self, frame: bytes) -> None:
        """Write *frame*, an event of the channels that this stream follows."""
        if not self._write_through(frame):
            self._enqueue(frame, None)

    def _write_uncounted(self, block: bytes) -> None:
        """Write *block*, which does not count as a message."""
        try:
            if not self._write_through(block, 0):
                self._enqueue(block, None)
        except StreamError:  # the app has ended the stream
            pass

    def _enqueue(self, frame: bytes, callback: Callback | None) -> bool:
        if self._is_lost():
            written_in_a_job(callback)
            return False
        if self._need_drain and self._queue.is_over(frame):
            for pipe in self._pipes:
                pipe.let_read(self._queue.full_at)
        with self._state_lock:
            over = self._closed or self._retiring
            if self._ended and not over:
                raise WriteAfterEnd("write() after end()")
            lost = over or self._abandoned
            # A writer that waits for "drain" never meets the bounds. They are for a writer that
            # goes on after write() returned False.
            told = self._need_drain
            if not lost:
                if told and self._settings.overflow == "error" and self._is_over(frame):
                    raise BufferFull(
                        f"{len(self._queue)} messages of {self._queue.bytes} bytes wait already"
                    )
                self._queue = self._queue.appendable()
                # After an unpipe() the message counts as taken. In Node it would be in the
                # buffer of the stream's readable half by now.
                taken = self._unpiped and len(self._queue) < self._queue.high_water_mark
                self._queue.append(frame, None if taken else callback)
                self._hold()
        if lost:
            late = WriteAfterEnd("write() after end()") if self._ended else self._gone
            self._tell([callback], late or disconnected())
            return False
        if taken:
            self._tell([callback], None)
        self._move_on()
        with self._state_lock:
            full = self._queue.is_full()
            fills = full and not self._need_drain
            if fills:
                self._need_drain = True
                self._queue.full_at = clock.now()
            too_many = told and self._is_over()
        if fills and self._is_left_over and not self._pipes:
            never_piped(self._connection)
        if too_many and self._settings.overflow != "error":
            self._overflow()
        return not full

    def _is_over(self, *more: bytes) -> bool:
        """Whether the queue, with *more* frames, is above its bounds. Under the lock.

        The bound in bytes always holds. The bound in messages holds only for clients that had
        time to read. If a view writes before it returns, or an app writes many messages in one
        turn of the loop, no client could read any of them yet.
        """
        queue = self._queue
        if not queue.is_over(*more):
            return False
        pipes = self._pipes
        if pipes:
            slow = any(pipe.is_slow(queue.full_at) for pipe in pipes)
        else:
            # Without pipes, a stream with a request will be piped soon. A stream without a
            # request may never be piped.
            slow = self._connection is None
        if slow or queue.is_heavy(*more):
            return True
        queue.grant(len(queue) + len(more))
        return False

    def _overflow(self) -> None:
        """Apply the policy ``overflow``: too much waits."""
        if self._settings.overflow == "drop-oldest":
            self._drop_oldest()
            return
        # Cut only the clients that hold up the others. They reconnect and resume.
        full = [pipe for pipe in self._pipes if not pipe.ready]
        slow = [pipe for pipe in full if pipe.is_slow(self._queue.full_at)]
        for pipe in slow or full:
            if pipe.body is not None:
                pipe.body.cut("overflow")
            else:
                self._emit_soon("error", BufferFull("a destination is too slow"))
                self._part(pipe.destination)
        if self._pipes:
            return
        if self._connection is not None:
            if not (full or self._closed or self._is_left_over):  # it was not piped yet
                burst(None)
            self._close_now(None, BufferFull("more waited than is allowed"), cut=False)
        else:
            # There is no client to cut, and one may still come.
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with self._state_lock:
            dropped = self._queue.trim()
        registry.count("dropped", len(dropped))
        self._tell(dropped, BufferFull("dropped, as newer messages came"))

    def _move_on(self) -> None:
        """Move frames on: in this thread, or in another one if a destination may block."""
        if all(pipe.body is not None for pipe in self._pipes):
            self._pump()
        else:
            self._call_queue.loop.spawn(self._pump)

    def _pump(self) -> None:
        while True:
            with self._state_lock:
                # Under the lock: a writer that finds the pump busy leaves its frame, and
                # relies on the pump's next look at the queue.
                if self._pumping:
                    return
                pipes = self._pipes
                ready = bool(pipes) and all(pipe.ready for pipe in pipes)
                if not (ready and self._queue):
                    break
                self._pumping = True
                frame, callback = self._queue.popleft()
            killed: GreenletExit | None = None
            try:
                for pipe in pipes:
                    killed = self._give(pipe, frame) or killed
                self._tell([callback], None)
            finally:
                self._pumping = False
            if killed is not None:
                self._call_queue.loop.spawn(self._pump)
                raise killed
        self._settle()

    def _give(self, pipe: Pipe, frame: bytes) -> GreenletExit | None:
        """Send *frame* through *pipe*. Returns the `GreenletExit` if this greenlet was killed."""
        try:
            pipe.send(frame)
        except BaseException as error:  # a gevent.Timeout is no Exception
            # As in Node: unpipe the destination that fails, and keep the others.
            self._emit_soon("error", error)
            if pipe.never_blocks:  # a response: the app has ended it
                self._pipe_closed(pipe)
            else:
                self.unpipe(pipe.destination)
            return error if isinstance(error, GreenletExit) else None
        return None

    def _settle(self) -> None:
        """Emit the events that an empty queue causes: ``drain``, ``finish``, ``end``, ``close``."""
        ended = False
        with self._state_lock:
            if self._queue or self._closed or self._pumping:
                return
            drained, self._need_drain = self._need_drain, False
            finished = self._ended and not self._finished
            self._finished = self._finished or finished
            pipes = self._pipes
            if self._finished and pipes and all(pipe.ready for pipe in pipes):
                ended = self._closed = True
                self._pipes = ()
            self._set_pipes(self._pipes)
        if drained and not self._ended:
            self._emit_soon("drain")
        if finished:
            self._emit_soon("finish")
        if ended:
            self._emit_soon("end")
            for pipe in pipes:
                pipe.detach(ending=True)
            self._emit_soon("close")

    def _pipe_closed(self, pipe: Pipe) -> None:
        """Drop *pipe*, because its destination has closed."""
        with self._state_lock:
            if pipe not in self._pipes:
                return
            self._set_pipes(tuple(other for other in self._pipes if other is not pipe))
            last = not self._pipes
        pipe.detach()
        if not last:
            self._move_on()
        elif self._connection is not None:
            self._close_now(None, disconnected(), cut=False)
        else:
            with self._state_lock:
                self._abandoned = not self._pipes
                owed = self._need_drain
            self._drop(disconnected())
            if owed:
                self._emit_soon("drain")

    def _unpiped_closed(self) -> None:
        """Close the stream if it was not piped again: its client has left after an unpipe."""
        if not self._pipes:
            self._close_now(None, disconnected(), cut=False)

    def _pipe_retired(self, pipe: Pipe, dropping: bool) -> list[bytes]:
        """Drop *pipe*, because its response ends. Returns the frames that it still has to send.

        The list is empty if other destinations remain: the frames then wait for these.
        If *dropping*, the callbacks of the frames get an error, as the frames are not sent.
        """
        with self._state_lock:
            if pipe not in self._pipes:
                return []
            self._set_pipes(tuple(other for other in self._pipes if other is not pipe))
            last = not self._pipes
            if last:
                self._retiring = True
                entries = self._queue.clear()
                self._abandoned = True
        pipe.detach()
        if not last:
            self._move_on()
            return []
        dropped = StreamDestroyed("the stream was refused") if dropping else None
        self._tell([callback for _, callback in entries], dropped)
        if self._connection is not None:
            self._close_now(None, ClientDisconnected("the server ended the stream"), cut=False)
        return [frame for frame, _ in entries]

    def _has_room(self) -> bool:
        """Whether at least half of the bounds is free. If not, ``drain`` will come.

        A subscription that reads from a log then stops, and reads on later.
        """
        with self._state_lock:
            room = self._queue.has_room()
            self._need_drain = self._need_drain or not room
            return room

    def _waiting_bytes(self) -> int:
        """Bytes that wait in the queue."""
        return self._queue.bytes

    def _close_now(self, error: BaseException | None, reason: StreamError, cut: bool) -> None:
        """Drop the queue and emit ``close``, after ``error`` if there is an *error*.

        *reason* is for late writers. With *cut*, the destinations are destroyed.
        """
        if self._is_lost():
            return
        with self._state_lock:
            if self._closed:
                return
            self._closed = True
            self._gone = reason
            pipes = self._pipes
            self._set_pipes(())
        self._drop(error or reason)
        if error is not None:
            self._emit_soon("error", error)
        for pipe in pipes:
            pipe.detach(destroying=cut)
        self._emit_soon("close")

    def _drop(self, reason: BaseException) -> None:
        with self._state_lock:
            dropped = self._queue.clear()
            self._need_drain = False
        self._tell([callback for _, callback in dropped], reason)

    def _tell(self, callbacks: list[Callback | None], error: BaseException | None) -> None:
        for callback in callbacks:
            if callback is not None:
                self._call_queue.call_soon(callback, *fitting(callback, (error,)))


def disconnected() -> ClientDisconnected:
    return ClientDisconnected("the client has left")
