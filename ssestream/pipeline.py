"""pipeline(): draw the messages of a source through a stream, as fast as the client takes them.

The source runs in a greenlet of its own, in the hub of the request. On a threaded server it runs
in a thread of its own, with a hub (see ``runtime/threadloop.py``). When the client leaves, the
greenlet is killed. The kill ends every wait that gevent knows of: ``gevent.sleep``, a gevent
queue, and in a monkey-patched process all waits. In a plain thread a plain blocking call cannot
be interrupted: then the source is closed as soon as the call returns.

An async source is a task of the process's asyncio loop (see ``async_source.py``).
"""

import contextvars
import inspect
import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import gevent
from gevent import GreenletExit
from gevent.event import Event

from .errors import MessageError, StreamDestroyed, StreamError, WriteAfterEnd
from .http.diagnosis import refused_of
from .http.outgoing import OutgoingMessage, body_of
from .pipe import Destination
from .runtime.beside import end_function, start_beside
from .runtime.callables import check_callable
from .runtime.calls import run_logged
from .runtime.forking import process
from .runtime.loop import Loop, checkpoint, loop_of
from .runtime.origin import log_failure
from .runtime.threads import new_lock
from .stream import D, SseStream, flow_of
from .text_source import Messages
from .wire import Message

if TYPE_CHECKING:
    from .async_source import AsyncSource

#: A message, or event-stream text.
Item = Message | str | bytes

#: A function that makes the last message of an exception.
OnError = Callable[[BaseException], Message]

S = TypeVar("S", bound=SseStream)


@overload
def pipeline(
    source: Iterable[Item] | AsyncIterable[Item],
    sse_stream: SseStream,
    res: D,
    *,
    on_error: OnError | None = None,
) -> D: ...
@overload
def pipeline(
    source: Iterable[Item] | AsyncIterable[Item],
    sse_stream: S,
    res: None = None,
    *,
    on_error: OnError | None = None,
) -> S: ...
def pipeline(
    source: Iterable[Item] | AsyncIterable[Item],
    sse_stream: SseStream,
    res: Any = None,
    *,
    on_error: OnError | None = None,
) -> Any:
    """Pipe *source* through *sse_stream* into *res*; ``return pipeline(...)`` is a view.

    None as *res* is for a framework that iterates the stream:
    ``StreamingHttpResponse(pipeline(source, sse_stream), headers=HEADERS)``. The stream's first
    destination then takes the place of *res*: the response of the server that iterates the
    stream, or an object that the stream is piped into.

    *source* is any iterable or generator of messages, also an async one. An item may also be
    event-stream text (str or bytes), whole events or parts of events: it is parsed into
    messages, and an event that has not ended at the end of the source is dropped, with a
    WARNING. An async source runs in the asyncio loop of the process.

    The pipeline starts to draw when the response is being sent, after the teardown of the
    request, outside every request and app context; for HEAD it never starts. While the
    client is slow, it waits.

    The source is closed when it is exhausted, which ends the stream, and when the client
    leaves, even during a wait. An exception in the source is logged and destroys the
    stream; so does a `MessageError` for one of its messages. *on_error* is then called with
    the exception first, in the greenlet of the source: the message that it returns is
    delivered after all others, and then the client is cut. It is not called when the client
    has left. An exception of *on_error* and a wrong message are logged. None sends no such
    message.

    Returns *res*, or *sse_stream* if *res* is None. Raises ``TypeError`` if *source* cannot be
    iterated, or is text, a single message or a coroutine, if *sse_stream* is no `SseStream`, and
    if *on_error* is no plain function. Raises as `SseStream.pipe` for *res*, and
    `StreamDestroyed` if *res* is None and the stream is over. Node's ``stream.pipeline``.
    """
    if isinstance(source, (str, bytes, Mapping)) or not (
        hasattr(source, "__iter__") or hasattr(source, "__aiter__")
    ):
        raise TypeError(f"source must be an iterable of messages, not {_what_is(source)}")
    if not isinstance(sse_stream, SseStream):
        raise TypeError(f"sse_stream must be an SseStream, not {type(sse_stream).__name__}")
    if on_error is not None:
        check_callable("on_error", on_error, "a function of an exception that returns a message")
    kind = _Drawer if hasattr(source, "__iter__") else _AsyncDrawer
    drawer = kind(source, sse_stream, on_error)
    try:
        if res is None:
            flow_of(sse_stream).check_open()
        else:
            sse_stream.pipe(res)
    except BaseException:
        drawer.close_source()
        raise
    drawer.listen()
    if res is None:
        flow_of(sse_stream).when_piped(drawer.attach)
        return sse_stream
    drawer.attach(res)
    return res


def _what_is(source: object) -> str:
    """The kind of *source*, which is no source, for an error."""
    if inspect.iscoroutine(source):
        # Or Python would warn that nobody has awaited it.
        source.close()
        return "a coroutine: call an async def that yields, and do not await it"
    if inspect.isgeneratorfunction(source) or inspect.isasyncgenfunction(source):
        return f"a function: call it, {source.__name__}(...)"
    return type(source).__name__


class _Drawer:
    """One pipeline: the greenlet that draws from the source, and its start and end.

    The drawer does four things. It starts when the response starts (`attach`). It writes each
    message of the source, and waits for ``drain`` (`_draw`). It stops when the response or the
    stream closes (`_stop`). It closes the source exactly once (`close_source`).
    """

    def __init__(self, source: Any, sse_stream: SseStream, on_error: OnError | None) -> None:
        self._source: Any = self._open(source)
        self._on_error = on_error
        self._stream = sse_stream
        self._flow = flow_of(sse_stream)
        self._messages = Messages(self._flow.settings.max_bytes)
        # The source has one context for its whole life, also when it is closed: if it enters an
        # app context, for example, it must leave the app context in the same `Context`.
        self._context = contextvars.Context()
        self._lock = new_lock()
        self._stopped = False
        # Set by `_enter` when the source starts, or by `_stop` if it is stopped before that. The
        # method that sets this also closes the source.
        self._begun = False
        # Set while the source runs.
        self._loop: Loop | None = None
        self._greenlet: Any = None
        self._drained: Any = None

    def _open(self, source: Any) -> Any:
        return iter(source)

    def listen(self) -> None:
        """Stop when the stream closes."""
        self._stream.on("drain", self._wake)
        self._stream.on("close", self._stop)

    def attach(self, res: Destination) -> None:
        """Start when the response *res* starts. Stop when *res* closes."""
        if isinstance(res, OutgoingMessage):
            res.on("close", self._stop)
            if not res.headers_sent:
                body_of(res).when_begun(self._start)
                return
        else:
            listen = getattr(res, "on", None)
            if callable(listen):
                listen("close", self._stop)
        self._start()

    def _start(self) -> None:
        loop = self._flow.call_queue.loop
        if not process.serves:
            _early[self] = loop
        start_beside(loop, self._enter, self._source)

    def _enter(self) -> None:
        with self._lock:
            if self._begun:
                return
            self._begun = True
            self._greenlet = gevent.getcurrent()
            self._loop = loop_of(gevent.get_hub())
            self._drained = Event()
        try:
            run_logged(self._draw, context=self._context, origin=self._flow.call_queue.origin)
        finally:
            with self._lock:
                # A callback in the hub's loop may refer to this object, and the garbage collector
                # cannot see that reference. So the loop must be forgotten, too.
                self._greenlet = self._loop = None
            self.close_source()

    def _draw(self) -> None:
        messages = self._messages
        try:
            for item in self._source:
                if not self._write(messages.of(item)):
                    return
                if messages.is_turn_over():
                    checkpoint()
            if self._write(messages.rest(self._flow.call_queue.origin)):
                self._stream.end()
        except WriteAfterEnd:
            pass  # the app has ended the stream itself
        except BaseException as error:
            # `_stop` kills the greenlet, which is no error. After any other exception the stream
            # must be destroyed, or its client would wait for ever.
            if isinstance(error, GreenletExit) and self._must_stop():
                return
            self._failed(error)

    def _write(self, messages: Iterable[Message]) -> bool:
        """Write *messages*, and wait for ``drain``. Returns False if the pipeline must stop."""
        try:
            for message in messages:
                if not self._stream.write(message) and self._must_stop():
                    return False
                while self._flow.need_drain and not self._must_stop():
                    self._drained.wait()
                    self._drained.clear()
        except MessageError as error:
            refused_of(self._source, error)
            raise
        # Without this check, a source that never waits could not be stopped.
        return not self._must_stop()

    def _failed(self, error: BaseException) -> None:
        """Destroy the stream: at once, or after the message that ``on_error`` makes."""
        stream, on_error = self._stream, self._on_error
        origin = self._flow.call_queue.origin
        heard = bool(stream.listeners("error"))
        if heard or on_error is not None:
            log_failure(origin, "the source of a pipeline failed", exc_info=error)
        # Without a handler of "error", the stream would log it again.
        told = error if heard or on_error is None else None
        if on_error is None or self._must_stop():
            stream.destroy(told)
            return
        try:
            stream.write(on_error(error), lambda _: self._flow.break_off(told))
        except BaseException as failure:
            if not (isinstance(failure, StreamError) or self._must_stop()):
                log_failure(origin, "on_error of a pipeline failed", exc_info=failure)
            stream.destroy(told)

    def _must_stop(self) -> bool:
        flow = self._flow
        return self._stopped or flow.closed or flow.is_copy or flow.drops_writes

    def _wake(self) -> None:
        """Draw on: the stream has drained."""
        self._in_hub(lambda: self._drained.set())

    def _stop(self, *args: object) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            never_began = not self._begun
            self._begun = True
        if never_began:
            self.close_source()
        else:
            self._end_source()
        self._flow.close(None, StreamDestroyed("the pipeline is over"), cut=True)

    def _end_source(self) -> None:
        self._in_hub(self._end_here)

    def _end_here(self) -> None:
        if self._greenlet is not None:
            end_function(self._greenlet)

    def _in_hub(self, function: Any) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call(function)

    def __str__(self) -> str:
        return str(getattr(self._source, "__qualname__", type(self._source).__qualname__))

    def close_source(self) -> None:
        _early.pop(self, None)
        close = getattr(self._source, "close", None)
        if callable(close):
            run_logged(close, context=self._context, origin=self._flow.call_queue.origin)


class _AsyncDrawer(_Drawer):
    """The same for an async source: the `Sink` of an `AsyncSource`."""

    _source: "AsyncSource"

    def _open(self, source: Any) -> "AsyncSource":
        # Not before it is needed: asyncio takes 30 ms and some memory of each process.
        from .async_source import AsyncSource

        return AsyncSource(source, self)

    def _start(self) -> None:
        with self._lock:
            if self._begun:
                return
            self._begun = True
        if not process.serves:
            _early[self] = None
        self._flow.call_queue.loop.retry_start(self._begin, self._source)

    def _begin(self) -> None:
        try:
            self._source.start(self._flow.call_queue.origin)
        except OSError as error:  # no descriptors
            self._failed(error)
        if self._stopped:  # by another thread, which has found no task yet
            self._source.stop()

    def _wake(self) -> None:
        self._source.wake()

    def _end_source(self) -> None:
        self._source.stop()

    def put(self, item: Any) -> Iterator[None]:
        return self._put(self._messages.of(item))

    def rest(self) -> Iterator[None]:
        return self._put(self._messages.rest(self._flow.call_queue.origin))

    def _put(self, messages: Iterable[Message]) -> Iterator[None]:
        try:
            for message in messages:
                self._stream.write(message)
                yield
        except MessageError as error:
            refused_of(self._source.source, error)
            raise

    def is_full(self) -> bool:
        return self._stream.writable_need_drain

    def is_over(self) -> bool:
        return self._must_stop()

    def drawn(self, error: BaseException | None) -> None:
        _early.pop(self, None)
        # The app may have ended the stream itself.
        if isinstance(error, WriteAfterEnd) or self._must_stop():
            return
        if error is None:
            self._stream.end()
        else:
            self._failed(error)

    def close_source(self) -> None:
        self._source.close(self._flow.call_queue.origin)


# The running pipelines that were started before this process served a request, with their loops.
# None stands for the asyncio loop.
_early: dict[_Drawer, Loop | None] = {}


def _after_fork() -> None:
    if not process.is_job:  # a job knows that it has none of its parent's pipelines
        # A child has only the thread that forked, and so only the hub of that thread.
        names = [str(each) for each, loop in _early.items() if not (loop and loop.here())]
        process.leave_behind("pipeline", "started", "Start", names)
    _early.clear()


os.register_at_fork(after_in_child=_after_fork)
