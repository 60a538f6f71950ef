"""An iterable of messages, drawn through a stream as fast as the client takes it.

The source runs in a greenlet of its own on the hub of the request, or, on
threaded servers, in a thread of its own that has a hub for it (see ``threadloop``).
Either way the greenlet is killed when the client leaves, which ends any wait that
gevent knows of, at once: ``gevent.sleep``, a gevent queue, and in a monkey-patched
process everything. Plain blocking calls in a plain thread cannot be broken by
anybody; there the source is closed as soon as the call has returned.
"""

import contextvars
from collections.abc import Iterable, Mapping
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.event import Event

from .errors import StreamDestroyed, WriteAfterEnd
from .events import run_logged
from .hub import Home, current_home, home_of, logger, new_lock, start_thread
from .origin import log_failure
from .outgoing import OutgoingMessage
from .piping import Destination
from .stream import D, SseStream
from .threadloop import run_in_hub
from .wire import Message


def pipeline(source: Iterable[Message], sse_stream: SseStream, res: D) -> D:
    """Pipe *source* through *sse_stream* into *res*; ``return pipeline(...)`` is a view.

    *source* is any iterable or generator of messages. It is drawn from only
    when the response is being sent (never for HEAD), behind the request's teardown
    and outside every request and app context, and waits while the client is slow.
    It is closed when it is exhausted, which ends the stream, and when the client
    leaves, even while it waits. An exception in it, a `MessageError` for one of its
    messages too, is logged and destroys the stream.

    Returns *res*. Raises ``TypeError`` for a *source* that cannot be iterated
    or is one message or text, for an *sse_stream* that is none, and as
    `SseStream.pipe` for *res*. Node's ``stream.pipeline``.
    """
    if isinstance(source, (str, bytes, Mapping)) or not hasattr(source, "__iter__"):
        raise TypeError(f"source must be an iterable of messages, not {type(source).__name__}")
    if not isinstance(sse_stream, SseStream):
        raise TypeError(f"sse_stream must be an SseStream, not {type(sse_stream).__name__}")
    drawer = _Drawer(source, sse_stream)
    try:
        sse_stream.pipe(res)
    except BaseException:
        drawer.close_source()
        raise
    drawer.follow(res)
    return res


class _Drawer:
    def __init__(self, source: Iterable[Message], sse_stream: SseStream) -> None:
        self._source = iter(source)
        self._stream = sse_stream
        # One for all of the source's life: what it has entered, an app context
        # for example, it must be able to leave when it is closed.
        self._context = contextvars.Context()
        self._lock = new_lock()
        self._stopped = False
        # Or never will: whoever sets it is the one to close the source.
        self._begun = False
        self._home: Home | None = None
        self._greenlet: Any = None
        self._drained: Any = None

    def follow(self, res: Destination) -> None:
        """Start when the response does, stop when it or the stream is over."""
        self._stream.on("drain", self._go_on)
        self._stream.on("close", self._stop)
        if isinstance(res, OutgoingMessage):
            res.on("close", self._stop)
            if not res.headers_sent:
                res._at_begin = (*res._at_begin, self._start)
                return
        else:
            listen = getattr(res, "on", None)
            if callable(listen):
                listen("close", self._stop)
        self._start()

    def _start(self) -> None:
        home = self._stream._lane.home
        if home.cooperative:
            home.spawn(self._enter)
        else:
            home.insist(lambda: start_thread(run_in_hub, (self._enter_thread, home)), self._source)

    def _enter_thread(self) -> None:
        greenlet = gevent.spawn(self._enter)
        while not greenlet.dead:
            try:
                greenlet.join()
            except BaseException:
                # As sys.exit() in a greenlet that the source has started.
                logger.exception("the thread of a pipeline was interrupted, and goes on")
        home_of(gevent.get_hub()).close()

    def _enter(self) -> None:
        with self._lock:
            if self._begun:
                return
            self._begun = True
            self._greenlet = gevent.getcurrent()
            self._home = current_home()
            self._drained = Event()
        try:
            run_logged(self._draw, context=self._context, origin=self._stream._lane.origin)
        finally:
            with self._lock:
                # The hub too: what is queued in its loop may refer to this,
                # and a loop is no link that garbage collection can follow.
                self._greenlet = self._home = None
            self.close_source()

    def _draw(self) -> None:
        stream = self._stream
        try:
            for message in self._source:
                self._drained.clear()
                stream.write(message)
                # A source that never waits leaves nobody the time to stop it.
                while stream.writable_need_drain and not self._over():
                    self._drained.wait()
                    self._drained.clear()
                if self._over():
                    return
            stream.end()
        except WriteAfterEnd:
            pass  # the app has ended the stream itself
        except BaseException as error:
            # Killed by `_stop`. Whatever else it is, the client must not be left waiting.
            if isinstance(error, GreenletExit) and self._over():
                return
            if stream.listeners("error"):
                log_failure(stream._lane.origin, "the source of a pipeline failed")
            stream.destroy(error)

    def _over(self) -> bool:
        return self._stopped or self._stream.destroyed or self._stream._abandoned

    def _go_on(self) -> None:
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
            self._in_hub(lambda: self._greenlet and self._greenlet.kill(block=False))
        self._stream._close(None, StreamDestroyed("the pipeline is over"), cut=True)

    def _in_hub(self, function: Any) -> None:
        with self._lock:
            if self._home is not None:
                self._home.call(function)

    def close_source(self) -> None:
        close = getattr(self._source, "close", None)
        if callable(close):
            run_logged(close, context=self._context, origin=self._stream._lane.origin)
