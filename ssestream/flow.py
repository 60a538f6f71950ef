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

from gevent import GreenletExit

from .errors import BufferFull, ClientDisconnected, StreamDestroyed, StreamError, WriteAfterEnd
from .http.diagnosis import burst, never_piped, written_in_a_job
from .http.registry import registry
from .message_queue import Callback
from .pipe import Destination, Pipe, Unpiped
from .runtime.callables import fitting
from .runtime.calls import CallQueue
from .runtime.clock import clock
from .runtime.emitter import emit_soon
from .runtime.forking import process
from .stream_state import StreamState


class Flow(StreamState):
    """All that happens to one stream. The other rooms talk to it; an app never sees it."""

    __slots__ = ()

    def end(self) -> None:
        """Take no more writes."""
        with self.lock:
            self.ended = True
            self.set_pipes(self.pipes)
        self.move_on()

    def attach(self, pipe: Pipe) -> None:
        """Let frames flow through *pipe*. Raises `StreamDestroyed` if the stream is over."""
        with self.lock:
            over = self.closed
            if not over:
                self.idle = ""
                pipes = (*self.pipes, pipe)
                self.set_pipes(pipes)
        if over:
            pipe.detach(destroying=True)
            raise StreamDestroyed("this stream is over and cannot be piped")
        if not pipe.attach(pipes if len(pipes) == 1 else (pipe,)):
            self.pipe_closed(pipe)
        elif self.queue or self.ended or self.need_drain:
            self.move_on()

    def unpipe(self, destination: Destination | None) -> None:
        """Stop the flow to *destination*; None means all destinations."""
        self._remove_pipes(destination)
        with self.lock:
            has_none = not self.pipes and not self.closed
            if has_none and not self.abandoned:
                self.idle = "unpiped"
            taken = self.queue.take_callbacks() if has_none else []
        self._call_back(taken, None)

    def _remove_pipes(self, destination: Destination | None) -> None:
        with self.lock:
            all_pipes = self.pipes
            leaving = [p for p in all_pipes if destination is None or p.destination is destination]
            self.set_pipes(tuple(p for p in all_pipes if p not in leaving))
            belongs = self.connection is not None and not self.closed
        for pipe in leaving:
            pipe.detach()
            if belongs and pipe.body is not None:
                # The stream still ends when its client leaves, unless it is piped elsewhere.
                Unpiped.of(self, pipe.body)
        self.move_on()

    def set_pipes(self, pipes: tuple[Pipe, ...]) -> None:
        """Set the pipes. Called under the lock, after any other change of state."""
        self.hold()
        self.pipes = pipes
        if len(pipes) == 1 and not (self.ended or self.closed or self.queue or self._pumping):
            self.output = pipes[0].buffer

    def hold(self) -> None:
        """Let no frame go past the queue. Called under the lock."""
        output, self.output = self.output, None
        if output is not None:
            output.leave()

    def write_through(self, frame: bytes, messages: int = 1) -> bool:
        """Write *frame* (*messages* messages) past the queue. False if it has to be queued."""
        buffer = self.output
        if buffer is None or (process.is_job and self.call_queue.is_copy):
            return False
        return buffer.put_if_clear(frame, messages)

    def hand_on(self, frame: bytes) -> None:
        """Write *frame*, an event of the channels that this stream follows."""
        if not self.write_through(frame):
            self.enqueue(frame, None)

    def write_uncounted(self, block: bytes) -> None:
        """Write *block*, which does not count as a message."""
        try:
            if not self.write_through(block, 0):
                self.enqueue(block, None)
        except StreamError:  # the app has ended the stream
            pass

    def enqueue(self, frame: bytes, callback: Callback | None) -> bool:
        if self.is_copy:
            written_in_a_job(callback)
            return False
        if self.need_drain and self.queue.exceeds_bounds(frame):
            for pipe in self.pipes:
                pipe.let_read(self.queue.full_at)
        with self.lock:
            over = self.closed or self.idle == "retired"
            if self.ended and not over:
                raise WriteAfterEnd("write() after end()")
            drops = over or self.idle == "abandoned"
            # A writer that waits for "drain" never meets the bounds. They are for a writer that
            # goes on after write() returned False.
            was_full = self.need_drain
            if not drops:
                if was_full and self.settings.overflow == "error" and self._exceeds_bounds(frame):
                    raise BufferFull(
                        f"{len(self.queue)} messages of {self.queue.bytes} bytes wait already"
                    )
                self.queue = self.queue.appendable()
                # After an unpipe() the message counts as taken. In Node it would be in the
                # buffer of the stream's readable half by now.
                taken = self.idle == "unpiped" and len(self.queue) < self.queue.high_water_mark
                self.queue.append(frame, None if taken else callback)
                self.hold()
        if drops:
            late = WriteAfterEnd("write() after end()") if self.ended else self.close_reason
            self._call_back([callback], late or disconnected())
            return False
        if taken:
            self._call_back([callback], None)
        self.move_on()
        with self.lock:
            full = self.queue.is_full()
            fills = full and not self.need_drain
            if fills:
                self.need_drain = True
                self.queue.full_at = clock.now()
            too_many = was_full and self._exceeds_bounds()
        if fills and self.idle == "forgotten":
            never_piped(self.connection)
        if too_many and self.settings.overflow != "error":
            self._overflow()
        return not full

    def _exceeds_bounds(self, *more: bytes) -> bool:
        """Whether the queue, with *more* frames, is above its bounds. Under the lock.

        The bound in bytes always holds. The bound in messages holds only for clients that had
        time to read. If a view writes before it returns, or an app writes many messages in one
        turn of the loop, no client could read any of them yet.
        """
        queue = self.queue
        if not queue.exceeds_bounds(*more):
            return False
        pipes = self.pipes
        if pipes:
            slow = any(pipe.is_slow(queue.full_at) for pipe in pipes)
        else:
            # Without pipes, a stream with a request will be piped soon. A stream without a
            # request may never be piped.
            slow = self.connection is None
        if slow or queue.exceeds_bytes(*more):
            return True
        queue.grant(len(queue) + len(more))
        return False

    def _overflow(self) -> None:
        """Apply the policy ``overflow``: too much waits."""
        if self.settings.overflow == "drop-oldest":
            self._drop_oldest()
            return
        # Cut only the clients that hold up the others. They reconnect and resume.
        full = [pipe for pipe in self.pipes if not pipe.ready]
        slow = [pipe for pipe in full if pipe.is_slow(self.queue.full_at)]
        for pipe in slow or full:
            if pipe.body is not None:
                pipe.body.cut("overflow")
            else:
                emit_soon(pipe.stream, "error", BufferFull("a destination is too slow"))
                self._remove_pipes(pipe.destination)
        if self.pipes:
            return
        if self.connection is not None:
            if not (full or self.closed or self.idle == "forgotten"):  # it was not piped yet
                burst(None)
            self.close(None, BufferFull("more waited than is allowed"), cut=False)
        else:
            # There is no client to cut, and one may still come.
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with self.lock:
            dropped = self.queue.trim()
        registry.count("dropped", len(dropped))
        self._call_back(dropped, BufferFull("dropped, as newer messages came"))

    def move_on(self) -> None:
        """Move frames on: in this thread, or in another one if a destination may block."""
        if all(pipe.body is not None for pipe in self.pipes):
            self._pump()
        else:
            self.call_queue.loop.spawn(self._pump)

    def _pump(self) -> None:
        while True:
            with self.lock:
                # Under the lock: a writer that finds the pump busy leaves its frame, and
                # relies on the pump's next look at the queue.
                if self._pumping:
                    return
                pipes = self.pipes
                ready = bool(pipes) and all(pipe.ready for pipe in pipes)
                if not (ready and self.queue):
                    break
                self._pumping = True
                frame, callback = self.queue.popleft()
            killed: GreenletExit | None = None
            try:
                for pipe in pipes:
                    killed = self._send(pipe, frame) or killed
                self._call_back([callback], None)
            finally:
                self._pumping = False
            if killed is not None:
                self.call_queue.loop.spawn(self._pump)
                raise killed
        self._settle()

    def _send(self, pipe: Pipe, frame: bytes) -> GreenletExit | None:
        """Send *frame* through *pipe*. Returns the `GreenletExit` if this greenlet was killed."""
        try:
            pipe.send(frame)
        except BaseException as error:  # a gevent.Timeout is no Exception
            # As in Node: unpipe the destination that fails, and keep the others.
            emit_soon(pipe.stream, "error", error)
            if pipe.never_blocks:  # a response: the app has ended it
                self.pipe_closed(pipe)
            else:
                pipe.let_go()
            return error if isinstance(error, GreenletExit) else None
        return None

    def _settle(self) -> None:
        """Emit the events that an empty queue causes: ``drain``, ``finish``, ``end``, ``close``."""
        ended = False
        with self.lock:
            if self.queue or self.closed or self._pumping:
                return
            drained, self.need_drain = self.need_drain, False
            finished = self.ended and not self.finished
            self.finished = self.finished or finished
            pipes, stream = self.pipes, self.stream
            if self.finished and pipes and all(pipe.ready for pipe in pipes):
                ended = self.closed = True
                self.pipes = ()
            self.set_pipes(self.pipes)
        if drained and not self.ended:
            emit_soon(stream, "drain")
        if finished:
            emit_soon(stream, "finish")
        if ended:
            emit_soon(stream, "end")
            for pipe in pipes:
                pipe.detach(ending=True)
            emit_soon(stream, "close")
            self.forget_stream()

    def pipe_closed(self, pipe: Pipe) -> None:
        """Drop *pipe*, because its destination has closed."""
        with self.lock:
            if pipe not in self.pipes:
                return
            self.set_pipes(tuple(other for other in self.pipes if other is not pipe))
            last = not self.pipes
        pipe.detach()
        if not last:
            self.move_on()
        elif self.connection is not None:
            self.close(None, disconnected(), cut=False)
        else:
            with self.lock:
                if not self.pipes:
                    self.idle = "abandoned"
                owed = self.need_drain
            self._drop(disconnected())
            if owed:
                emit_soon(pipe.stream, "drain")

    def unpiped_closed(self) -> None:
        """Close the stream if it was not piped again: its client has left after an unpipe."""
        if not self.pipes:
            self.close(None, disconnected(), cut=False)

    def pipe_retired(self, pipe: Pipe, dropping: bool) -> list[bytes]:
        """Drop *pipe*, because its response ends. Returns the frames that it still has to send.

        The list is empty if other destinations remain: the frames then wait for these.
        If *dropping*, the callbacks of the frames get an error, as the frames are not sent.
        """
        with self.lock:
            if pipe not in self.pipes:
                return []
            self.set_pipes(tuple(other for other in self.pipes if other is not pipe))
            last = not self.pipes
            if last:
                self.idle = "retired"
                entries = self.queue.clear()
        pipe.detach()
        if not last:
            self.move_on()
            return []
        dropped = StreamDestroyed("the stream was refused") if dropping else None
        self._call_back([callback for _, callback in entries], dropped)
        if self.connection is not None:
            self.close(None, ClientDisconnected("the server ended the stream"), cut=False)
        return [frame for frame, _ in entries]

    def has_room(self) -> bool:
        """Whether at least half of the bounds is free. If not, ``drain`` will come.

        A subscription that reads from a log then stops, and reads on later.
        """
        with self.lock:
            room = self.queue.has_room()
            self.need_drain = self.need_drain or not room
            return room

    def waiting_bytes(self) -> int:
        """Bytes that wait in the queue."""
        return self.queue.bytes

    def close(self, error: BaseException | None, reason: StreamError, cut: bool) -> None:
        """Drop the queue and emit ``close``, after ``error`` if there is an *error*.

        *reason* is for late writers. With *cut*, the destinations are destroyed.
        """
        if self.is_copy:
            return
        with self.lock:
            if self.closed:
                return
            self.closed = True
            self.close_reason = reason
            pipes, stream = self.pipes, self.stream
            self.set_pipes(())
        self._drop(error or reason)
        if error is not None:
            emit_soon(stream, "error", error)
        for pipe in pipes:
            pipe.detach(destroying=cut)
        emit_soon(stream, "close")
        self.forget_stream()

    def break_off(self, error: BaseException | None) -> None:
        """Close the stream, whose source has failed with *error*, behind all that was written.

        Each response sends all that waits, and is cut then. *error* is None if no ``error`` is
        to be emitted.
        """
        stream, pipes = self.stream, self.pipes
        if stream is not None and error is not None and not self.closed:
            emit_soon(stream, "error", error)
        for pipe in pipes:
            if pipe.body is not None:
                pipe.body.retire("error")
        self.close(None, StreamDestroyed("the source of this stream has failed"), cut=True)

    def request_over(self) -> None:
        if not self.iterated:
            reason = StreamDestroyed("the request of this stream is over, and has not sent it")
            self.close(None, reason, cut=True)

    def move_to(self, call_queue: CallQueue) -> None:
        """Run events and callbacks where a response that the stream is piped into runs its own.

        *call_queue* is the response's. The stream of one client shares it, so that the events of
        both come in one order. A stream of many clients keeps a call queue of its own: a slow
        handler of one client must not delay it.
        """
        if self.connection is not None:
            self.call_queue = call_queue
        elif not self.call_queue.has_loop:
            self.call_queue = CallQueue(call_queue.loop)

    def _drop(self, reason: BaseException) -> None:
        with self.lock:
            dropped = self.queue.clear()
            self.need_drain = False
        self._call_back([callback for _, callback in dropped], reason)

    def _call_back(self, callbacks: list[Callback | None], error: BaseException | None) -> None:
        for callback in callbacks:
            if callback is not None:
                self.call_queue.call_soon(callback, *fitting(callback, (error,)))


def disconnected() -> ClientDisconnected:
    return ClientDisconnected("the client has left")
