"""SseStream: messages in, an event stream out. The public face of a `flow.Flow`."""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import flask

from .config import app_dumps, client_of, of_request, stream_settings
from .errors import MessageError, StreamDestroyed, StreamError
from .flow import Flow
from .http.connection import Connection
from .http.diagnosis import refused
from .http.interning import LARGE, shared
from .http.origin import call_queue_of
from .http.outgoing import OutgoingMessage, body_of, has_own_write
from .http.request import environ_of, last_event_id
from .http.slow_view import look_at_queue
from .http.unanswered import guard
from .http.view import belong
from .message_queue import Callback
from .pipe import Destination, Pipe
from .plain import plain_bytes, shortened
from .runtime.callables import check_callable
from .runtime.calls import CallQueue
from .runtime.emitter import Emitter
from .runtime.writer import let_wait
from .settings import Options
from .wire import HEADERS, Message, encode


class _Usual(int):
    """The number of a default. Its class tells it from an equal number that an app has given."""


#: Messages that may wait before ``write()`` returns False. Node has the same default for
#: streams of objects. A smaller ``max_messages`` lowers it.
HIGH_WATER_MARK = _Usual(16)


if TYPE_CHECKING:
    from typing_extensions import Unpack

D = TypeVar("D", bound=Destination)


class SseStream(Emitter):
    """A stream of messages, as in Node's ``ssestream``.

    *request* is a Flask or Werkzeug request or a WSGI environ. The stream then
    tunes the client's socket (keep-alive, no-delay, no timeout) and reads
    `last_event_id`. It ends with its request, also when the request is answered
    without the stream (see ``http.view``, and ``http.unanswered`` for frameworks
    other than Flask). None makes a stream that belongs to no client.

    *high_water_mark* is the number of messages that may wait before `write`
    returns False. Its default is 16, or ``max_messages`` if that is smaller.

    *options* are settings of this stream that replace the app's (see
    `settings.Settings`): ``heartbeat``, ``send_timeout``, ``tcp_user_timeout``,
    ``max_messages``, ``max_bytes``, ``overflow``, ``max_age``, ``retry``,
    ``on_shutdown``, ``interrupted``, ``compress`` and ``id_blocks``.

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

    # The client's key for ``max_streams_per_client``. A class attribute, as most apps set none.
    _client: Hashable | None = None

    #: The id of the last message that the client has seen, or None. It comes from the
    #: ``Last-Event-ID`` header, or else from the ``lastEventId`` query parameter. The
    #: client may send any text: it is only sure that the id has no control characters and
    #: at most `request.MAX_LAST_EVENT_ID` characters.
    last_event_id: str | None = None

    def __init__(
        self,
        request: Any = None,
        *,
        high_water_mark: int = HIGH_WATER_MARK,
        **options: "Unpack[Options]",
    ) -> None:
        if not isinstance(high_water_mark, int) or isinstance(high_water_mark, bool):
            raise TypeError(
                f"high_water_mark is an int of messages, not {shortened(high_water_mark)}"
            )
        if high_water_mark < 1:
            raise ValueError(f"high_water_mark must be at least 1, and is {high_water_mark}")
        environ = None if request is None else environ_of(request)
        # Without a request, the stream's loop is not known yet.
        call_queue = None if environ is None else call_queue_of(environ)
        settings = stream_settings(options)
        if environ is not None:
            settings = of_request(settings, environ)
        if high_water_mark is HIGH_WATER_MARK:
            high_water_mark = min(int(high_water_mark), settings.max_messages)
        if high_water_mark > settings.max_messages:
            raise ValueError(
                f"high_water_mark ({high_water_mark}) must not be above"
                f" max_messages ({settings.max_messages})"
            )
        connection = None if environ is None else Connection.of(environ)
        flow = self._flow = Flow(self, call_queue, connection, settings, high_water_mark)
        super().__init__(flow.call_queue)
        if environ is not None:
            event_id, has_id = last_event_id(environ)
            if event_id is not None:
                self.last_event_id = event_id
            elif has_id:
                self._has_bad_id = True
            client = client_of(environ, settings)
            if client is not None:
                self._client = client
        self._dumps = app_dumps()
        if environ is not None:
            if flask.has_request_context():
                belong(environ, flow)
            else:
                guard(environ, flow)

    # The flow has the call queue, and moves to another one in `pipe`.
    @property
    def _call_queue(self) -> CallQueue:
        return self._flow.call_queue

    @_call_queue.setter
    def _call_queue(self, call_queue: CallQueue) -> None:
        """Do nothing: `Emitter` sets the call queue that the flow has already."""

    def _emit_here(self, event: str, *args: object) -> None:
        self._flow.tell_followers(event)
        super()._emit_here(event, *args)

    # -- the state, by the names that Node's streams use

    @property
    def writable_length(self) -> int:
        """Messages that wait in the queue."""
        return len(self._flow.queue)

    @property
    def writable_high_water_mark(self) -> int:
        """Messages in the queue at which `write` returns False."""
        return self._flow.queue.high_water_mark

    @property
    def writable_need_drain(self) -> bool:
        """Whether ``drain`` will come."""
        return self._flow.need_drain

    @property
    def writable_ended(self) -> bool:
        """Whether `end` was called."""
        return self._flow.ended

    @property
    def writable_finished(self) -> bool:
        """Whether `end` was called and every message was handed on (``finish``)."""
        return self._flow.finished

    @property
    def destroyed(self) -> bool:
        """Whether the stream is over: destroyed, left by its client, or ended and delivered.

        Also True in a child process that a view forks, because the stream there is a copy.
        """
        return self._flow.closed or self._flow.is_copy

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

        Returns False when `writable_high_water_mark` messages wait, or ``max_bytes``
        bytes, and when the last destination has gone: write again after ``drain``.
        Also returns False, without an error, when the stream is over: its client has
        left, it was destroyed, or it has ended and everything was delivered.

        Raises `MessageError` for a message that cannot be sent; nothing is
        queued then. Raises `WriteAfterEnd` between `end` and ``close``, and
        `BufferFull` if too much waits and ``overflow`` is ``"error"``. Raises
        ``TypeError`` for a *callback* that is an ``async def``, and
        ``ValueError`` for another *encoding*. Node's ``writable.write``.
        """
        if encoding is not None:
            if callable(encoding):
                callback = encoding
            elif str(encoding).lower() not in ("utf-8", "utf8"):
                raise ValueError(
                    f"encoding: an event stream is always UTF-8, not {shortened(encoding)}"
                )
        if callback is not None:
            check_callable("callback", callback)
        try:
            frame = encode(message, self._dumps or app_dumps())
        except MessageError as error:
            refused(error)
            raise
        flow = self._flow
        if flow.checks_ids:
            flow.check_id(frame)
        if len(frame) > LARGE:
            frame = shared.large(frame)
        return (callback is None and flow.write_through(frame)) or self._queue_up(frame, callback)

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

        A subclass that overrides this gets the events of the stream's channels one by one.
        It must write each before it returns: the id of the next event covers it.
        """
        if not isinstance(frame, bytes):
            raise TypeError(f"a frame is bytes, not {type(frame).__name__}")
        if type(frame) is not bytes:
            frame = plain_bytes(frame)
        flow = self._flow
        if flow.checks_ids:
            flow.check_id(frame)
        return flow.write_through(frame) or self._queue_up(frame, None)

    def end(self, message: Message | None = None) -> None:
        """Take no more writes. The queue is delivered first, then the response ends.

        *message* is written before that; None writes nothing. Raises as `write`
        does for *message*. Node's ``writable.end``.
        """
        if message is not None:
            self.write(message)
        self._flow.end()

    def destroy(self, error: BaseException | None = None) -> None:
        """Drop the queue, cut the connection, emit ``close``.

        If *error* is not None, the stream emits ``error`` with it first. The
        callbacks of the dropped messages get *error*, or else a
        `StreamDestroyed`. Raises ``TypeError`` for an *error* that is no
        exception. Node's ``stream.destroy``.
        """
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {type(error).__name__}")
        self._flow.close(error, StreamDestroyed("the stream was destroyed"), cut=True)

    # -- the readable half

    def pipe(self, destination: D, end: bool = True) -> D:
        """Let all queued and future messages flow to *destination*.

        *destination* is a `ServerResponse` or any object with ``write(bytes)``
        (see `Destination`). If it has ``write_head``, the head is written first.
        Then come ``:ok`` and a blank line, at which every browser fires ``open``.
        If *end* is true, the destination is ended when the stream ends.

        Returns *destination*. Raises ``TypeError`` if it has no ``write`` or if
        its ``write`` is an ``async def``, and if it is an `SseStream`. Raises
        `HeadersSent` if it is a response that is being sent already. Raises
        `StreamError` if it was ended, if this stream is piped to it already, or if
        this stream follows channels and another one that is piped to it does, too.
        Raises `StreamDestroyed` if the stream is over or the destination is closed.
        Node's ``readable.pipe``.
        """
        if not callable(getattr(destination, "write", None)):
            raise TypeError(
                "a destination needs a write() method, as a ServerResponse has;"
                f" {type(destination).__name__} has none"
            )
        if not has_own_write(destination):
            check_callable("write() of a destination", destination.write)
        if isinstance(destination, SseStream):
            raise TypeError("a stream cannot be piped into a stream: pipe both into the response")
        flow = self._flow
        flow.check_open()
        if isinstance(destination, OutgoingMessage):
            if destination.closed:
                raise StreamDestroyed("the destination is closed")
            if destination.writable_ended:
                raise StreamError("the destination was ended and takes no more writes")
        if flow.pipes and any(pipe.destination is destination for pipe in flow.pipes):
            raise StreamError("this stream is already piped to that destination")
        flow.check_alone(destination)
        if hasattr(destination, "write_head"):
            destination.write_head(flow.status(), HEADERS)
        pipe = Pipe(flow, self, destination, end)
        if pipe.body is None and hasattr(destination, "flush_headers"):
            destination.flush_headers()
        pipe.greet()
        if pipe.body is not None:
            pipe.body.settings = flow.settings
            flow.move_to(pipe.body.call_queue)
        pipe.emit_there("pipe")
        flow.attach(pipe)
        flow.tell_of_pipe(destination)
        # Last, since it starts the response of a handler.
        if pipe.body is not None and hasattr(destination, "flush_headers"):
            destination.flush_headers()
        return destination

    def unpipe(self, destination: Destination | None = None) -> "SseStream":
        """Stop the flow to *destination*; None means all destinations.

        Nothing ends: messages that are written from now on wait for the next
        `pipe`. Up to the high-water mark they count as handed on, so their
        callbacks are called. Earlier messages stay in the destination, also in a response that
        is then never sent. If the stream is not piped to *destination*, nothing
        happens. Returns the stream. Node's ``readable.unpipe``.
        """
        self._flow.unpipe(destination)
        return self

    def __iter__(self) -> Iterator[bytes]:
        """The stream as a WSGI iterable, for ``Response(sse_stream, ...)``.

        The response is opened when the server asks for the first chunk. For
        HEAD it never asks.
        """
        flow = self._flow
        outgoing = OutgoingMessage(flow.call_queue if flow.connection else None)
        body = body_of(outgoing)
        flow.begin_iteration(body)
        try:
            connection = flow.connection or Connection()
            self.pipe(outgoing)
            body.open(connection, flow.settings, self._client)
            yield from body
        finally:
            flow.end_iteration(body)
            body.close()

    def close(self) -> None:
        """End the stream: the server is done with the iterable (PEP 3333).

        Werkzeug's response calls it. A stream without a request goes on, because
        it may have other clients.
        """
        flow = self._flow
        if flow.connection is not None:
            for body in flow.iterated:
                body.close()
            flow.client_left()
            flow.call_queue.run()

    def _queue_up(self, frame: bytes, callback: Callback | None) -> bool:
        """Queue *frame*, which the app has written."""
        flow = self._flow
        look_at_queue(flow, flow.pipes)
        if flow.pipes or flow.closed:
            let_wait(self, flow.call_queue, [pipe.body for pipe in flow.pipes])
        return flow.enqueue(frame, callback)


def flow_of(stream: SseStream) -> Flow:
    """The flow of *stream*, by which the other rooms know it."""
    return stream._flow


def has_bad_id(stream: SseStream) -> bool:
    """Whether the client of *stream* sent an id that no server can have given it."""
    return stream._has_bad_id
