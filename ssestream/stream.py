"""SseStream: messages in, an event stream out. Node's semantics.

The rules
---------

* Everything that changes state is in this file, under one lock that is never
  held while anybody else's code runs.
* One thread or greenlet at a time moves frames to the destinations (`_pump`);
  whoever finds it busy leaves its frame to it. That keeps the order.
* No frame leaves the queue before every destination is ready for it: the
  slowest sets the pace. A destination is not ready from the moment it is
  written to until its ``write()`` has returned anything but False, or else
  until its ``drain``.

The theory
----------

A stream is two halves back to back. The writable half takes messages until
``end()``; the readable half gives them to the destinations until there are no
more. The states that matter are four:

=========  ====================  ==============================  ==============
state      ``write()``           the queue                       comes next
=========  ====================  ==============================  ==============
writable   queues                flows while all are ready       ended, closed
ended      raises                flows while all are ready       closed
closed     False, not an error   is dropped                      (none)
finished   False, not an error   is empty and stays so           (none)
=========  ====================  ==============================  ==============

``end()`` leads from writable to ended; then, with the queue empty, ``finish``
is emitted, and once a destination is there, ``end`` and ``close``: finished.
``destroy()`` and the client's departure lead to closed from anywhere. As in Node, a
write raises only between ``end()`` and ``close``: many a handler of ``close`` calls
``end()``, and a late write finds nobody whatever came first.

A client's departure closes a stream that was made with a request, since nobody
else can come. A stream made without one only loses that destination: it is
idle until it is piped again, and what is written meanwhile is not kept, as
nobody may ever come; what is written after an ``unpipe()`` of one's own is.
"""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import GreenletExit

from .backlog import Backlog, Callback
from .belonging import belong
from .body import Body
from .buffer import FrameBuffer
from .callables import check_callable, fitting
from .clock import clock
from .connection import Connection
from .diagnosis import burst
from .errors import (
    BufferFull,
    ClientDisconnected,
    MessageError,
    StreamDestroyed,
    StreamError,
    WriteAfterEnd,
)
from .events import Emitter, Lane, lane_of
from .hub import sleep
from .jsontext import app_dumps, app_json
from .outgoing import OutgoingMessage
from .piping import Destination, Pipe, Unpiped
from .plain import plain_bytes
from .request import environ_of, last_event_id
from .settings import Options, client_of, stream_settings
from .shared import LARGE, shared
from .statistics import books
from .wire import Message, encode, id_of


class _Usual(int):
    """A default that gives way to a bound which is set, as one that is given does not."""


#: Messages that may wait before ``write()`` says False: Node's default for
#: streams of objects. It is ``max_messages`` where that is less.
HIGH_WATER_MARK = _Usual(16)

#: The headers of every stream. ``no-transform`` keeps compressing middleware and
#: proxies from buffering, ``X-Accel-Buffering`` keeps nginx from it. None is
#: hop-by-hop, which PEP 3333 forbids.
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

#: Seconds that the reader of a response in another thread may have in hand what it has taken.
#: Several times as long as Python lets a thread run.
TIME_TO_READ = 0.05

if TYPE_CHECKING:
    from typing_extensions import Unpack

D = TypeVar("D", bound=Destination)


class SseStream(Emitter):
    """A stream of messages, as Node's ``ssestream`` has it.

    *request* is a Flask or Werkzeug request or a WSGI environ; the client's
    socket is then tuned (keep-alive, no-delay, no timeout) and `last_event_id`
    is known. The stream ends with a request of Flask's, also where that is answered
    without it (see ``belonging``). None makes a stream that no client in particular owns.
    *high_water_mark* is the number of messages that may wait before `write`
    says False; where none is given, no more than ``max_messages``. *options* are
    this stream's own `settings.Settings`, where they are not to be the app's:
    ``heartbeat``, ``send_timeout``, ``tcp_user_timeout``,
    ``max_messages``, ``max_bytes``, ``overflow``, ``max_age``, ``retry`` and
    ``compress``.

    Emits ``drain``, ``finish``, ``end``, ``close`` and ``error``.

    Raises ``TypeError`` for anything else as *request* or for a
    *high_water_mark* that is no int, ``ValueError`` for one below 1 or above
    ``max_messages``; the same for an option that is not what it should be.
    """

    #: Whether the app has unpiped it, and not piped it since. Most are never unpiped, and have
    #: no attribute for it.
    _unpiped = False

    _only_one = "it is on its way to its clients. Copy the messages instead"
    # Whether the client gave an id that it cannot have been sent. (Of a class, as it is of
    # hardly any stream.)
    _has_bad_id = False

    # The `Channels` that it follows: a browser keeps one id, so that all which a stream
    # follows must have one.
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
        # Only a stream with a request knows already where it belongs.
        super().__init__(None if environ is None else lane_of(environ))
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
        #: The id of the last message that the client has seen, or None: from
        #: the ``Last-Event-ID`` header, else from the ``lastEventId`` query
        #: parameter. It is whatever the client says: never empty, without
        #: control characters, at most `request.MAX_LAST_EVENT_ID` characters long.
        self.last_event_id: str | None = None
        if environ is not None:
            self._connection = Connection.of(environ)
            self.last_event_id, has_id = last_event_id(environ)
            if has_id and self.last_event_id is None:
                self._has_bad_id = True
            self._client = client_of(environ, self._settings)
        self._json = app_json()
        # It keeps this one, also in another's lane.
        self._state_lock = self._lane.lock
        self._queue = Backlog.empty(high_water_mark, self._settings)
        # Another tuple after every change.
        self._pipes: tuple[Pipe, ...] = ()
        # Where what is written goes past the queue: there is one pipe, to a response,
        # and nothing waits. Changed with all this.
        self._straight: FrameBuffer | None = None
        self._pumping = False
        self._need_drain = False
        self._ended = False
        self._finished = False
        self._closed = False
        # No client is left, and none has been piped since.
        self._abandoned = False
        # The server has ended it: the app's writes after that are no mistake.
        self._retiring = False
        # Why there is nobody to write to, where it is not that the client has left.
        self._gone: StreamError | None = None
        if environ is not None:
            belong(environ, self)

    # -- what Node's streams tell of themselves

    @property
    def writable_length(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    @property
    def writable_high_water_mark(self) -> int:
        """Messages from which on `write` says False."""
        return self._queue.high_water_mark

    @property
    def writable_need_drain(self) -> bool:
        """Whether ``drain`` is to come."""
        return self._need_drain

    @property
    def writable_ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    @property
    def writable_finished(self) -> bool:
        """Whether everything was handed on after `end`, which ``finish`` tells."""
        return self._finished

    @property
    def destroyed(self) -> bool:
        """Whether it is over: destroyed, left by its client, or ended and delivered."""
        return self._closed

    # -- the writable half

    def write(
        self,
        message: Message,
        encoding: str | Callback | None = None,
        callback: Callback | None = None,
    ) -> bool:
        """Serialise *message* and queue it. Never blocks; from any thread.

        *message* is a mapping with ``data``, ``event``, ``id``, ``retry`` or
        ``comment``. *encoding* is there as Node has it, and only UTF-8 is
        possible. *callback* is called with None once the message was handed
        on, or with the error because of which it never will be.

        False once `writable_high_water_mark` messages wait: write again after
        ``drain``. False as well, and no error, once the stream is over: its client has
        left, it was destroyed, or it has ended and all was delivered.

        Raises `MessageError` for a message that cannot be sent, with nothing
        queued, ``TypeError`` for a *callback* that is an ``async def``, and
        `WriteAfterEnd` between `end` and ``close``. Node's ``writable.write``.
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
        return (callback is None and self._pass(frame)) or self._put(frame, callback)

    def write_message(
        self,
        message: Message,
        encoding: str | Callback | None = None,
        callback: Callback | None = None,
    ) -> bool:
        """The same as `write`. Node-ssestream's ``writeMessage``."""
        return self.write(message, encoding, callback)

    def push(self, frame: bytes) -> bool:
        """Queue a *frame* that is serialised already, as `wire.encode` makes it.

        What a broadcast uses, so that a message is serialised once for all its
        clients. Returns and raises as `write`; ``TypeError`` for anything but
        bytes. Node's ``readable.push``.
        """
        if not isinstance(frame, bytes):
            raise TypeError(f"a frame is bytes, not {type(frame).__name__}")
        if type(frame) is not bytes:
            frame = plain_bytes(frame)
        if self._channels is not None:
            self._check_id(frame)
        return self._pass(frame) or self._put(frame, None)

    def end(self, message: Message | None = None) -> None:
        """No more writes. What is queued is delivered, then the response ends.

        *message* is written first; None is none. Raises as `write` for it.
        Node's ``writable.end``.
        """
        if message is not None:
            self.write(message)
        with self._state_lock:
            self._ended = True
            self._lead(self._pipes)
        self._flow()

    def destroy(self, error: BaseException | None = None) -> None:
        """Drop what is queued, cut the connection, emit ``close``.

        With an *error* that is emitted first, as ``error``; messages that were
        queued with a callback get it, or else a `StreamDestroyed`. Node's
        ``stream.destroy``.
        """
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error must be an exception or None, not {type(error).__name__}")
        self._close(error, StreamDestroyed("the stream was destroyed"), cut=True)

    # -- the readable half

    def pipe(self, destination: D, end: bool = True) -> D:
        """Let everything that is queued, and will be, flow to *destination*.

        *destination* is a `ServerResponse` or anything with ``write(bytes)``
        (see `Destination`). The head is written first where it has one, then
        ``:ok`` and a blank line, upon which every browser fires ``open``.
        With *end* it is ended when the stream ends.

        Returns *destination*. Raises ``TypeError`` when it has no ``write``,
        `HeadersSent` when it is a response that is being sent already,
        `StreamError` when it is piped to already, `StreamDestroyed` when the
        stream is over or the destination closed. Node's ``readable.pipe``.
        """
        if not callable(getattr(destination, "write", None)):
            raise TypeError(
                "a destination needs write(), as a ServerResponse has,"
                f" and {type(destination).__name__} has none"
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
                raise StreamError("the destination was ended and takes nothing more")
        if self._pipes and any(pipe.destination is destination for pipe in self._pipes):
            raise StreamError("this stream is piped to that destination already")
        if hasattr(destination, "write_head"):
            destination.write_head(200, HEADERS)
        if hasattr(destination, "flush_headers"):
            destination.flush_headers()
        pipe = Pipe(self, destination, end)
        pipe.greet()
        if isinstance(destination, OutgoingMessage):
            destination._settings = self._settings
            # One order of events for a client; but the slow handler of one must
            # not hold up a stream of many.
            if self._connection is not None:
                self._lane = destination._lane
            elif not self._lane.has_home:
                self._lane = Lane(destination._lane.home)
        pipe.tell("pipe")
        with self._state_lock:
            over = self._closed
            if not over:
                self._abandoned = self._retiring = False
                if self._unpiped:
                    self._unpiped = False
                pipes = (*self._pipes, pipe)
                self._lead(pipes)
        if over:
            pipe.detach(destroying=True)
            raise StreamDestroyed("this stream is over and cannot be piped")
        if not pipe.attach(pipes if len(pipes) == 1 else (pipe,)):
            self._left(pipe)
        elif self._queue or self._ended or self._need_drain:
            self._flow()
        return destination

    def unpipe(self, destination: Destination | None = None) -> "SseStream":
        """Stop the flow to *destination*, or to all of them when None.

        Nothing ends: what is written from now on waits for the next `pipe`. Up to
        the high-water mark it counts as handed on meanwhile, so that its callbacks are
        called. It is no error when nothing was piped there. Node's ``readable.unpipe``.
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
            self._lead(tuple(p for p in all_pipes if p not in leaving))
            belongs = self._connection is not None and not self._closed
        for pipe in leaving:
            pipe.detach()
            if belongs and isinstance(pipe.destination, OutgoingMessage):
                # Its client's departure is still its end, unless it is piped elsewhere by then.
                Unpiped.of(self, pipe.destination)
        self._flow()

    def __iter__(self) -> Iterator[bytes]:
        """The stream as a WSGI iterable, for ``Response(sse_stream, ...)``.

        Nothing is opened before the first chunk is asked for: it never is for
        HEAD.
        """
        outgoing = OutgoingMessage(self._lane if self._connection else None)
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
        """The server is done with the iterable (PEP 3333). Werkzeug's response calls it.

        A stream of no client in particular goes on for the others.
        """
        if self._connection is not None:
            for outgoing in self._iterated:
                outgoing.server_done()
            self._close(None, _disconnected(), cut=False)
            self._lane.run()

    # -- what changes the state

    def _lead(self, pipes: tuple[Pipe, ...]) -> None:
        """Flow through *pipes* from now on. Under the lock, and after any other change."""
        self._detour()
        self._pipes = pipes
        if len(pipes) == 1 and not (self._ended or self._closed or self._queue or self._pumping):
            self._straight = pipes[0].buffer

    def _detour(self) -> None:
        """Nothing goes past the queue. Under the lock."""
        straight, self._straight = self._straight, None
        if straight is not None and straight.convoy is not None and straight.direct is not None:
            straight.convoy.leave(straight.direct)

    def _pass(self, frame: bytes, messages: int = 1) -> bool:
        """Hand *frame*, which is so many *messages*, on past the queue, if nothing is before it."""
        buffer = self._straight
        return buffer is not None and buffer.put_straight(frame, messages)

    def _hand_on(self, frame: bytes) -> None:
        """Queue *frame*, an event of the channels that it follows."""
        if not self._pass(frame):
            self._put(frame, None)

    def _say(self, block: bytes) -> None:
        """Queue *block*, which is no message."""
        try:
            if not self._pass(block, 0):
                self._put(block, None)
        except StreamError:  # the app has ended it
            pass

    def _belongs_to(self, channels: object) -> bool:
        """Let it follow *channels*; False where it follows those of others."""
        with self._state_lock:
            if self._channels is None:
                self._channels = channels
            return self._channels is channels

    def _check_id(self, frame: bytes) -> None:
        """Raises `MessageError` for an id of the app's in a stream that has ids of channels."""
        found = id_of(frame)
        channels = self._channels
        if found is not None and channels is not None and not channels._knows(found):
            raise MessageError(
                f"'id' {found[:40]!r} beside channels: a browser keeps one id, by which it"
                " comes back to the channels that this stream follows",
                "id",
            )

    def _put(self, frame: bytes, callback: Callback | None) -> bool:
        if self._need_drain and self._queue.is_over(frame):
            self._let_read()
        with self._state_lock:
            over = self._closed or self._retiring
            if self._ended and not over:
                raise WriteAfterEnd("write() after end()")
            lost = over or self._abandoned
            # The bounds are for those who go on although they were told False:
            # whoever waits for "drain" never meets them.
            told = self._need_drain
            if not lost:
                if told and self._settings.overflow == "error" and self._is_over(frame):
                    raise BufferFull(
                        f"{len(self._queue)} messages of {self._queue.bytes} bytes wait already"
                    )
                self._queue = self._queue.appendable()
                # As in Node, where it is in the stream's other half by now.
                taken = self._unpiped and len(self._queue) < self._queue.high_water_mark
                self._queue.append(frame, None if taken else callback)
                self._detour()
        if lost:
            late = WriteAfterEnd("write() after end()") if self._ended else self._gone
            self._tell([callback], late or _disconnected())
            return False
        if taken:
            self._tell([callback], None)
        self._flow()
        with self._state_lock:
            full = self._queue.is_full()
            if full and not self._need_drain:
                self._need_drain = True
                self._queue.full_at = clock.now()
            too_many = told and self._is_over()
        if too_many and self._settings.overflow != "error":
            self._overflow()
        return not full

    def _is_over(self, *more: bytes) -> bool:
        """Whether more waits than may. Under the lock.

        The bound in bytes is for all. That in messages is for clients that had time to take
        some of them: what a view writes before it returns, and what is written in one turn
        of the loop, has found nobody who could read.
        """
        queue = self._queue
        if not queue.is_over(*more):
            return False
        pipes = self._pipes
        if pipes:
            slow = any(pipe.is_slow(queue.full_at) for pipe in pipes)
        else:
            # One of a request is about to be piped, one of no request may never be.
            slow = self._connection is None
        if slow or queue.is_heavy(*more):
            return True
        queue.grant(len(queue) + len(more))
        return False

    def _let_read(self) -> None:
        """Give readers in other threads the time for what they have just taken.

        Else a writer that does not let go of the interpreter would have their clients cut.
        """
        since = self._queue.full_at
        for pipe in self._pipes:
            response, buffer = pipe.destination, pipe.buffer
            if not isinstance(response, OutgoingMessage) or buffer is None:
                continue
            # In the reader's own thread there is nothing to be had by waiting.
            if not response._lane.home.here():
                until = buffer.taken_at + TIME_TO_READ
                while buffer.is_stuck(since) and clock.now() < until:
                    sleep(0.001)

    def _overflow(self) -> None:
        """More waits than may: what the policy says."""
        if self._settings.overflow == "drop-oldest":
            self._drop_oldest()
            return
        # Only they are cut who hold up the others; they come back and resume.
        full = [pipe for pipe in self._pipes if not pipe.ready]
        slow = [pipe for pipe in full if pipe.is_slow(self._queue.full_at)]
        for pipe in slow or full:
            if isinstance(pipe.destination, OutgoingMessage):
                pipe.destination.cut("overflow")
            else:
                self._announce("error", BufferFull("a destination is too slow"))
                self._part(pipe.destination)
        if self._pipes:
            return
        if self._connection is not None:
            if not full and not self._closed:  # nobody has piped it yet
                burst(None)
            self._close(None, BufferFull("more waited than may"), cut=False)
        else:
            # There is nobody to cut, and somebody may come yet.
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with self._state_lock:
            dropped = self._queue.trim()
        books.count("dropped", len(dropped))
        self._tell(dropped, BufferFull("dropped, as newer messages came"))

    def _flow(self) -> None:
        """Hand on what can be: here, unless a destination might block the writer."""
        if all(pipe.never_blocks for pipe in self._pipes):
            self._pump()
        else:
            self._lane.home.spawn(self._pump)

    def _pump(self) -> None:
        while True:
            with self._state_lock:
                # Under the lock, or the frame of one who has just found this
                # pump busy would wait for the next one's.
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
                self._lane.home.spawn(self._pump)
                raise killed
        self._settle()

    def _give(self, pipe: Pipe, frame: bytes) -> GreenletExit | None:
        """What has killed this greenlet meanwhile, if anything has."""
        try:
            pipe.send(frame)
        except BaseException as error:  # a gevent.Timeout is no Exception
            # As in Node: a destination that fails is let go, the others stay.
            self._announce("error", error)
            if pipe.never_blocks:  # a response that was ended, and so is lost
                self._left(pipe)
            else:
                self.unpipe(pipe.destination)
            return error if isinstance(error, GreenletExit) else None
        return None

    def _settle(self) -> None:
        """Say what has come about by the queue's being empty."""
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
            self._lead(self._pipes)
        if drained and not self._ended:
            self._announce("drain")
        if finished:
            self._announce("finish")
        if ended:
            self._announce("end")
            for pipe in pipes:
                pipe.detach(ending=True)
            self._announce("close")

    def _left(self, pipe: Pipe) -> None:
        """A destination has closed by itself."""
        with self._state_lock:
            if pipe not in self._pipes:
                return
            self._lead(tuple(other for other in self._pipes if other is not pipe))
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
                self._announce("drain")

    def _leads_to(self, response: object) -> bool:
        return any(pipe.destination is response for pipe in self._pipes)

    def _request_over(self) -> None:
        """The request that it was made with is over, and has not sent it."""
        if not self._iterated:
            reason = StreamDestroyed("the request of this stream is over, and has not sent it")
            self._close(None, reason, cut=True)

    def _client_of_unpiped_left(self) -> None:
        if not self._pipes:
            self._close(None, _disconnected(), cut=False)

    def _retired(self, pipe: Pipe, dropping: bool) -> list[bytes]:
        """A destination ends by itself, but not before what waits for it alone."""
        with self._state_lock:
            if pipe not in self._pipes:
                return []
            self._lead(tuple(other for other in self._pipes if other is not pipe))
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
        """Whether half of what may wait is free still; if not, ``drain`` will come.

        For whoever has a log to read on from later, and so need not fill the rest.
        """
        with self._state_lock:
            room = self._queue.has_room()
            if not room:
                self._need_drain = True
            return room

    def _waiting_bytes(self) -> int:
        return self._queue.bytes

    def _close(self, error: BaseException | None, reason: StreamError, cut: bool) -> None:
        with self._state_lock:
            if self._closed:
                return
            self._closed = True
            self._gone = reason
            pipes = self._pipes
            self._lead(())
        self._drop(error or reason)
        if error is not None:
            self._announce("error", error)
        for pipe in pipes:
            pipe.detach(destroying=cut)
        self._announce("close")

    def _drop(self, reason: BaseException) -> None:
        with self._state_lock:
            dropped = self._queue.clear()
            self._need_drain = False
        self._tell([callback for _, callback in dropped], reason)

    def _tell(self, callbacks: list[Callback | None], error: BaseException | None) -> None:
        for callback in callbacks:
            if callback is not None:
                self._lane.soon(callback, *fitting(callback, (error,)))


def _disconnected() -> ClientDisconnected:
    return ClientDisconnected("the client has left")
