"""StreamState: the state of one stream, and its ties to a request and to channels.

`stream_ends.StreamEnds` is this and all that ends a stream. `flow.Flow` is both and all that moves
messages.

The states
----------

A stream is two halves back to back. The writable half takes messages until ``end()``. The
readable half gives the messages to the destinations until the queue is empty. There are four
states:

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

When its client leaves, a stream that was made with a request closes, because no other client can
come. A stream without a request only loses a destination. Without any destination it is idle until
the next ``pipe()``, and drops each message that is written meanwhile, because perhaps no client
ever comes. ``write()`` returns False then, and ``drain`` comes at the next ``pipe()``. But if the
app itself calls ``unpipe()``, the stream keeps the messages for the next ``pipe()``.
"""

import weakref
from collections.abc import Callable
from typing import Any, Literal

from .errors import MessageError, StreamDestroyed, StreamError
from .http.body import Body
from .http.connection import Connection
from .http.outgoing import OutgoingMessage, body_of
from .http.output import OutputBuffer
from .http.view import Belonging
from .message_queue import MessageQueue
from .pipe import Destination, Pipe
from .runtime.calls import CallQueue, run_logged
from .runtime.emitter import Emitter
from .runtime.forking import process
from .settings import Settings
from .wire import id_of

#: Why a stream has no pipe:
#:
#: * "": it was not piped yet, or it has a pipe.
#: * "unpiped": the app has unpiped it.
#: * "abandoned": its last destination has closed.
#: * "retired": the server has ended its response. The app cannot know this, so its later writes
#:   are no error.
#: * "forgotten": the view has returned a response that the stream is not piped into.
Idle = Literal["", "unpiped", "abandoned", "retired", "forgotten"]


class NothingToCome:
    """Stands for the channels of a stream: they have ended, and its client has all their events."""

    #: No content.
    status = 204

    def knows(self, event_id: str) -> bool:
        """Whether *event_id* has the form of an id of channels."""
        return True


NOTHING_TO_COME = NothingToCome()


class Follower:
    """An object of this package that gets a stream's events, before the app's handlers.

    The call queue calls it, mostly in the hub's loop. So it must not block.
    """

    __slots__ = ()

    def heard(self, event: str) -> None:
        """The stream has emitted *event*."""

    def piped(self, destination: Destination) -> None:
        """The stream flows to *destination*, too, from now on. Called by ``pipe()``."""

    def about_to_end(self) -> None:
        """The stream is about to end, and sends what the follower still writes now."""


class _Waiting(Follower):
    """Calls *function* with the first destination of a stream."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[Destination], object]) -> None:
        self._function: Callable[[Destination], object] | None = function

    def piped(self, destination: Destination) -> None:
        function, self._function = self._function, None
        if function is not None:
            function(destination)


class StreamState(Belonging):
    """The state of one stream. `stream_ends.StreamEnds` and `flow.Flow` change it."""

    __slots__ = (
        "_pumping",
        "_stream",
        "call_queue",
        "channels",
        "checks_ids",
        "close_reason",
        "closed",
        "connection",
        "ended",
        "finished",
        "followers",
        "idle",
        "iterated",
        "lock",
        "need_drain",
        "output",
        "pipes",
        "queue",
        "settings",
    )

    def __init__(
        self,
        stream: Emitter,
        call_queue: CallQueue | None,
        connection: Connection | None,
        settings: Settings,
        high_water_mark: int,
    ) -> None:
        # A stream refers to its flow. The stream of a request closes at the latest with its
        # request, and `forget_stream` then breaks the cycle of the two. Any other stream may be
        # dropped before it has closed, so its flow has only a weak reference.
        self._stream: Emitter | weakref.ref[Emitter] | None = (
            weakref.ref(stream) if connection is None else stream
        )
        #: The queue in which the events and callbacks of the stream wait for their turn.
        self.call_queue = call_queue or CallQueue()
        #: The client's connection; None for a stream that was made without a request.
        self.connection = connection
        self.settings = settings
        #: Guards the state. It stays the same when the stream moves to another call queue.
        self.lock = self.call_queue.lock
        self.queue = MessageQueue.empty(high_water_mark, settings)
        #: A tuple is never changed, only replaced, so that it can be read without the lock.
        self.pipes: tuple[Pipe, ...] = ()
        #: The response's buffer, if frames may go past the queue: there is exactly one pipe, it
        #: leads to a response, and nothing waits. Else None. `set_pipes` and `hold` set it.
        self.output: OutputBuffer | None = None
        self._pumping = False
        #: Whether ``drain`` will come.
        self.need_drain = False
        self.ended = self.finished = self.closed = False
        #: Why there is no pipe.
        self.idle: Idle = ""
        #: The *reason* of `Flow.close`; None before that, and after a normal end.
        self.close_reason: StreamError | None = None
        #: The bodies by which a server iterates the stream.
        self.iterated: tuple[Body, ...] = ()
        #: The `Exchange` whose channels this stream follows. There is only one, because a browser
        #: keeps only one id, and each `Channels` object has ids of its own.
        self.channels: Any = None
        #: Whether `check_id` must see each message: this stream, or another one that is piped into
        #: the same response, follows channels or has followed some.
        self.checks_ids = False
        #: Objects that hear every event of the stream, before the handlers do.
        self.followers: tuple[Follower, ...] = ()

    @property
    def stream(self) -> Emitter | None:
        """The stream; None after ``close``, and when the app has dropped it."""
        stream = self._stream
        return stream() if isinstance(stream, weakref.ref) else stream

    @property
    def drops_writes(self) -> bool:
        """Whether writes are dropped until the next ``pipe()``."""
        return self.idle in ("abandoned", "retired")

    @property
    def is_copy(self) -> bool:
        """Whether this process is a job, and the stream is a copy of its parent's."""
        return process.is_job and self.call_queue.is_copy

    def check_open(self) -> None:
        """Raise `StreamDestroyed` if the stream is over."""
        if self.closed or self.is_copy:
            why = "" if self.close_reason is None else f": {self.close_reason}"
            raise StreamDestroyed(f"this stream is over and cannot be piped{why}")

    # -- the pipes

    def set_pipes(self, pipes: tuple[Pipe, ...]) -> None:
        """Set the pipes. Called under the lock, after any other change of state."""
        self.hold()
        self.pipes = pipes
        if len(pipes) == 1 and not (self.ended or self.closed or self.queue or self._pumping):
            self.output = pipes[0].buffer

    def hold(self) -> None:
        """Let no frame go past the queue until the next `set_pipes`. Called under the lock."""
        output, self.output = self.output, None
        if output is not None:
            output.leave()

    # -- the request

    def is_carried_by(self, response: Any) -> bool:
        stream = self.stream
        if stream is not None and getattr(response, "response", None) is stream:
            return True
        return any(pipe.destination is response for pipe in self.pipes)

    @property
    def waits_for_response(self) -> bool:
        if self.closed or self.iterated:
            return False
        bodies = [pipe.body for pipe in self.pipes if pipe.body is not None]
        return not any(body.connection is not None for body in bodies)

    def is_forgotten_by(self, response: Any) -> bool:
        elsewhere = any(pipe.body is None for pipe in self.pipes)
        if self.closed or self.idle == "unpiped" or self.iterated or elsewhere:
            return False
        body: Any = response.response
        is_event_stream = bool(response.mimetype == "text/event-stream")
        if not isinstance(response, OutgoingMessage):
            # The view may have written events into the body by itself, without the stream. An
            # empty body has none.
            return is_event_stream and bool(body == [] and response.status_code == 200)
        if response.closed or response.writable_ended or not isinstance(body, Body):
            return False
        if not self.pipes:
            self.idle = "forgotten"
        if self.queue or self.channels is not None:
            return True
        # A view may write all events by hand, and use the stream only for its `last_event_id`.
        return not (body.inlets or response.writable_length or is_event_stream)

    def begin_iteration(self, body: Body) -> None:
        """Note that a server iterates the stream by *body*, until `end_iteration`."""
        with self.lock:
            self.iterated = (*self.iterated, body)

    def end_iteration(self, body: Body) -> None:
        with self.lock:
            self.iterated = tuple(each for each in self.iterated if each is not body)

    # -- the channels

    def follow(self, channels: object) -> None:
        """Let the stream follow *channels*.

        Raises `StreamError`, and changes nothing, if it follows another `Channels` object, or if
        another stream that is piped into the same response follows channels.
        """
        with self.lock:
            known = self.channels
            if known is None:
                self.channels = channels
        if known is not None and known is not channels:
            raise StreamError(
                "this stream already follows channels of another Channels. A browser keeps one"
                " id, so a stream can follow the channels of one Channels only"
            )
        neighbours = [each for pipe in self.pipes for each in self._neighbours(pipe.destination)]
        try:
            self._check_alone_among(neighbours)
        except StreamError:
            self.channels = known
            raise
        for each in (self, *neighbours):
            each.check_ids()

    def check_alone(self, destination: Destination) -> None:
        """Raise `StreamError` if this stream and another one of *destination* follow channels."""
        if self.channels is not None:
            self._check_alone_among(self._neighbours(destination))

    def _check_alone_among(self, neighbours: list[Any]) -> None:
        for each in neighbours:
            if each.channels is not None:
                raise StreamError(
                    "another stream that is piped into this response follows channels. A browser"
                    " keeps one id, so one stream must follow all channels of a response"
                )

    def _neighbours(self, destination: Destination) -> list[Any]:
        """The other streams that are piped into *destination*, if it is a response."""
        body = body_of(destination)
        inlets = () if body is None else body.inlets
        sources: list[Any] = [each.source for each in inlets if isinstance(each, Pipe)]
        return [each for each in sources if each is not self]

    def _check_ids_in(self, destination: Destination) -> None:
        """Check the ids of all streams of *destination*, if one of them follows channels."""
        streams: list[Any] = [self, *self._neighbours(destination)]
        if any(each.channels is not None for each in streams):
            for each in streams:
                each.check_ids()

    def check_ids(self) -> None:
        """Let `check_id` see each message from now on."""
        self.checks_ids = True

    def check_id(self, frame: bytes) -> None:
        """Raise `MessageError` if *frame* has an id that channels did not give.

        These are the channels that this stream follows, or another stream of its response.
        """
        found = id_of(frame)
        if found is None:
            return
        neighbours = [each for pipe in self.pipes for each in self._neighbours(pipe.destination)]
        for each in (self, *neighbours):
            if each.channels is not None and not each.channels.knows(found):
                raise MessageError(
                    f"'id' {found[:40]!r} beside channels: a browser keeps one id, by which it"
                    " comes back to the channels that the streams of its response follow",
                    "id",
                )

    @property
    def expects_nothing(self) -> bool:
        """Whether the channels have ended, and the client has all of them."""
        return self.channels is NOTHING_TO_COME

    def expect_nothing(self) -> None:
        """The channels have ended, and the client has all of them. Answer it with 204.

        An EventSource does not come back after a 204. A response that has begun to be sent is not
        changed.
        """
        self.channels = NOTHING_TO_COME
        for pipe in self.pipes:
            destination: Any = pipe.destination
            is_whole = pipe.body is not None and hasattr(destination, "write_head")
            if is_whole and not destination.headers_sent:
                destination.write_head(NOTHING_TO_COME.status)

    def status(self) -> int:
        """The status of a response into which the stream is piped."""
        return NOTHING_TO_COME.status if self.expects_nothing else 200

    def follow_no_more(self, channels: object) -> None:
        """Let the stream not follow *channels* any more, so that it may have any ids."""
        if self.channels is channels:
            self.channels = None

    def add_follower(self, follower: Follower) -> None:
        """Let *follower* get every later event of the stream."""
        with self.lock:
            self.followers = (*self.followers, follower)

    def remove_follower(self, follower: Follower) -> None:
        """Give *follower* no later event of the stream."""
        with self.lock:
            self.followers = tuple(each for each in self.followers if each is not follower)

    def tell_followers(self, event: str) -> None:
        """Tell the followers that the stream emits *event* now. Called before the handlers."""
        for follower in self.followers:
            run_logged(follower.heard, event)
        if event == "close":
            # Followers refer to the stream. Break the cycle: no garbage collector is needed.
            self.followers = ()

    def when_piped(self, function: Callable[[Destination], object]) -> None:
        """Call *function* with the first destination: now, or as soon as there is one."""
        if self.pipes:
            function(self.pipes[0].destination)
        else:
            self.add_follower(_Waiting(function))

    def tell_of_pipe(self, destination: Destination) -> None:
        """Tell the followers that the stream flows to *destination* from now on."""
        self._check_ids_in(destination)
        for follower in self.followers:
            follower.piped(destination)

    def tell_of_end(self) -> None:
        """Tell the followers that the stream is about to end."""
        if not self.is_copy:
            for follower in self.followers:
                run_logged(follower.about_to_end)

    def forget_stream(self) -> None:
        """Break the cycle of the stream and its flow. Called when the stream emits ``close``."""
        self._stream = None
