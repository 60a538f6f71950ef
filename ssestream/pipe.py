"""Pipe: one stream piped to one destination, and whether the destination is ready."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

from .http.body import Body
from .http.connection import Connection
from .http.inlet import Inlet
from .http.interning import LARGE, shared
from .http.outgoing import OutgoingMessage, body_of, has_own_write
from .http.output import OutputBuffer
from .runtime.calls import CallQueue
from .runtime.clock import clock
from .runtime.emitter import emit_if_heard
from .runtime.origin import log_failure
from .runtime.threads import sleep
from .runtime.waker import Wakeable
from .wire import OK

#: Seconds for which a writer waits for a reader in another thread to send the chunk that it has
#: taken. Several times as long as Python lets one thread run.
TIME_TO_READ = 0.05


class Destination(Protocol):
    """The contract of an object that a stream can be piped into: ``write(bytes)``.

    If ``write()`` returns False, the destination gets nothing more until it emits
    ``"drain"``. For this it also needs ``on``: without ``on``, the result of ``write()`` is
    ignored. The stream also calls ``write_head``, ``flush_headers``, ``end``, ``destroy``
    and ``emit`` if they exist, and listens to ``"close"``, ``"finish"`` and ``"error"``.
    """

    def write(self, chunk: bytes, /) -> object:
        """Take *chunk*. May block.

        The first call runs in `SseStream.pipe`. All later calls run in a thread or greenlet
        of the stream's loop, so that they hold up no writer.
        """


class Source(Protocol):
    """The part of a stream's flow that a pipe calls."""

    call_queue: CallQueue
    connection: Connection | None
    ended: bool
    lock: Any

    def move_on(self) -> None: ...
    def waiting_bytes(self) -> int: ...
    def pipe_closed(self, pipe: "Pipe") -> None: ...
    def pipe_retired(self, pipe: "Pipe", dropping: bool) -> list[bytes]: ...
    def unpiped_closed(self) -> None: ...


class Pipe(Inlet):
    """The link between one stream and one destination, from ``pipe()`` until ``unpipe()``."""

    __slots__ = (
        "_after_write",
        "_end",
        "_ready",
        "body",
        "buffer",
        "destination",
        "source",
        "stream",
    )

    def __init__(self, source: Source, stream: Any, destination: Destination, end: bool) -> None:
        self.source = source
        #: The `SseStream`. A pipe keeps it alive, even if the app has dropped it.
        self.stream = stream
        self.destination = destination
        #: The body of a response of this package. None for any other destination.
        self.body: Body | None = body_of(destination)
        #: The buffer of such a response, if frames may go straight into it. None for any other
        #: destination, if the app has overridden ``write``, and see `_crosses`.
        self.buffer: OutputBuffer | None = None
        if self.body is not None and has_own_write(destination) and not _crosses(source, self.body):
            self.buffer = self.body.buffer
        # The "drain" of the destination may set this at any time, from any thread. So it is
        # cleared before each write, and never after the write.
        self._ready = True
        # Whether the destination ends with the stream: "now" if the stream has ended it.
        self._end: Literal["never", "later", "now"] = "later" if end else "never"
        # The functions to call when a frame that was taken for `send` is written. None if none was.
        self._after_write: tuple[Callable[[], object], ...] | None = None

    @property
    def _emits(self) -> bool:
        """Whether the destination emits events."""
        return callable(getattr(self.destination, "on", None))

    @property
    def never_blocks(self) -> bool:
        """Whether `send` never blocks: frames go straight into the buffer of a response."""
        return self.buffer is not None

    @property
    def ready(self) -> bool:
        """Whether the destination may be written to."""
        return self._ready and not (self.buffer is not None and self.buffer.need_drain)

    @property
    def room(self) -> int:
        """Bytes that the destination takes together; 0 if it takes one frame at a time."""
        buffer = self.buffer
        return 0 if buffer is None else buffer.high_water_mark - buffer.length

    def put(self, frames: list[bytes], wakers: list[Wakeable]) -> bool:
        """Put *frames*, which are messages, into the buffer of a response.

        Returns False if that is impossible. The caller must then `send` them one by one, and call
        `written`. Called under the stream's lock. See `OutputBuffer.put_together` for *wakers*.
        """
        if self.buffer is None:
            self._after_write = ()
            return False
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if len(data) > LARGE:
            data = shared.large(data)
        return self.buffer.put_together(data, len(frames), wakers)

    def send(self, frame: bytes) -> None:
        if self.buffer is not None:
            # Not `destination.write`: the `write` of a handler's response may wait.
            # If it returns False and no "drain" will come, the destination is closing. Whether the
            # buffer needs a drain tells nothing here: its reader may have sent all meanwhile.
            destination, body = self.destination, self.body
            flowing = OutgoingMessage.write(destination, frame)  # type: ignore[arg-type]
            if not flowing and body is not None and (body.closed or body.retired is not None):
                self._ready = False
            return
        self._ready = False
        if self.destination.write(frame) is not False or not self._emits:
            self._ready = True

    def written(self) -> tuple[Callable[[], object], ...]:
        """All frames that were taken for `send` are sent. Returns functions to call now."""
        with self.source.lock:
            functions, self._after_write = self._after_write or (), None
        return functions

    @property
    def is_writing(self) -> bool:
        return self._after_write is not None

    def after_write(self, function: Callable[[], object]) -> bool:
        with self.source.lock:
            if self._after_write is None:
                return False
            self._after_write = (*self._after_write, function)
            return True

    def is_slow(self, since: float) -> bool:
        """Whether the destination holds up the stream, although it had time to take.

        *since* is the time when the stream last told its writer to wait.
        """
        return not self.ready and (self.buffer is None or self.buffer.is_stuck(since))

    def let_read(self, since: float) -> None:
        """Wait a moment until a reader in another thread has sent its last chunk.

        Without this wait, a busy writer that never releases the interpreter would cut a client
        that is not slow.
        """
        body, buffer = self.body, self.buffer
        if body is None or buffer is None:
            return
        # A reader in this thread cannot run during a wait here.
        if not body.call_queue.loop.here():
            now = clock.now()
            until = clock.real() + min(buffer.taken_at, now) + TIME_TO_READ - now
            while buffer.is_stuck(since) and clock.real() < until:
                sleep(0.001)

    def greet(self) -> None:
        """Write the opening comment."""
        if self.buffer is not None:
            # The buffer does not count the comment as a message.
            self.buffer.put_opening(OK)
        elif self.body is not None:
            self._ready = bool(self.destination.write(OK))
            self.body.buffer.discount()
        else:
            self.send(OK)

    def attach(self, pipe: tuple["Pipe"]) -> bool:
        """Listen to the destination. Returns False if it has closed already.

        *pipe* is a tuple of this pipe. The stream and the response share it, to save memory.
        """
        destination: Any = self.destination
        if self.body is not None:
            self.body.add_inlet(pipe)
            # The response may have drained or closed since the first write.
            if not self.body.buffer.need_drain:
                self._ready = True
            return not self.body.closed
        if self._emits:
            for event, handler in self._handlers():
                destination.on(event, handler)
        return True

    def detach(self, ending: bool = False, destroying: bool = False) -> None:
        """End the pipe: by an unpipe, or because the stream is *ending* or *destroying* itself."""
        destination: Any = self.destination
        if ending and self._end == "later":
            self._end = "now"
        if self._end == "now" and self.body is not None:
            # As in Node, "unpipe" comes when the destination has finished.
            destination.end()
            return
        self._stop_listening()
        if self._end == "now" and hasattr(destination, "end"):
            self.source.call_queue.call_soon(destination.end)
        self.emit_there("unpipe")
        if destroying and hasattr(destination, "destroy"):
            if self.body is not None:
                destination.destroy()
            else:
                self.source.call_queue.call_soon(destination.destroy)

    def emit_there(self, event: str) -> None:
        """Let the destination emit *event*, ``"pipe"`` or ``"unpipe"``, with the stream."""
        destination: Any = self.destination
        if isinstance(destination, OutgoingMessage):
            # As in Node, a handler that is added later does not get the event.
            emit_if_heard(destination, event, self.stream)
        elif callable(getattr(destination, "emit", None)):
            self.source.call_queue.call_soon(destination.emit, event, self.stream)

    # -- calls and events from the destination

    def drained(self, *args: object) -> None:
        self._ready = True
        self.source.move_on()

    def closed(self, *args: object) -> None:
        if self._end == "now":
            self.emit_there("unpipe")
        else:
            self.source.pipe_closed(self)

    def retired(self, dropping: bool) -> list[bytes]:
        return self.source.pipe_retired(self, dropping)

    @property
    def is_complete(self) -> bool:
        return self.source.ended and self._end != "never"

    def waiting(self) -> int:
        return self.source.waiting_bytes()

    def unpipe(self, *args: object) -> None:
        """Unpipe the destination. An app's subclass may override `SseStream.unpipe`."""
        self.stream.unpipe(self.destination)

    def _stop_listening(self) -> None:
        destination: Any = self.destination
        if self.body is not None:
            self.body.remove_inlet(self)
        elif self._emits:
            for event, handler in self._handlers():
                try:
                    destination.remove_listener(event, handler)
                except (AttributeError, KeyError):
                    pass
                except BaseException:  # the stream is about to close, and must do so
                    text = "remove_listener() of the destination %r failed"
                    log_failure(self.source.call_queue.origin, text, destination)

    def _handlers(self) -> list[tuple[str, Any]]:
        return [
            ("drain", self.drained),
            ("close", self.closed),
            ("finish", self.unpipe),
            ("error", self.unpipe),
        ]


def _crosses(source: Source, body: Body) -> bool:
    """Whether *source* is the stream of one request, and *body* the response of another one.

    All streams and responses of a request have one lock, and a stream holds its own while it puts
    frames into a buffer. If a stream of the other request was piped the other way, two threads
    could wait for each other's lock for ever.
    """
    call_queue = body.call_queue
    is_of_request = source.connection is not None and call_queue.origin is not None
    return is_of_request and call_queue.lock is not source.lock


class Unpiped(Inlet):
    """An inlet that `SseStream.unpipe` leaves in a response of the stream's request.

    If this response closes and the stream was not piped again, the stream ends. A response that
    the server never got says nothing about the client: the stream may be the body of another one.
    """

    __slots__ = ("body", "source")

    def __init__(self, source: Source, body: Body) -> None:
        self.source = source
        self.body = body

    @classmethod
    def of(cls, source: Source, body: Body) -> None:
        """Notify *source* when *body* closes: now, if it has closed already."""
        if not any(isinstance(each, cls) and each.source is source for each in body.inlets):
            unpiped = cls(source, body)
            body.add_inlet((unpiped,))
            if body.closed:
                body.remove_inlet(unpiped)
                unpiped.closed()

    def closed(self) -> None:
        if self.body.connection is not None:
            self.source.unpiped_closed()
