"""StreamEnds: how a stream ends, and how it loses one of its destinations.

`flow.Flow` is this and all that moves messages while the stream goes on.
"""

from .errors import ClientDisconnected, StreamDestroyed, StreamError
from .message_queue import Callback
from .pipe import Pipe
from .runtime.callables import fitting
from .runtime.emitter import emit_soon
from .stream_state import Idle, StreamState


class StreamEnds(StreamState):
    """All that ends a stream or one of its pipes."""

    __slots__ = ()

    def move_on(self) -> None:
        """See `Flow.move_on`."""
        raise NotImplementedError

    def close(self, error: BaseException | None, reason: StreamError, cut: bool) -> None:
        """Drop the queue and emit ``close``, after ``error`` if there is an *error*.

        The callbacks of late writes get *reason*. With *cut*, the destinations are destroyed.
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

    def client_left(self) -> None:
        """Close the stream, because its client has left."""
        self.close(None, disconnected(), cut=False)

    def break_off(self, error: BaseException | None) -> None:
        """Close the stream after all that was written, because its source has failed.

        Each response first sends all that waits, and then is cut. The stream emits ``error`` with
        *error*, or no ``error`` if this is None.
        """
        stream, pipes = self.stream, self.pipes
        if stream is not None and error is not None and not self.closed:
            emit_soon(stream, "error", error)
        for pipe in pipes:
            if pipe.body is not None:
                pipe.body.retire("error")
        self.close(None, StreamDestroyed("the source of this stream has failed"), cut=True)

    def request_over(self) -> None:
        """See `Belonging.request_over`."""
        if not self.iterated:
            reason = StreamDestroyed("the request of this stream is over, and has not sent it")
            self.close(None, reason, cut=True)

    def unpiped_closed(self) -> None:
        """Close the stream if it was not piped again: its client has left after an unpipe."""
        if not self.pipes:
            self.client_left()

    def pipe_closed(self, pipe: Pipe) -> None:
        """Drop *pipe*, because its destination has closed."""
        with self.lock:
            if not self._remove_pipe(pipe):
                return
            was_last = not self.pipes
            # In the same step, because another thread may pipe the stream to its next client now.
            # The messages that are written from then on are for that client.
            entries, drains = self._empty("abandoned") if was_last else ([], False)
        pipe.detach()
        if not was_last:
            self.move_on()
            return
        if entries:
            self._call_back([callback for _, callback in entries], disconnected())
        if self.connection is not None:
            self.client_left()
        elif drains:
            emit_soon(pipe.stream, "drain")

    def pipe_retired(self, pipe: Pipe, dropping: bool) -> list[bytes]:
        """Drop *pipe*, because its response ends. Returns the frames that it still has to send.

        The list is empty if other destinations remain: the frames then wait for them. With
        *dropping*, the response does not send the frames, and their callbacks get an error.
        """
        if not dropping:
            self.tell_of_end()
        with self.lock:
            if not self._remove_pipe(pipe):
                return []
            was_last = not self.pipes
            entries, drains = self._empty("retired") if was_last else ([], False)
        # A frame in an app's own write() comes before the returned frames.
        if not pipe.after_write(pipe.detach):
            pipe.detach()
        if not was_last:
            self.move_on()
            return []
        dropped = StreamDestroyed("the stream was refused") if dropping else None
        if entries:
            self._call_back([callback for _, callback in entries], dropped)
        if self.connection is not None:
            self.close(None, ClientDisconnected("the server ended the stream"), cut=False)
        elif drains:
            emit_soon(pipe.stream, "drain")
        return [frame for frame, _ in entries]

    def _empty(self, idle: Idle) -> tuple[list[tuple[bytes, Callback | None]], bool]:
        """Remove all that waits, because the last pipe was removed. Called under the lock.

        *idle* is the reason. Returns the entries of the queue, and whether ``drain`` is due: a
        writer may wait for it, and another client may come.
        """
        self.idle = idle
        drains, self.need_drain = self.need_drain and not self.ended, False
        return self.queue.clear(), drains

    def _remove_pipe(self, pipe: Pipe) -> bool:
        """Remove *pipe*. False if it was removed before. Called under the lock."""
        if pipe not in self.pipes:
            return False
        self.set_pipes(tuple(other for other in self.pipes if other is not pipe))
        return True

    def _drop(self, reason: BaseException) -> None:
        with self.lock:
            dropped = self.queue.clear()
            self.need_drain = False
        if dropped:
            self._call_back([callback for _, callback in dropped], reason)

    def _call_back(self, callbacks: list[Callback | None], error: BaseException | None) -> None:
        for callback in callbacks:
            if callback is not None:
                self.call_queue.call_soon(callback, *fitting(callback, (error,)))


def disconnected() -> ClientDisconnected:
    return ClientDisconnected("the client has left")
