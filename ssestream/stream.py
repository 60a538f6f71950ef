"""SseStream: messages in, an event stream out, with the semantics of Node's streams.

The rules
---------

* All code that changes a stream's state is in this file. It runs under one lock,
  and the lock is never held while other code (an app's, a destination's) runs.
* One thread or greenlet at a time moves frames to the destinations (`_pump`).
  A writer that finds the pump busy leaves its frame in the queue. So the frames
  stay in order.
* No frame leaves the queue before every destination is ready for it, so the
  slowest destination sets the pace. A destination is not ready while its
  ``write()`` runs. If ``write()`` returns False, it is not ready until its
  ``drain``.

The theory
----------

A stream is two halves back to back. The writable half takes messages until
``end()``. The readable half gives the messages to the destinations until the
queue is empty. Four states matter:

=========  ====================  ==============================  ==============
state      ``write()``           the queue                       comes next
=========  ====================  ==============================  ==============
writable   queues                flows while all are ready       ended, closed
ended      raises                flows while all are ready       finished, closed
closed     False, not an error   is dropped                      (none)
finished   False, not an error   is empty and stays so           (none)
=========  ====================  ==============================  ==============

``end()`` leads from writable to ended. When the queue is then empty, the stream
emits ``finish``; when it also has a destination, it emits ``end`` and ``close``
and is finished. ``destroy()`` and the client's departure lead to closed from
every state. As in Node, a write raises only between ``end()`` and ``close``.
Many handlers of ``close`` call ``end()``, and a write after ``close`` returns
False whether ``end()`` was called or not.

The client's departure closes a stream that was made with a request, because no
other client can come. A stream without a request only loses that destination.
It is then idle until the next ``pipe()``, and drops every message that is
written meanwhile, because perhaps no client ever comes. But after the app's own
``unpipe()`` the stream keeps the messages for the next ``pipe()``.
"""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import GreenletExit

from .belonging import belong
from .errors import (
    BufferFull,
    ClientDisconnected,
    MessageError,
    StreamDestroyed,
    StreamError,
    WriteAfterEnd,
)
from .http.body import Body
from .http.connection import Connection
from .http.diagnosis import burst, never_piped, written_in_a_job
from .http.interning import LARGE, shared
from .http.origin import call_queue_of
from .http.outgoing import OutgoingMessage
from .http.output import OutputBuffer
from .http.registry import registry
from .http.request import environ_of, last_event_id
from .http.unsent import look_at_queue
from .jsontext import app_dumps, app_json
from .message_queue import Callback, MessageQueue
from .pipe import Destination, Pipe, Unpiped
from .plain import plain_bytes
from .runtime.callables import check_callable, fitting
from .runtime.clock import clock
from .runtime.emitter import CallQueue, Emitter
from .runtime.forking import process
from .runtime.loop import sleep
from .settings import Options, client_of, stream_settings
from .wire import Message, encode, id_of


class _Usual(int):
    """A default that ``max_messages`` may lower. The same value from an app is refused instead."""


#: Messages that may wait before ``write()`` returns False. Node has the same default for
#: streams of objects. A smaller ``max_messages`` lowers it.
HIGH_WATER_MARK = _Usual(16)

#: The headers of every stream. ``no-transform`` stops compressing middleware and proxies from
#: buffering; ``X-Accel-Buffering`` stops nginx. None of the headers is hop-by-hop, because PEP
#: 3333 forbids these.
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

#: Seconds for which a writer waits for a reader in another thread to send the chunk that it has
#: taken. Several times as long as Python lets one thread run.
TIME_TO_READ = 0.05

if TYPE_CHECKING:
    from typing_extensions import Unpack

D = TypeVar("D", bound=Destination)


class SseStream(Emitter):
    """A stream of messages, as in Node's ``ssestream``.

    *request* is a Flask or Werkzeug request or a WSGI environ. The stream then
    tunes the client's socket (keep-alive, no-delay, no timeout) and reads
    `last_event_id`. It ends with a request of Flask's, also when the request is
    answered without the stream (see ``belonging``). None makes a stream that
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

    #: Whether the app has unpiped the stream and not piped it again. A class attribute, because
    #: most streams are never unpiped and so need no attribute of their own.
    _unpiped = False

    _only_one = "it is on its way to its clients. Copy the messages instead"
    # Whether its request was answered by a response that it is not piped into. A class attribute,
    # because few streams are left so.
    _is_left_over = False

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
        super().__init__(None if environ is None else call_queue_of(environ))
        self._settings = stream_settings(options)
        if high_water_mark is HIGH_WATER_MARK:
            high_water_mark = min(int(high_water_mark), self._settings.max_messages)
        if high_water_mark > self._settings.max_messages:
            raise ValueError(
                f"high_water_mark ({high_water_mark}) must not be above"
                f" max_messages ({self._settings.max_messages})"
            )
        self._client: Hashable | None = None
        self._connection: Connection | None = None
        self._iterated: tuple[OutgoingMessage, ...] = ()
        #: The id of the last message that the client has seen, or None. It comes from the
        #: ``Last-Event-ID`` header, or else from the ``lastEventId`` query parameter. The
        #: client may send any text: it is only sure that the id has no control characters and
        #: at most `request.MAX_LAST_EVENT_ID` characters.
        self.last_event_id: str | None = None
        if environ is not None:
            self._connection = Connection.of(environ)
            self.last_event_id, has_id = last_event_id(environ)
            if has_id and self.last_event_id is None:
                self._has_bad_id = True
            self._client = client_of(environ, self._settings)
        self._json = app_json()
        # The stream keeps this lock, even when `pipe` moves it to another call queue.
        self._state_lock = self._call_queue.lock
        self._queue = MessageQueue.empty(high_water_mark, self._settings)
        # A tuple is never changed, only replaced, so that it can be read without the lock.
        self._pipes: tuple[Pipe, ...] = ()
        # The response's buffer, if frames may go past the queue: there is exactly one pipe, it
        # leads to a response, and nothing waits. `_set_pipes` and `_hold` keep this true.
        self._output: OutputBuffer | None = None
        self._pumping = False
        self._need_drain = False
        self._ended = False
        self._finished = False
        self._closed = False
        # Whether the last destination has gone and none was piped since. Writes are dropped.
        self._abandoned = False
        # Whether the server has ended the stream. The app cannot know this, so its later writes
        # are no error.
        self._retiring = False
        # The reason that `_close` was given; None before that, and after a normal end.
        self._gone: StreamError | None = None
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
        with self._state_lock:
            self._ended = True
            self._set_pipes(self._pipes)
        self._flow()

    def destroy(self, error: BaseException | None = None) -> None:
        """Drop the queue, cut the connection, emit ``close``.

        If *error* is not None, the stream emits ``error`` with it first. The
        callbacks of the dropped messages get *error*, or else a
        `StreamDestroyed`. Raises ``TypeError`` for an *error* that is no
        exception. Node's ``stream.destroy``.
        """
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {type(error).__name__}")
        self._close(error, StreamDestroyed("the stream was destroyed"), cut=True)

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
        if getattr(destination.write, "__func__", None) is not OutgoingMessage.write:
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
        if hasattr(destination, "flush_headers"):
            destination.flush_headers()
        pipe = Pipe(self, destination, end)
        pipe.greet()
        if isinstance(destination, OutgoingMessage):
            destination._settings = self._settings
            # The stream of one client shares the call queue of its response, so that the events of
            # both come in one order. A stream of many clients keeps its own call queue: a slow
            # handler of one client must not delay it.
            if self._connection is not None:
                self._call_queue = destination._call_queue
            elif not self._call_queue.has_home:
                self._call_queue = CallQueue(destination._call_queue.loop)
        pipe.tell("pipe")
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
            self._left(pipe)
        elif self._queue or self._ended or self._need_drain:
            self._flow()
        return destination

    def unpipe(self, destination: Destination | None = None) -> "SseStream":
        """Stop the flow to *destination*; None means all destinations.

        Nothing ends: messages that are written from now on wait for the next
        `pipe`. Up to the high-water mark they count as handed on, so their
        callbacks are called. If the stream is not piped to *destination*, nothing
        happens. Returns the stream. Node's ``readable.unpipe``.
        """
        self._part(destination)
        with self._state_lock:
            idle = not self._pipes and not self._closed
            if idle:
                self._unpiped = True
            taken = self._queue.take_callbacks() if idle else []
        self._tell(taken, None)
        return self

    def _part(self, destination: Destination | None) -> None:
        with self._state_lock:
            all_pipes = self._pipes
            leaving = [p for p in all_pipes if destination is None or p.destination is destination]
            self._set_pipes(tuple(p for p in all_pipes if p not in leaving))
            belongs = self._connection is not None and not self._closed
        for pipe in leaving:
            pipe.detach()
            if belongs and isinstance(pipe.destination, OutgoingMessage):
                # The stream still ends when its client leaves, unless it is piped elsewhere by
                # then.
                Unpiped.of(self, pipe.destination)
        self._flow()

    def __iter__(self) -> Iterator[bytes]:
        """The stream as a WSGI iterable, for ``Response(sse_stream, ...)``.

        The response is opened when the server asks for the first chunk. For
        HEAD it never asks.
        """
        outgoing = OutgoingMessage(self._call_queue if self._connection else None)
        with self._state_lock:
            self._iterated = (*self._iterated, outgoing)
        try:
            connection = self._connection or Connection()
            self.pipe(outgoing).open(connection, self._settings, self._client)
            yield from Body(outgoing)
        finally:
            with self._state_lock:
                self._iterated = tuple(o for o in self._iterated if o is not outgoing)
            outgoing.server_done()

    def close(self) -> None:
        """End the stream: the server is done with the iterable (PEP 3333).

        Werkzeug's response calls it. A stream without a request goes on, because
        it may have other clients.
        """
        if self._connection is not None:
            for outgoing in self._iterated:
                outgoing.server_done()
            self._close(None, _disconnected(), cut=False)
            self._call_queue.run()

    # -- methods that change the state

    def _set_pipes(self, pipes: tuple[Pipe, ...]) -> None:
        """Set the pipes. Called under the lock, after any other change of state."""
        self._hold()
        self._pipes = pipes
        if len(pipes) == 1 and not (self._ended or self._closed or self._queue or self._pumping):
            self._output = pipes[0].buffer

    def _hold(self) -> None:
        """Let no frame go past the queue. Called under the lock."""
        straight, self._output = self._output, None
        if straight is not None and straight.cohort is not None and straight.direct is not None:
            straight.cohort.leave(straight.direct)

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

    def _say(self, block: bytes) -> None:
        """Write *block*, which does not count as a message."""
        try:
            if not self._write_through(block, 0):
                self._enqueue(block, None)
        except StreamError:  # the app has ended the stream
            pass

    def _belongs_to(self, channels: object) -> bool:
        """Let the stream follow *channels*. False if it follows another `Channels` object."""
        with self._state_lock:
            if self._channels is None:
                self._channels = channels
            return self._channels is channels

    def _check_id(self, frame: bytes) -> None:
        """Raise `MessageError` if *frame* has an id that its channels did not give."""
        found = id_of(frame)
        channels = self._channels
        if found is not None and channels is not None and not channels._knows(found):
            raise MessageError(
                f"'id' {found[:40]!r} beside channels: a browser keeps one id, by which it"
                " comes back to the channels that this stream follows",
                "id",
            )

    def _queue_up(self, frame: bytes, callback: Callback | None) -> bool:
        """Queue *frame*, which the app has written."""
        look_at_queue(self, self._pipes)
        return self._enqueue(frame, callback)

    def _enqueue(self, frame: bytes, callback: Callback | None) -> bool:
        if self._is_lost():
            written_in_a_job(callback)
            return False
        if self._need_drain and self._queue.is_over(frame):
            self._let_read()
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
            self._tell([callback], late or _disconnected())
            return False
        if taken:
            self._tell([callback], None)
        self._flow()
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

        The bound in bytes always holds. The bound in messages holds only for clients
        that had time to read. If a view writes before it returns, or an app writes
        many messages in one turn of the loop, no client could read any of them yet.
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

    def _let_read(self) -> None:
        """Wait a moment until readers in other threads have sent their last chunk.

        Otherwise a busy writer, which never lets go of the interpreter, would cut
        clients that are not slow.
        """
        since = self._queue.full_at
        for pipe in self._pipes:
            response, buffer = pipe.destination, pipe.buffer
            if not isinstance(response, OutgoingMessage) or buffer is None:
                continue
            # A reader in this very thread cannot run while this waits.
            if not response._call_queue.loop.here():
                until = buffer.taken_at + TIME_TO_READ
                while buffer.is_stuck(since) and clock.now() < until:
                    sleep(0.001)

    def _overflow(self) -> None:
        """Apply the policy ``overflow``: too much waits."""
        if self._settings.overflow == "drop-oldest":
            self._drop_oldest()
            return
        # Cut only the clients that hold up the others. They reconnect and resume.
        full = [pipe for pipe in self._pipes if not pipe.ready]
        slow = [pipe for pipe in full if pipe.is_slow(self._queue.full_at)]
        for pipe in slow or full:
            if isinstance(pipe.destination, OutgoingMessage):
                pipe.destination.cut("overflow")
            else:
                self._emit_soon("error", BufferFull("a destination is too slow"))
                self._part(pipe.destination)
        if self._pipes:
            return
        if self._connection is not None:
            if not (full or self._closed or self._is_left_over):  # it was not piped yet
                burst(None)
            self._close(None, BufferFull("more waited than is allowed"), cut=False)
        else:
            # There is no client to cut, and one may still come.
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with self._state_lock:
            dropped = self._queue.trim()
        registry.count("dropped", len(dropped))
        self._tell(dropped, BufferFull("dropped, as newer messages came"))

    def _flow(self) -> None:
        """Move frames on: in this thread, or in another one if a destination may block."""
        if all(pipe.never_blocks for pipe in self._pipes):
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
                self._left(pipe)
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

    def _left(self, pipe: Pipe) -> None:
        """Drop *pipe*, because its destination has closed."""
        with self._state_lock:
            if pipe not in self._pipes:
                return
            self._set_pipes(tuple(other for other in self._pipes if other is not pipe))
            last = not self._pipes
        pipe.detach()
        if not last:
            self._flow()
        elif self._connection is not None:
            self._close(None, _disconnected(), cut=False)
        else:
            with self._state_lock:
                self._abandoned = not self._pipes
                owed = self._need_drain
            self._drop(_disconnected())
            if owed:
                self._emit_soon("drain")

    def _leads_to(self, response: object) -> bool:
        return any(pipe.destination is response for pipe in self._pipes)

    def _is_forgotten(self, response: Any) -> bool:
        """Whether a view returned *response* and forgot to pipe the stream into it."""
        elsewhere = not all(isinstance(p.destination, OutgoingMessage) for p in self._pipes)
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
        return not (response._inlets or response.writable_length or is_event_stream)

    def _request_over(self) -> None:
        """Close the stream: its request is over, and the answer does not carry the stream."""
        if not self._iterated:
            reason = StreamDestroyed("the request of this stream is over, and has not sent it")
            self._close(None, reason, cut=True)

    def _client_of_unpiped_left(self) -> None:
        if not self._pipes:
            self._close(None, _disconnected(), cut=False)

    def _retired(self, pipe: Pipe, dropping: bool) -> list[bytes]:
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
            self._flow()
            return []
        dropped = StreamDestroyed("the stream was refused") if dropping else None
        self._tell([callback for _, callback in entries], dropped)
        if self._connection is not None:
            self._close(None, ClientDisconnected("the server ended the stream"), cut=False)
        return [frame for frame, _ in entries]

    def _has_room(self) -> bool:
        """Whether at least half of the bounds is free. If not, ``drain`` will come.

        A subscription that reads from a log then stops, and reads on later.
        """
        with self._state_lock:
            room = self._queue.has_room()
            if not room:
                self._need_drain = True
            return room

    def _waiting_bytes(self) -> int:
        return self._queue.bytes

    def _close(self, error: BaseException | None, reason: StreamError, cut: bool) -> None:
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


def _disconnected() -> ClientDisconnected:
    return ClientDisconnected("the client has left")
