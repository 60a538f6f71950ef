"""OutgoingMessage: the app's end of a response, as Node's OutgoingMessage.

The app and its streams write to an `OutgoingMessage`. The server iterates its `body.Body`,
which holds the state of the response. All members here may be used at any time and from any
thread.
"""

from typing import Any, overload

from ..errors import WriteAfterEnd
from ..plain import plain_bytes, plain_text
from ..runtime.calls import CallQueue
from ..runtime.emitter import Emitter
from ..runtime.forking import process
from ..runtime.loop import current_loop
from ..settings import PLAIN
from .body import Body
from .diagnosis import written_in_a_job
from .interning import LARGE, shared
from .output import OutputBuffer

#: Bytes that may wait before ``write()`` returns False. Node has the same default for streams
#: of bytes up to version 20 (64 KiB since 22). It is also the usual size of a TLS record.
HIGH_WATER_MARK = 16 * 1024


class OutgoingMessage(Emitter):
    """The part of ``res`` that streams are piped into. `ServerResponse` adds the head.

    Emits ``drain``, ``finish``, ``close`` and ``error``, and ``pipe`` and ``unpipe``
    with the stream.
    """

    # A slot keeps the instance's dict small. With this name beside those of Flask's response,
    # Python could not share the dict's keys among all responses.
    __slots__ = ("_body",)

    def __init__(
        self,
        call_queue: CallQueue | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
        buffer: type[OutputBuffer] = OutputBuffer,
    ) -> None:
        call_queue = call_queue or CallQueue(current_loop())
        super().__init__(call_queue)
        self._body = Body(self, call_queue, buffer(high_water_mark, call_queue.lock))

    @property
    def headers_sent(self) -> bool:
        """Whether the status and the headers were handed to the server."""
        return self._body.connection is not None

    @property
    def writable_length(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._body.buffer.length

    @property
    def writable_high_water_mark(self) -> int:
        """Waiting bytes at which `write` returns False."""
        return self._body.buffer.high_water_mark

    @property
    def writable_need_drain(self) -> bool:
        """Whether ``drain`` will come."""
        return self._body.buffer.need_drain

    @property
    def writable_ended(self) -> bool:
        """Whether `end` was called."""
        return self._body.ended

    @property
    def writable_finished(self) -> bool:
        """Whether everything was sent (``finish``)."""
        return self._body.finished

    @property
    def closed(self) -> bool:
        """Whether ``close`` was emitted or is about to be.

        Also True in a child process that a view forks, because the response there is a copy.
        """
        return self._body.closed

    @property
    def destroyed(self) -> bool:
        """The same as `closed`: as in Node, a response that has ended is destroyed."""
        return self.closed

    def write(self, chunk: bytes | str) -> bool:
        """Queue *chunk*. Text is sent as UTF-8. Never blocks.

        Returns False when `writable_high_water_mark` bytes wait: write again after
        ``drain``. Also returns False when the response is over: its client has left,
        it was destroyed, or everything was sent. If more than the setting
        ``max_bytes`` would wait for the client, the client is cut.

        Raises `WriteAfterEnd` between `end` and ``close``. Raises ``TypeError`` for
        anything but bytes and str, and ``ValueError`` for text that has no UTF-8 or
        bytes that cannot be read. Node's ``response.write``.
        """
        data = _bytes(chunk)
        if process.is_job and self._call_queue.is_copy:
            written_in_a_job()
            return False
        body = self._body
        # As in Node: many handlers of "close" call end(), and a later write is no error.
        if body.over or (body.retired and not any(inlet.is_writing for inlet in body.inlets)):
            return False
        if body.ended:
            raise WriteAfterEnd("write() after end()")
        buffer = body.buffer
        # Some servers would take an empty chunk for the end of a chunked body.
        if not data:
            return not buffer.need_drain
        # The bound is for an app that goes on writing after False; a stream never does. There
        # is no bound for a view that has not returned yet, because nothing can be sent before
        # that.
        if (
            buffer.need_drain
            and body.connection is not None
            and buffer.length + len(data) > (body.settings or PLAIN).max_bytes
        ):
            body.cut("overflow")
            return False
        if buffer.need_drain:
            data = shared(data)
        elif len(data) > LARGE:
            data = shared.large(data)
        return buffer.put(data)

    def end(self, chunk: bytes | str | None = None) -> None:
        """Take no more writes. The queue is sent, then the response ends.

        *chunk* is written before that; None writes nothing. Raises as `write` does
        for *chunk*. Node's ``response.end``.
        """
        if chunk is not None:
            self.write(chunk)
        self._body.end()

    def destroy(self, error: BaseException | None = None) -> None:
        """Drop the queue and cut the connection. The client sees a broken transfer.

        If *error* is not None, the response emits ``error`` with it first. Then comes
        ``close``. Raises ``TypeError`` for an *error* that is no exception. Node's
        ``response.destroy``.
        """
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {type(error).__name__}")
        self._body.finish("error", cut=True, error=error)

    def close(self) -> None:
        """The server is done with the response. An app calls `end` or `destroy` instead."""
        self._body.done()


#: The methods ``write`` of this package's responses. If an app's subclass overrides ``write``, a
#: stream that is piped into it calls the app's method for every message.
OWN_WRITES: set[Any] = {OutgoingMessage.write}


def has_own_write(outgoing: object) -> bool:
    """Whether ``write`` of *outgoing* is this package's own, and no app's."""
    write = getattr(outgoing, "write", None)
    return getattr(write, "__func__", None) in OWN_WRITES


@overload
def body_of(outgoing: OutgoingMessage) -> Body: ...
@overload
def body_of(outgoing: object) -> Body | None: ...
def body_of(outgoing: object) -> Body | None:
    """The body of *outgoing*; None if this is no response of this package."""
    return outgoing._body if isinstance(outgoing, OutgoingMessage) else None


def _bytes(chunk: bytes | str) -> bytes:
    if type(chunk) is bytes:
        return chunk
    try:
        if isinstance(chunk, str):
            return plain_text(chunk).encode()
        if isinstance(chunk, (bytes, bytearray, memoryview)):
            return plain_bytes(chunk)
    except UnicodeEncodeError as error:
        raise ValueError(
            "a chunk of text must be valid UTF-8, but it has a lone surrogate at"
            f" character {error.start}"
        ) from None
    except ValueError as error:
        raise ValueError(f"a chunk cannot be read: {error}") from None
    raise TypeError(f"a chunk is bytes or str, not {type(chunk).__name__}")
