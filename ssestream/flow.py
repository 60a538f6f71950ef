"""Flow: all that moves messages through a stream, with the semantics of Node's streams.

* The state of a stream is in ``stream_state.py``. It is changed here and in ``stream_ends.py``. All
  changes are made under one lock. Nobody holds the lock while other code (an app's, a
  destination's) runs. Only the lock of a response's buffer may be taken meanwhile, and a stream of
  a request never takes the lock of another request.
* One thread or greenlet at a time moves frames to the destinations (`_pump`). A writer that
  finds the pump busy leaves its frame in the queue. So the frames stay in order.
* A frame leaves the queue only when every destination is ready for it, so the slowest destination
  sets the pace. A destination is not ready while its ``write()`` runs. If ``write()`` returns
  False, it is not ready until its ``drain``.
"""

from gevent import GreenletExit

from .errors import BufferFull, StreamDestroyed, StreamError, WriteAfterEnd
from .http.diagnosis import burst, never_piped, written_in_a_job
from .http.registry import registry
from .message_queue import Callback
from .overflow import is_too_much, let_read, to_cut
from .pipe import Destination, Pipe, Unpiped
from .runtime.calls import CallQueue
from .runtime.clock import clock
from .runtime.emitter import emit_soon
from .runtime.forking import process
from .runtime.waker import Wakeable, wake_all
from .stream_ends import StreamEnds, disconnected


class Flow(StreamEnds):
    """Moves the messages of one stream. The other rooms talk to it; an app never sees it."""

    __slots__ = ()

    def end(self) -> None:
        """Take no more writes."""
        self.tell_of_end()
        with self.lock:
            self.ended = True
            self.set_pipes(self.pipes)
        self.move_on()

    def attach(self, pipe: Pipe) -> None:
        """Let frames flow through *pipe*. Raises `StreamDestroyed` if the stream is closed."""
        with self.lock:
            closed = self.closed
            if not closed:
                self.idle = ""
                pipes = (*self.pipes, pipe)
                self.set_pipes(pipes)
        if closed:
            pipe.detach(destroying=True)
            raise StreamDestroyed("this stream is over and cannot be piped")
        # The response keeps the tuple that it is given. A stream with one pipe shares its own.
        if not pipe.attach(pipes if len(pipes) == 1 else (pipe,)):
            self.pipe_closed(pipe)
        elif self.queue or self.ended or self.need_drain:
            self.move_on()

    def unpipe(self, destination: Destination | None) -> None:
        """Stop the flow to *destination*; None means all destinations."""
        self._remove_pipes(destination)
        with self.lock:
            has_no_pipe = not self.pipes and not self.closed
            if has_no_pipe and not self.drops_writes:
                self.idle = "unpiped"
            taken = self.queue.take_callbacks() if has_no_pipe else []
        self._call_back(taken, None)

    def _remove_pipes(self, destination: Destination | None) -> None:
        with self.lock:
            all_pipes = self.pipes
            removed = [p for p in all_pipes if destination is None or p.destination is destination]
            self.set_pipes(tuple(p for p in all_pipes if p not in removed))
            has_client = self.connection is not None and not self.closed
        for pipe in removed:
            pipe.detach()
            if has_client and pipe.body is not None:
                # The stream still ends when its client leaves, unless it is piped again.
                Unpiped.of(self, pipe.body)
        self.move_on()

    def write_through(self, frame: bytes, messages: int = 1) -> bool:
        """Write *frame*, which counts as *messages*, past the queue. False if it must be queued."""
        buffer = self.output
        if buffer is None or (process.is_job and self.call_queue.is_copy):
            return False
        return buffer.put_if_clear(frame, messages)

    def hand_on(self, frame: bytes) -> None:
        """Write *frame*, an event of the channels that this stream follows."""
        if not self.write_through(frame):
            self.enqueue(frame, None)

    def hand_on_together(self, frames: list[bytes]) -> int:
        """Write the first of *frames*, until half of the bounds is used, in one step.

        *frames* are events of the channels that this stream follows. Returns how many were
        written; the rest must be handed on one by one.
        """
        if len(frames) < 2 or self.is_copy:
            return 0
        with self.lock:
            if self.ended or self.closed or self.idle:
                return 0
            self.queue = self.queue.appendable()
            count = self.queue.extend(frames)
            self.hold()
            can_move = self._can_move()
        if can_move:
            self.move_on()
        with self.lock:
            if self.queue.is_full() and not self.need_drain:
                self.need_drain = True
                self.queue.note_full(clock.now())
        return count

    def write_uncounted(self, block: bytes) -> None:
        """Write *block*, which does not count as a message."""
        try:
            if not self.write_through(block, 0):
                self.enqueue(block, None)
        except StreamError:  # the app has ended the stream
            pass

    def enqueue(self, frame: bytes, callback: Callback | None) -> bool:
        """Put *frame* in the queue, and move frames on. False if the writer should wait.

        Raises `WriteAfterEnd` between ``end()`` and ``close``, and `BufferFull` with the setting
        ``overflow="error"``.
        """
        if self.is_copy:
            written_in_a_job(callback)
            return False
        # A writer that waits for "drain" never meets the bounds. They are for a writer that goes
        # on after write() returned False.
        if self.need_drain:
            let_read(self.queue, self.pipes, frame)
        with self.lock:
            closed = self.closed or self.idle == "retired"
            if self.ended and not closed:
                raise WriteAfterEnd("write() after end()")
            drops = closed or self.idle == "abandoned"
            was_full = self.need_drain
            if drops:
                # The writer may wait for "drain". The next pipe() lets the stream emit it.
                self.need_drain = not (self.closed or self.ended)
            else:
                if was_full and self.settings.overflow == "error" and self._is_too_much(frame):
                    raise BufferFull(
                        f"{len(self.queue)} messages of {self.queue.bytes} bytes wait already"
                    )
                self.queue = self.queue.appendable()
                # After an unpipe(), messages up to the high-water mark count as taken. In Node
                # they would be in the buffer of the stream's readable half by now.
                taken = self.idle == "unpiped" and len(self.queue) < self.queue.high_water_mark
                self.queue.append(frame, None if taken else callback)
                self.hold()
                # If it cannot move now, the destination that becomes ready moves it on.
                can_move = self._can_move()
        if drops:
            late = WriteAfterEnd("write() after end()") if self.ended else self.close_reason
            self._call_back([callback], late or disconnected())
            return False
        if taken:
            self._call_back([callback], None)
        if can_move:
            self.move_on()
        with self.lock:
            is_full = self.queue.is_full()
            has_filled = is_full and not self.need_drain
            if has_filled:
                self.need_drain = True
                self.queue.note_full(clock.now())
            overflows = was_full and self._is_too_much()
        if has_filled and self.idle == "forgotten":
            never_piped(self.connection)
        if overflows and self.settings.overflow != "error":
            self._overflow()
        return not is_full

    def _is_too_much(self, frame: bytes | None = None) -> bool:
        return is_too_much(self.queue, self.pipes, self.connection is not None, frame)

    def _overflow(self) -> None:
        """Apply the setting ``overflow``, because too much waits."""
        if self.settings.overflow == "drop-oldest":
            self._drop_oldest()
            return
        # Cut only the clients that hold up the others. They reconnect and resume.
        slow = to_cut(self.queue, self.pipes)
        for pipe in slow:
            if pipe.body is not None:
                pipe.body.cut("overflow")
            else:
                emit_soon(pipe.stream, "error", BufferFull("a destination is too slow"))
                self._remove_pipes(pipe.destination)
        if self.pipes:
            return
        if self.connection is not None:
            if not (slow or self.closed or self.idle == "forgotten"):  # it was not piped yet
                burst(None)
            self.close(None, BufferFull("more waited than is allowed"), cut=False)
        else:
            # There is no client to cut, but one may still come.
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with self.lock:
            dropped = self.queue.trim()
        registry.count("dropped", len(dropped))
        self._call_back(dropped, BufferFull("dropped, as newer messages came"))

    def move_on(self) -> None:
        """Move frames on: in this thread, or in another one if a destination may block."""
        if all(pipe.never_blocks for pipe in self.pipes):
            self._pump()
        else:
            self.call_queue.loop.spawn(self._pump)

    def _pump(self) -> None:
        while True:
            wakers: list[Wakeable] = []
            with self.lock:
                # A writer that finds the pump busy leaves its frame, and relies on the pump's
                # next look at the queue. So the pump decides under the lock that it is done.
                if self._pumping:
                    return
                pipes = self.pipes
                if not (self.queue and self._can_move()):
                    break
                self._pumping = True
                # With several destinations, each frame waits until all of them are ready.
                frames, callbacks = self.queue.take(pipes[0].room if len(pipes) == 1 else 0)
                # In the same step, because another thread may end a response now. It sends the
                # frames in the buffer, and then those in the queue.
                others = [pipe for pipe in pipes if not pipe.put(frames, wakers)]
            killed: GreenletExit | None = None
            try:
                wake_all(wakers)
                # A destination that was unpiped meanwhile gets the frame, too: no other will.
                for pipe in others:
                    if pipe.body is None or not pipe.body.over:
                        killed = self._send(pipe, frames) or killed
                self._call_back(callbacks, None)
            finally:
                owed = [function for pipe in others for function in pipe.written()]
                self._pumping = False
                for function in owed:
                    function()
            if killed is not None:
                self.call_queue.loop.spawn(self._pump)
                raise killed
        self._settle()

    def _can_move(self) -> bool:
        """Whether there are destinations, and all of them are ready. Called under the lock."""
        for pipe in self.pipes:
            if not pipe.ready:
                return False
        return bool(self.pipes)

    def _send(self, pipe: Pipe, frames: list[bytes]) -> GreenletExit | None:
        """Send *frames* through *pipe*. Returns the `GreenletExit` if this greenlet was killed."""
        try:
            for frame in frames:
                pipe.send(frame)
        except BaseException as error:  # a gevent.Timeout is no Exception
            # As in Node: unpipe the destination that fails, and keep the others.
            emit_soon(pipe.stream, "error", error)
            body = pipe.body
            if body is not None:  # a response: the app has ended it
                self.pipe_closed(pipe)
                # Without its frame, a response that the server is ending must send no later one.
                if pipe.is_writing and body.retired and not body.ended:
                    body.cut("error")
            else:
                pipe.unpipe()
            return error if isinstance(error, GreenletExit) else None
        return None

    def _settle(self) -> None:
        """Emit the events that an empty queue causes: ``drain``, ``finish``, ``end``, ``close``."""
        is_complete = False
        with self.lock:
            if self.queue or self.closed or self._pumping:
                return
            drained = self.need_drain and not self.drops_writes
            self.need_drain = self.need_drain and not drained
            finished = self.ended and not self.finished
            self.finished = self.finished or finished
            pipes, stream = self.pipes, self.stream
            if self.finished and pipes and all(pipe.ready for pipe in pipes):
                is_complete = self.closed = True
                self.pipes = ()
            self.set_pipes(self.pipes)
        if drained and not self.ended:
            emit_soon(stream, "drain")
        if finished:
            emit_soon(stream, "finish")
        if is_complete:
            emit_soon(stream, "end")
            for pipe in pipes:
                pipe.detach(ending=True)
            emit_soon(stream, "close")
            self.forget_stream()

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

    def move_to(self, call_queue: CallQueue) -> None:
        """Run events and callbacks in the loop of a response that the stream is piped into.

        *call_queue* is the response's. A stream of one client uses it from now on, so that the
        events of the stream and of the response have one order. A stream of many clients keeps a
        call queue of its own, because a slow handler of one client must not delay the others.
        """
        if self.connection is not None:
            self.call_queue = call_queue
        elif not self.call_queue.has_loop:
            self.call_queue = CallQueue(call_queue.loop)
