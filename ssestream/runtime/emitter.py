"""Node's events, with pyee's emitter.

Four things differ from a bare ``pyee.EventEmitter``:

* If a handler raises, the exception is logged and the other handlers run. ``"error"``
  without a handler is logged, too; Node would end the process.
* A stream's own events come soon, but never inside the call that caused them. They come one
  after another and in order, as in Node. A handler may block, write or close.
* A handler may take fewer arguments than its event has. Then it gets the first ones.
* Handlers run outside the request context and the app context, so that an open stream holds
  neither. A handler that needs an app context pushes one (``with app.app_context():``).
"""

import contextvars
import functools
import os
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import pyee
from gevent import GreenletExit

from ..errors import StreamDestroyed
from .callables import check_callable, fitting, is_coroutine
from .forking import process
from .loop import Loop, current_loop, logger, new_lock
from .origin import Origin, enter, log_failure, origin_of
from .uncopyable import Uncopyable


class Follower(Protocol):
    """An object of this package that hears a stream's events, before the app's handlers.

    It is called in the call queue's turn, mostly in the hub's loop. So it must not block.
    """

    def heard(self, event: str) -> None: ...


class CallQueue:
    """A queue of calls that run one after another, in the order of the queue.

    A stream and its response share one call queue, so that their events have one order. The first
    of these runs the queue: a greenlet or a thread that is started for it, or the greenlet
    or thread that ends the request. Most events have no handler. The hub's loop itself skips
    them, so that no greenlet is made for them.
    """

    __slots__ = ("_busy", "_loop", "_pending", "lock", "origin")

    def __init__(self, loop: Loop | None = None, origin: Origin | None = None) -> None:
        self._loop = loop
        #: The request of the call queue, for the log; None outside of requests.
        self.origin = origin
        #: Guards the queue, and the state of every stream and response of this call queue. They
        #: share it, as each lock takes a hundred bytes. It is held for a few instructions only.
        self.lock = new_lock()
        # The queue. An entry has an emitter if it is an event. A deque is large even when
        # empty, so this is a list, and an empty tuple while nothing waits.
        self._pending: list[_Call] | tuple[()] = ()
        self._busy = False

    @property
    def loop(self) -> Loop:
        """The loop in which the calls run.

        It is chosen when first needed: a module may make a stream before the process forks.
        """
        if self._loop is None:
            self._loop = current_loop()
        return self._loop

    @property
    def has_home(self) -> bool:
        return self._loop is not None

    @property
    def is_lost(self) -> bool:
        """Whether this process is a job, and the call queue is a copy of its parent's."""
        return self._loop is not None and self._loop.is_lost

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Call *function* soon, after all earlier calls of the call queue. Thread-safe."""
        self._add((None, function, args))

    def emit_soon(self, emitter: "Emitter", event: str, args: tuple[Any, ...]) -> None:
        """Let *emitter* emit *event* soon, after all earlier calls of the call queue.

        Thread-safe.
        """
        self._add((emitter, emitter._emit_here, (event, *args)))

    def _add(self, call: "_Call") -> None:
        # Get the loop before queuing: it may raise, for lack of descriptors for example.
        loop = self.loop
        if loop.is_lost:
            return
        with self.lock:
            if self._pending:
                self._pending.append(call)
                return
            self._pending = [call]
            if self._busy:
                return
        if loop.cooperative:
            loop.call(self.run, True)
        else:
            loop.spawn(self.run)

    def run(self, in_loop: bool = False) -> None:
        """Run the queued calls, unless another thread or greenlet already runs them.

        With *in_loop* the caller is the hub's loop, which must not block. Then this stops at
        the first call that might block, and a greenlet runs the rest.
        """
        if self.is_lost:
            return
        with self.lock:
            if self._busy or not self._pending:
                return
            self._busy = True
        try:
            while True:
                with self.lock:
                    if not self._pending or self.is_lost:
                        return
                    emitter, function, args = self._pending[0]
                    if in_loop and (emitter is None or emitter._is_heard(args[0])):
                        return
                    del self._pending[0]
                run_logged(function, *args, origin=self.origin)
        finally:
            with self.lock:
                self._busy = False
                owed = bool(self._pending)
                if not owed:
                    self._pending = ()
            if owed and in_loop:
                self.loop.run_now(self.run)
            elif owed:  # the greenlet was killed in the middle of a handler
                self.loop.spawn(self.run)


_CALL_QUEUE_KEY = "ssestream.call_queue"


def call_queue_of(environ: dict[str, Any]) -> CallQueue:
    """Return the call queue of a request, which its streams and its response share."""
    call_queue: CallQueue | None = environ.get(_CALL_QUEUE_KEY)
    if call_queue is None:
        call_queue = environ[_CALL_QUEUE_KEY] = CallQueue(current_loop(), origin_of(environ))
        process.begin()
        if environ.get("wsgi.multiprocess"):
            process.is_one_of_several = True
    return call_queue


def known_call_queue(environ: dict[str, Any]) -> CallQueue | None:
    """The call queue that `call_queue_of` has made for the request, or None."""
    call_queue: CallQueue | None = environ.get(_CALL_QUEUE_KEY)
    return call_queue


def run_logged(
    function: Callable[..., object],
    *args: Any,
    context: contextvars.Context | None = None,
    origin: Origin | None = None,
) -> None:
    """Call an app's *function* outside all Flask contexts, and log any exception.

    This includes exceptions that are no ``Exception``: ``gevent.Timeout`` and ``SystemExit``.
    Calls that belong together, such as all steps of one generator, share a *context*; None
    makes a new one. *origin* is the request for which the function runs, for the log.
    """
    if context is None:
        context = contextvars.Context()
    enter(context, origin)
    try:
        result = context.run(function, *args)
    except BaseException as error:
        log_failure(origin, "%r failed", function)
        # The greenlet was killed, so let it end. Another greenlet will run the queue's rest.
        if isinstance(error, GreenletExit) and isinstance(gevent.getcurrent(), gevent.Greenlet):
            raise
    else:
        if is_coroutine(result):
            log_failure(
                origin, "%r returned a coroutine, and nobody awaits it", function, exc_info=None
            )


_NO_HANDLERS: dict[str, Any] = {}


def written_in_a_job(callback: Callable[[Exception], object] | None = None) -> None:
    """Log that a job writes to a stream of its parent, and call *callback* with the error."""
    global _said_of_job
    if _said_of_job != os.getpid():
        _said_of_job = os.getpid()
        logger.warning(
            "process %d is a forked job and writes to a stream of its parent: no client gets"
            " this. Publish to channels of sqlite:/// or redis:// instead",
            os.getpid(),
        )
    if callback is not None:
        error = StreamDestroyed("the stream belongs to the parent of this process")
        current_loop().spawn(run_logged, callback, error)


_said_of_job = 0


class Emitter(Uncopyable, pyee.EventEmitter):
    """An event emitter with a call queue: ``on``, ``once``, ``remove_listener``, ``emit``."""

    _only_one = "its events come once, to the handlers that it has"

    # pyee's own lock would be a lock of greenlets in a patched process, but real threads use
    # emitters, too. All emitters share one: it is held only to look into a table of handlers.
    _lock = new_lock()

    def __init__(self, call_queue: CallQueue | None = None) -> None:
        # pyee's __init__ would make only this table, and a lock. Most emitters have no
        # handlers, and share one empty table.
        self._events: dict[str, Any] = _NO_HANDLERS
        self._call_queue = call_queue or CallQueue()
        self._followers: tuple[Follower, ...] = ()

    def _is_lost(self) -> bool:
        """Whether this process is a job, and the emitter is a copy of its parent's."""
        return process.is_job and self._call_queue.is_lost

    def _emit_soon(self, event: str, *args: object) -> None:
        """Emit *event* soon, after all events that were announced before it."""
        self._call_queue.emit_soon(self, event, args)

    def _add_event_handler(self, event: str, k: Any, v: Any) -> None:
        check_callable(f"the handler of {event!r}", k)
        self._make_table()
        super()._add_event_handler(event, k, v)

    def remove_all_listeners(self, event: str | None = None) -> None:
        self._make_table()
        super().remove_all_listeners(event)

    def _make_table(self) -> None:
        with self._lock:
            if self._events is _NO_HANDLERS:
                self._events = {}

    def _follow(self, follower: Follower) -> None:
        """Let *follower* hear every later event, before the handlers do."""
        with self._lock:
            self._followers = (*self._followers, follower)

    def _emit_here(self, event: str, *args: object) -> None:
        for follower in self._followers:
            run_logged(follower.heard, event)
        if event == "close":
            # Followers refer to this emitter. Break the cycle: no garbage collector is needed.
            self._followers = ()
        if self._is_heard(event):
            self.emit(event, *args)

    def _is_heard(self, event: str) -> bool:
        """Whether an app can notice that *event* is emitted."""
        return event == "error" or bool(self._events.get(event)) or self._emits_itself

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._emits_itself = cls.emit is not pyee.EventEmitter.emit

    #: Whether an app's class has an ``emit`` of its own.
    _emits_itself = False

    def _call_handlers(self, event: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Call all handlers of *event*, even if the greenlet is killed in one of them."""
        with self._lock:
            handlers = list(self._events.get(event, {}).items())
        killed: GreenletExit | None = None
        for given, handler in handlers:
            try:
                # With once(), *handler* is pyee's own, and calls the app's handler *given*.
                self._emit_run(handler, fitting(given, args), kwargs)
            except GreenletExit as error:
                killed = error
        if killed is not None:
            raise killed
        return bool(handlers)

    def _emit_run(
        self, f: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        called = functools.partial(f, **kwargs) if kwargs else f
        run_logged(called, *args, origin=self._call_queue.origin)

    def _emit_handle_potential_error(self, event: str, error: Any) -> None:
        if event == "error":
            log_failure(
                self._call_queue.origin,
                "an error on %s, and no handler for it: %r",
                type(self).__name__,
                error,
                exc_info=error if isinstance(error, BaseException) else None,
            )


#: A call in a call queue's queue: the emitter of the event or None, the function, its arguments.
_Call = tuple[Emitter | None, Callable[..., object], tuple[Any, ...]]


def _after_fork() -> None:
    # A thread of the parent may have held the lock.
    Emitter._lock = new_lock()


os.register_at_fork(after_in_child=_after_fork)
