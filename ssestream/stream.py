"""SseStream: messages in, an event stream out. The public face of `flow.Flow`."""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from .config import app_dumps, app_json, client_of, stream_settings
from .errors import MessageError, StreamDestroyed, StreamError
from .flow import Flow, disconnected
from .http.body import Body
from .http.connection import Connection
from .http.interning import LARGE, shared
from .http.origin import call_queue_of
from .http.outgoing import OutgoingMessage, body_of, has_own_write
from .http.request import environ_of, last_event_id
from .http.unsent import look_at_queue
from .http.view import belong
from .message_queue import Callback
from .pipe import Destination, Pipe
from .plain import plain_bytes
from .runtime.callables import check_callable
from .runtime.calls import CallQueue
from .runtime.writer import running_writer
from .settings import Options
from .wire import HEADERS, Message, encode, id_of


class _Usual(int):
    """A default that ``max_messages`` may lower. The same value from an app is refused instead."""


#: Messages that may wait before ``write()`` returns False. Node has the same default for
#: streams of objects. A smaller ``max_messages`` lowers it.
HIGH_WATER_MARK = _Usual(16)


def _nothing() -> None:
    pass


if TYPE_CHECKING:
    from typing_extensions import Unpack

D = TypeVar("D", bound=Destination)


class SseStream(Flow):
    """A stream of messages, as in Node's ``ssestream``.

    *request* is a Flask or Werkzeug request or a WSGI environ. The stream then
    tunes the client's socket (keep-alive, no-delay, no timeout) and reads
    `last_event_id`. It ends with a request of Flask's, also when the request is
    answered without the stream (see ``http.view``). None makes a stream that
    belongs to no client.

    *high_water_mark* is the number of messages that may wait before `write`
    returns False. Its default is 16, or ``max_messages`` if that is smaller.

    *options* are settings of this stream that replace the app's (see
    `settings.Settings`): ``heartbeat``, ``send_timeout``, ``tcp_user_timeout``,
    ``max_messages``, ``max_bytes``, ``overflow``, ``max_age``, ``retry``,
    ``compress`` and ``id_blocks``.

    Emits ``drain``, ``finish``, ``end``, ``close`` and ``error``, and ``gap`` if it
    follows channels.

    Raises ``TypeError`` for any other *request*, for a *high_water_mark* that is
    no int, and for an unknown option or an option of a wrong type. Raises
    ``ValueError`` for a *high_water_mark* below 1 or above ``max_messages``, and
    for an option out of its range. Node-ssestream's ``SseStream``.
    """

    _only_one = "it is on its way to its clients. Copy the messages instead"

    # Whether the client sent an id that no server can have given it. A class attribute, because
    # hardly any stream sets it.
    _has_bad_id = False

    # The `Channels` object that this stream follows. There is only one, because a browser keeps
    # only one id, and each `Channels` object has ids of its own.
    _channels: Any = None

    def __init__(
        self,
        request: Any = None,
        *,
        high_water_mark: int = HIGH_WATER_MARK,
        **options: "Unpack[Options]",
    ) -> None:
        if not isinstance(high_water_mark, int) or isinstance(high_water_mark, bool):
            raise TypeError(f"high_water_mark is an int of messages, not {high_water_mark!r}")
        if high_water_mark < 1:
            raise ValueError(f"high_water_mark must be at least 1, and is {high_water_mark}")
        environ = None if request is None else environ_of(request)
        # Without a request, the stream's loop is not known yet.
        call_queue = None if environ is None else call_queue_of(environ)
        settings = stream_settings(options)
        if high_water_mark is HIGH_WATER_MARK:
            high_water_mark = min(int(high_water_mark), settings.max_messages)
        if high_water_mark > settings.max_messages:
            raise ValueError(
                f"high_water_mark ({high_water_mark}) must not be above"
                f" max_messages ({settings.max_messages})"
            )
        connection = None if environ is None else Connection.of(environ)
        super().__init__(call_queue, connection, settings, high_water_mark)
        self._iterated: tuple[Body, ...] = ()
        self._client: Hashable | None = None
        #: The id of the last message that the client has seen, or None. It comes from the
        #: ``Last-Event-ID`` header, or else from the ``lastEventId`` query parameter. The
        #: client may send any text: it is only sure that the id has no control characters and
        #: at most `request.MAX_LAST_EVENT_ID` characters.
        self.last_event_id: str | None = None
        if environ is not None:
            self.last_event_id, has_id = last_event_id(environ)
            if has_id and self.last_event_id is None:
                self._has_bad_id = True
            self._client = client_of(environ, settings)
        self._json = app_json()
        if environ is not None:
            belong(environ, self)

    # -- the state, by the names that Node's streams use

    @property
    def writable_length(self) -> int:
        """Messages that wait in the queue."""
        return len(self._queue)

    @property
    def writable_high_water_mark(self) -> int:
        """Messages in the queue at which `write` returns False."""
        return self._queue.high_water_mark

    @property
    def writable_need_drain(self) -> bool:
        """Whether ``drain`` will come."""
        return self._need_drain

    @property
    def writable_ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    @property
    def writable_finished(self) -> bool:
        """Whether `end` was called and every message was handed on (``finish``)."""
        return self._finished

    @property
    def destroyed(self) -> bool:
        """Whether the stream is over: destroyed, left by its client, or ended and delivered.

        Also True in a child process that a view forks, because the stream there is a copy.
        """
        return self._closed or self._is_lost()

    # -- the writable half

    def write(
        self,
        message: Message,
        encoding: str | Callback | None = None,
        callback: Callback | None = None,
    ) -> bool:
        """Serialise *message* and queue it. Never blocks. Any thread may call it.

        *message* is a mapping with ``data``, ``event``, ``id``, ``retry`` or
        ``comment``. *encoding* is there because Node has it; only UTF-8 is
        possible, and None means UTF-8. *callback* is called with None when the
        message was handed on, or with the error that prevented this; None means
        no callback. A callable in the place of *encoding* is the callback.

        Returns False when `writable_high_water_mark` messages wait, or
        ``max_bytes`` bytes: write again after ``drain``. Also returns False,
        without an error, when the stream is over: its client has left, it was
        destroyed, or it has ended and everything was delivered.

        Raises `MessageError` for a message that cannot be sent; nothing is
        queued then. Raises `WriteAfterEnd` between `end` and ``close``, and
        `BufferFull` if too much waits and ``overflow`` is ``"error"``. Raises
        ``TypeError`` for a *callback* that is an ``async def``, and
        ``ValueError`` for another *encoding*. Node's ``writable.write``.
        """
        if callable(encoding):
            encoding, callback = None, encoding
        if encoding is not None and str(encoding).lower() not in ("utf-8", "utf8"):
            raise ValueError(f"encoding: an event stream is always UTF-8, not {encoding!r}")
        if callback is not None:
            check_callable("callback", callback)
        frame = encode(message, app_dumps(self._json))
        if self._channels is not None:
            self._check_id(frame)
        if len(frame) > LARGE:
            frame = shared.large(frame)
        return (callback is None and self._write_through(frame)) or self._queue_up(frame, callback)

    def write_message(
        self,
        message: Message,
        encoding: str | Callback | None = None,
        callback: Callback | None = None,
    ) -> bool:
        """The same as `write`. Node-ssestream's ``writeMessage``."""
        return self.write(message, encoding, callback)

    def push(self, frame: bytes) -> bool:
        """Queue *frame*, a message that `wire.encode` has serialised already.

        A loop over many clients can serialise each message once and push it to
        all of them. Returns and raises as `write`. Raises ``TypeError`` for
        anything but bytes. Node's ``readable.push``.
        """
        if not isinstance(frame, bytes):
            raise TypeError(f"a frame is bytes, not {type(frame).__name__}")
        if type(frame) is not bytes:
            frame = plain_bytes(frame)
        if self._channels is not None:
            self._check_id(frame)
        return self._write_through(frame) or self._queue_up(frame, None)

    def end(self, message: Message | None = None) -> None:
        """Take no more writes. The queue is delivered first, then the response ends.

        *message* is written before that; None writes nothing. Raises as `write`
        does for *message*. Node's ``writable.end``.
        """
        if message is not None:
            self.write(message)
        self._end()

    def destroy(self, error: BaseException | None = None) -> None:
        """Drop the queue, cut the connection, emit ``close``.

        If *error* is not None, the stream emits ``error`` with it first. The
        callbacks of the dropped messages get *error*, or else a
        `StreamDestroyed`. Raises ``TypeError`` for an *error* that is no
        exception. Node's ``stream.destroy``.
        """
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {type(error).__name__}")
        self._close_now(error, StreamDestroyed("the stream was destroyed"), cut=True)

    # -- the readable half

    def pipe(self, destination: D, end: bool = True) -> D:
        """Let all queued and future messages flow to *destination*.

        *destination* is a `ServerResponse` or any object with ``write(bytes)``
        (see `Destination`). If it has ``write_head``, the head is written first.
        Then come ``:ok`` and a blank line, at which every browser fires ``open``.
        If *end* is true, the destination is ended when the stream ends.

        Returns *destination*. Raises ``TypeError`` if it has no ``write`` or if
        its ``write`` is an ``async def``. Raises `HeadersSent` if it is a response
        that is being sent already. Raises `StreamError` if it was ended, or if this
        stream is piped to it already. Raises `StreamDestroyed` if the stream is
        over or the destination is closed. Node's ``readable.pipe``.
        """
        if not callable(getattr(destination, "write", None)):
            raise TypeError(
                "a destination needs a write() method, as a ServerResponse has;"
                f" {type(destination).__name__} has none"
            )
        if not has_own_write(destination):
            check_callable("write() of a destination", destination.write)
        if self.destroyed:
            why = "" if self._gone is None else f": {self._gone}"
            raise StreamDestroyed(f"this stream is over and cannot be piped{why}")
        if isinstance(destination, OutgoingMessage):
            if destination.closed:
                raise StreamDestroyed("the destination is closed")
            if destination.writable_ended:
                raise StreamError("the destination was ended and takes no more writes")
        if self._pipes and any(pipe.destination is destination for pipe in self._pipes):
            raise StreamError("this stream is already piped to that destination")
        if hasattr(destination, "write_head"):
            destination.write_head(200, HEADERS)
        pipe = Pipe(self, destination, end)
        flush_headers = getattr(destination, "flush_headers", _nothing)
        if pipe.body is None:
            flush_headers()
        pipe.greet()
        if pipe.body is not None:
            pipe.body.settings = self._settings
            # The stream of one client shares the call queue of its response, so that the events of
            # both come in one order. A stream of many clients keeps its own call queue: a slow
            # handler of one client must not delay it.
            if self._connection is not None:
                self._call_queue = pipe.body.call_queue
            elif not self._call_queue.has_loop:
                self._call_queue = CallQueue(pipe.body.call_queue.loop)
        pipe.tell("pipe")
        self._attach(pipe)
        if pipe.body is not None:
            # Last, since it starts the response of a handler.
            flush_headers()
        return destination

    def unpipe(self, destination: Destination | None = None) -> "SseStream":
        """Stop the flow to *destination*; None means all destinations.

        Nothing ends: messages that are written from now on wait for the next
        `pipe`. Up to the high-water mark they count as handed on, so their
        callbacks are called. If the stream is not piped to *destination*, nothing
        happens. Returns the stream. Node's ``readable.unpipe``.
        """
        self._unpipe(destination)
        return self

    def __iter__(self) -> Iterator[bytes]:
        """The stream as a WSGI iterable, for ``Response(sse_stream, ...)``.

        The response is opened when the server asks for the first chunk. For
        HEAD it never asks.
        """
        outgoing = OutgoingMessage(self._call_queue if self._connection else None)
        body = body_of(outgoing)
        with self._state_lock:
            self._iterated = (*self._iterated, body)
        try:
            connection = self._connection or Connection()
            self.pipe(outgoing)
            body.open(connection, self._settings, self._client)
            yield from body
        finally:
            with self._state_lock:
                self._iterated = tuple(each for each in self._iterated if each is not body)
            body.close()

    def close(self) -> None:
        """End the stream: the server is done with the iterable (PEP 3333).

        Werkzeug's response calls it. A stream without a request goes on, because
        it may have other clients.
        """
        if self._connection is not None:
            for body in self._iterated:
                body.close()
            self._close_now(None, disconnected(), cut=False)
            self._call_queue.run()

    def _check_id(self, frame: bytes) -> None:
        """Raise `MessageError` if *frame* has an id that its channels did not give."""
        found = id_of(frame)
        channels = self._channels
        if found is not None and channels is not None and not channels.knows(found):
            raise MessageError(
                f"'id' {found[:40]!r} beside channels: a browser keeps one id, by which it"
                " comes back to the channels that this stream follows",
                "id",
            )

    def _queue_up(self, frame: bytes, callback: Callback | None) -> bool:
        """Queue *frame*, which the app has written."""
        look_at_queue(self, self._pipes)
        if self._pipes or self._closed:
            writer = running_writer()
            if writer is not None:
                writer.wait_for(self, self._call_queue, [pipe.body for pipe in self._pipes])
        return self._enqueue(frame, callback)

    # -- the request and the channels of the stream

    def _leads_to(self, response: object) -> bool:
        """Whether the stream is piped into *response*."""
        return any(pipe.destination is response for pipe in self._pipes)

    def _is_forgotten(self, response: Any) -> bool:
        """Whether a view returned *response* and forgot to pipe the stream into it."""
        elsewhere = any(pipe.body is None for pipe in self._pipes)
        if self._closed or self._unpiped or self._iterated or elsewhere:
            return False
        body: Any = response.response
        is_event_stream = bool(response.mimetype == "text/event-stream")
        if not isinstance(response, OutgoingMessage):
            # Without a byte, and so without a message of another making.
            return is_event_stream and bool(body == [] and response.status_code == 200)
        if response.closed or response.writable_ended or not isinstance(body, Body):
            return False
        self._is_left_over = True
        if self._queue or self._channels is not None:
            return True
        # A view may write all events by hand, and use the stream for its `last_event_id` alone.
        return not (body.inlets or response.writable_length or is_event_stream)

    def _request_over(self) -> None:
        """Close the stream: its request is over, and the answer does not carry the stream."""
        if not self._iterated:
            reason = StreamDestroyed("the request of this stream is over, and has not sent it")
            self._close_now(None, reason, cut=True)

    def _belongs_to(self, channels: object) -> bool:
        """Let the stream follow *channels*. False if it follows another `Channels` object."""
        with self._state_lock:
            if self._channels is None:
                self._channels = channels
            return self._channels is channels
