"""One call of the function of a ``@handler``: it runs beside its request, and is ended in time."""

import contextvars
import inspect
import sys
import weakref
from collections.abc import Callable
from types import GeneratorType
from typing import Any

import flask
import gevent
from gevent import GreenletExit

from .config import current_app
from .errors import StreamDestroyed
from .http.body import Body
from .http.diagnosis import never_ended
from .http.discarded import end_late
from .http.inlet import Inlet
from .http.outgoing import body_of
from .http.view import current_context
from .response import ServerResponse
from .runtime.beside import end_function, start_beside
from .runtime.callables import is_lazy
from .runtime.calls import CallQueue, run_logged
from .runtime.clock import clock
from .runtime.loop import Loop, logger, loop_of
from .runtime.origin import enter, log_failure
from .runtime.threads import new_lock
from .runtime.waker import Waker
from .runtime.weak import snapshot
from .runtime.writer import Writer, enter_writer

#: Seconds for which a function may run on after ``end()`` before the response starts. Most
#: return at once, and then their request's own teardown is the only one.
MOMENT = 0.01

#: Seconds in which waiting bytes may leave after the function has failed. Then the client is cut.
LAST = 1.0

#: So many writes end a function whose client has left. If the function has caught the end of all
#: of them, later writes return False, as in Node. A loop that catches everything, and that waits
#: only behind its write, would otherwise never wait again, and nothing else would run.
ENDINGS = 100


class Run(Inlet, Writer):
    """One call of a handler's function, in a greenlet."""

    #: What ends the function when its client has left.
    _ending: type[BaseException] = GreenletExit

    def __init__(self, name: str, call: Callable[[], Any], res: ServerResponse) -> None:
        self.name = name
        self._call: Callable[[], Any] | None = call
        self._res = res
        self._body: Body = body_of(res)
        self._call_queue = self._body.call_queue
        self._app = current_app()
        self._context = contextvars.copy_context()
        self._lock = new_lock()
        # Whether the view is to return the response.
        self._started = False
        # Whether the server has begun to send it: the teardown of the request has run.
        self._begun = False
        self._done = False
        # Whether what the function has left behind ends with the response.
        self._cleans_up = False
        self._cancelled = False
        # The writes that have ended the function.
        self._endings = 0
        self._result: Any = None
        self._error: BaseException | None = None
        # In `_view` the view sleeps, and in `_sleeper` the function.
        self._view = Waker()
        self._sleeper: Waker | None = None
        self._greenlet: Any = None
        self._loop: Loop | None = None
        # The streams for whose "drain" the function has waited.
        self._waited_for: list[Any] = []
        self._timers: weakref.WeakSet[Any] = weakref.WeakSet()

    # -- in the view

    def answer(self) -> Any:
        """Start the function. Returns what the view answers, when that is known."""
        enter(self._context, self._call_queue.origin)
        enter_writer(self._context, self)
        self._body.when_begun(self._begin)
        self._body.add_inlet((self,))
        self._run_function()
        try:
            while not (self._started or self._done):
                self._view.wait()
        except BaseException:
            # The view was ended from outside, for example by a timeout of the server.
            self._end_function()
            raise
        result, self._result = self._result, None
        error, self._error = self._error, None
        if self._started:
            return self._res
        if error is not None:
            try:
                raise error
            finally:
                # Break the cycle of the traceback with this frame.
                del error
        # As in Express, the result of a function that has ended its response is ignored.
        return self._res if result is None or self._res.writable_ended else result

    # -- in the greenlet of the function

    def _run_function(self) -> None:
        start_beside(self._call_queue.loop, self._enter, self)

    def _enter(self) -> None:
        with self._lock:
            if self._cancelled:
                return
            self._greenlet = gevent.getcurrent()
            self._loop = loop_of(gevent.get_hub())
            self._sleeper = Waker()
        call, self._call = self._call, None
        result = error = None
        try:
            assert call is not None
            result = self._context.run(call)
            # Flask iterates a generator.
            if not isinstance(result, GeneratorType) and is_lazy(result):
                kind = type(result).__name__
                raise TypeError(f"the handler {self.name} is no async def, but returned a {kind}")
        except BaseException as raised:
            error = raised
        call = None
        self._finish(result, error)

    def _finish(self, result: Any, error: BaseException | None) -> None:
        body = self._body
        with self._lock:
            # From now on a kill would hit the code below, and not the function.
            self._greenlet = self._loop = None
        body.remove_inlet(self)
        with self._lock:
            self._done = True
            is_late = self._started or self._cancelled
            if not is_late:
                self._result, self._error = result, error
        if error is not None and is_late:
            self._failed(error)
        elif error is None and (is_late or result is None or result is self._res):
            self._warn_if_not_held()
        self._view.wake()
        if is_late and (self._begun or body.over):
            # The function may have opened something since the teardown of the request.
            run_logged(_tear_down, self._app, error, context=self._context)
        self._clean_up()
        self._forget()

    def _failed(self, error: BaseException) -> None:
        body = self._body
        gone = self._cancelled or self._is_over()
        if gone and isinstance(error, (self._ending, StreamDestroyed)):
            return
        log_failure(self._call_queue.origin, "the handler %s failed", self.name, exc_info=error)
        if not body.ended:
            self._let_bytes_leave()
            # Without a handler of "error", the response would log it again.
            self._res.destroy(error if self._res.listeners("error") else None)

    def _let_bytes_leave(self) -> None:
        """Wait a moment until the waiting bytes are sent. The cut drops the rest.

        Node would have sent them.
        """
        pause, until = 0.001, clock.real() + LAST
        while self._body.buffer.length and not self._body.over and clock.real() < until:
            gevent.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _warn_if_not_held(self) -> None:
        """Log that nothing writes to the response any more, if it was not ended."""
        body = self._body
        timers = any(not timer.is_over for timer in snapshot(lambda: self._timers))
        if not (body.ended or body.over or body.inlets or timers or self._res.event_names()):
            never_ended(self.name)

    def _forget(self) -> None:
        self._waited_for.clear()
        self._sleeper = None

    def _is_here(self) -> bool:
        """Whether the function itself calls."""
        return self._greenlet is not None and gevent.getcurrent() is self._greenlet

    def _is_over(self) -> bool:
        """Whether nothing more can be sent, for another reason than the app's ``end()``."""
        body = self._body
        return (body.over or body.retired is not None) and not body.ended

    def _end_if_gone(self) -> None:
        """End the function if its client has left."""
        # In a `finally` the function is ending already, and may clean up.
        if not self._is_over() or isinstance(sys.exc_info()[1], self._ending):
            return
        if self._endings == ENDINGS:
            return
        self._endings += 1
        if self._endings == ENDINGS:
            logger.warning(
                "%r catches %s, though its client has left, and goes on. Let it not catch that, or"
                " raise it again",
                self,
                self._ending.__name__,
            )
        raise self._ending("the client has left")

    def start(self) -> None:
        """Let the view return the response, and wait here until it is being sent."""
        if not self._started:
            self._start_now()
        if self._begun or not self._is_here() or self._sleeper is None:
            return
        while not (self._begun or self._body.over):
            self._sleeper.wait()
        self._end_if_gone()

    def start_in_a_moment(self) -> None:
        """Let the view return the response, if the function does not return soon."""
        if self._is_here():
            self._call_queue.loop.call_later(MOMENT, self._start_now)
        else:
            self._start_now()

    def _start_now(self) -> None:
        with self._lock:
            if self._started or self._done:
                return
            self._started = True
        self._view.wake()

    def wait_for_room(self) -> None:
        """Wait until the response has drained. Does nothing for any other caller."""
        if not self._is_here():
            return
        self._end_if_gone()
        buffer = self._body.buffer
        while buffer.need_drain and self._sleeper is not None and not self._is_over():
            self.start()
            if buffer.need_drain:
                self._sleeper.wait()
            self._end_if_gone()

    def wait_for(self, stream: Any, call_queue: object, bodies: list[Any]) -> None:
        """Wait until *stream* has drained, if it leads to this handler's client.

        It does if it runs its events in *call_queue* of the client, or if one of its *bodies* is
        the response.
        """
        if not self._is_here() or self._sleeper is None:
            return
        if call_queue is not self._call_queue and self._body not in bodies:
            return
        self._end_if_gone()
        if not any(each is stream for each in self._waited_for):
            self._waited_for.append(stream)
            for event in ("drain", "close"):
                stream.on(event, self._wake)
        while stream.writable_need_drain and not (stream.destroyed or self._is_over()):
            self._sleeper.wait()
            self._end_if_gone()

    def hold(self, timer: Any) -> None:
        self._timers.add(timer)

    # -- from anywhere

    def _begin(self) -> None:
        self._begun = True
        self._wake()
        self._clean_up()

    def _clean_up(self) -> None:
        """Let the streams and responses end that the function made late, and that nobody sends.

        The request's own teardown came before they were made. They end with the function or with
        the response, whichever is later, as a callback may still pipe them meanwhile.
        """
        with self._lock:
            if self._cleans_up or not (self._done and (self._begun or self._body.over)):
                return
            self._cleans_up = True
        rest = _Rest(self._res, self._call_queue, self._context.copy())
        self._body.add_inlet((rest,))
        if self._body.over:
            rest.closed()

    def _wake(self, *args: object) -> None:
        sleeper = self._sleeper
        if sleeper is not None:
            sleeper.wake()

    def drained(self) -> None:
        self._wake()

    def closed(self) -> None:
        """The response is over."""
        self._start_now()
        self._wake()
        # After end() the function may run on, whether or not the client is there.
        if not self._body.ended and not self._is_here():
            self._end_function()

    def _end_function(self) -> None:
        with self._lock:
            self._cancelled = True
            loop, greenlet = self._loop, self._greenlet
        if loop is not None:
            loop.call(self._kill, greenlet)

    def _kill(self, greenlet: Any) -> None:
        if self._greenlet is greenlet:
            end_function(greenlet)

    def __repr__(self) -> str:
        return f"the handler {self.name}"


class _Rest(Inlet):
    """What the function of a handler has left behind in *context*: it ends with the response."""

    __slots__ = ("_call_queue", "_context", "_res")

    def __init__(
        self, res: ServerResponse, call_queue: CallQueue, context: contextvars.Context
    ) -> None:
        self._res, self._call_queue, self._context = res, call_queue, context

    def closed(self) -> None:
        # Not at once: the end of a response calls functions of the app, which may wait.
        self._call_queue.call_soon(self._context.run, end_late, self._res)


def _tear_down(app: flask.Flask, error: BaseException | None) -> None:
    tear_down: Any = app.do_teardown_appcontext
    # Since Flask 3.2 it takes the context, too.
    if "ctx" in inspect.signature(tear_down).parameters:
        tear_down(current_context(), error)
    else:
        tear_down(error)


def name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
