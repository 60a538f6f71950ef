"""Node's events on pyee's emitter.

Four things differ from a bare ``pyee.EventEmitter``:

* A handler that raises is logged, and the other handlers run. ``"error"``
  without a handler is logged too; Node would end the process.
* A stream's own events come soon, not inside the call that caused them, one
  after another and in order, as Node's do. A handler may block, write, close.
* A handler that takes fewer arguments than its event has is given the first of them.
* Handlers run outside every request and app context: a handler that needs one
  pushes it (``with app.app_context():``), so that an open stream holds none.
"""

import contextvars
import functools
import os
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import pyee
from gevent import GreenletExit

from .callables import check_callable, fitting, is_coroutine
from .errors import StreamDestroyed
from .forking import process
from .hub import Home, current_home, logger, new_lock
from .origin import Origin, enter, log_failure, origin_of
from .uncopyable import Uncopyable


class Follower(Protocol):
    """What of this package's own is told of a stream's events, before the app's handlers.

    In its lane's turn, and mostly in the hub's loop: it must not block.
    """

    def heard(self, event: str) -> None: ...


class Lane:
    """Calls that run one after another, in the order in which they were asked for.

    A stream and the response that it is piped into share one, so that theirs
    is one order. Whoever comes first runs what is pending: a greenlet or a
    thread started for it, or the one that ends the request. Most events are
    heard by nobody, though, and a greenlet is not made to find that out.
    """

    __slots__ = ("_busy", "_home", "_pending", "lock", "origin")

    def __init__(self, home: Home | None = None, origin: Origin | None = None) -> None:
        self._home = home
        #: The request that the lane is of, for the log.
        self.origin = origin
        #: Guards what is below, and the state of all whose lane it is. It is never held for
        #: more than a few instructions, and each lock takes a hundred bytes.
        self.lock = new_lock()
        # Each with the emitter whose event it is, if it is one. No deque, which is
        # large even when empty, and no list before anything waits here.
        self._pending: list[_Call] | tuple[()] = ()
        self._busy = False

    @property
    def home(self) -> Home:
        """Decided when first needed: a stream of a module may be made before a fork."""
        if self._home is None:
            self._home = current_home()
        return self._home

    @property
    def has_home(self) -> bool:
        return self._home is not None

    @property
    def is_lost(self) -> bool:
        """Whether it is that of a client of the parent of this process."""
        return self._home is not None and self._home.is_lost

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Call *function* in its turn."""
        self._add((None, function, args))

    def announce(self, emitter: "Emitter", event: str, args: tuple[Any, ...]) -> None:
        """Let *emitter* emit *event* in its turn."""
        self._add((emitter, emitter._emit_here, (event, *args)))

    def _add(self, call: "_Call") -> None:
        # Before anything waits here, as there may be none to be had.
        home = self.home
        if home.is_lost:
            return
        with self.lock:
            if self._pending:
                self._pending.append(call)
                return
            self._pending = [call]
            if self._busy:
                return
        if home.cooperative:
            home.call(self.run, True)
        else:
            home.spawn(self.run)

    def run(self, in_loop: bool = False) -> None:
        """Run what is pending, unless somebody already does.

        *In the loop* of its home that ends at the first call which might block, and
        a greenlet goes on from there.
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
                self.home.enter(self.run)
            elif owed:  # killed in the middle of a handler
                self.home.spawn(self.run)


_LANE_KEY = "ssestream.lane"


def lane_of(environ: dict[str, Any]) -> Lane:
    """The lane of a request: what it streams and what answers it have one, and its lock."""
    lane: Lane | None = environ.get(_LANE_KEY)
    if lane is None:
        lane = environ[_LANE_KEY] = Lane(current_home(), origin_of(environ))
        process.begin()
    return lane


def known_lane(environ: dict[str, Any]) -> Lane | None:
    """The lane that `lane_of` has made for the request, or None."""
    lane: Lane | None = environ.get(_LANE_KEY)
    return lane


def run_logged(
    function: Callable[..., object],
    *args: Any,
    context: contextvars.Context | None = None,
    origin: Origin | None = None,
) -> None:
    """Call an app's *function* outside every request; what it raises is logged.

    That may be no ``Exception``, as a ``gevent.Timeout`` and ``sys.exit()`` are none.
    *context* is for calls that belong together, such as those of one generator. *origin* is
    the request for which the function runs.
    """
    if context is None:
        context = contextvars.Context()
    enter(context, origin)
    try:
        result = context.run(function, *args)
    except BaseException as error:
        log_failure(origin, "%r failed", function)
        # The greenlet was killed, and is to end. Whoever has more to do starts another.
        if isinstance(error, GreenletExit) and isinstance(gevent.getcurrent(), gevent.Greenlet):
            raise
    else:
        if is_coroutine(result):
            log_failure(
                origin, "%r returned a coroutine, and nobody awaits it", function, exc_info=None
            )


_NO_HANDLERS: dict[str, Any] = {}


def written_in_a_job(callback: Callable[[Exception], object] | None = None) -> None:
    """A stream of the parent was written to; *callback* is told so."""
    global _said_of_job
    if _said_of_job != os.getpid():
        _said_of_job = os.getpid()
        logger.warning(
            "process %d, a job that was forked, writes to a stream of its parent, and nobody"
            " gets it: publish to channels instead, of sqlite:/// or redis://",
            os.getpid(),
        )
    if callback is not None:
        error = StreamDestroyed("the stream is one of the parent of this process")
        current_home().spawn(run_logged, callback, error)


_said_of_job = 0


class Emitter(Uncopyable, pyee.EventEmitter):
    """An event emitter with a lane: ``on``, ``once``, ``remove_listener``, ``emit``."""

    _only_one = "its events come once, to the handlers that it has"

    # pyee's own would be a greenlet's lock in a patched process, and real threads meet
    # here. One for all emitters: it is held for a look into a table of handlers.
    _lock = new_lock()

    def __init__(self, lane: Lane | None = None) -> None:
        # All that pyee's would make beside a lock for each: its table of handlers, of
        # which most emitters have none.
        self._events: dict[str, Any] = _NO_HANDLERS
        self._lane = lane or Lane()
        self._followers: tuple[Follower, ...] = ()

    def _is_lost(self) -> bool:
        """Whether its client is one of the parent's, whose copy this is."""
        return process.is_job and self._lane.is_lost

    def _announce(self, event: str, *args: object) -> None:
        """Emit *event* soon, after whatever was announced before it."""
        self._lane.announce(self, event, args)

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
        """Tell *follower* of what is announced from now on, before the handlers."""
        with self._lock:
            self._followers = (*self._followers, follower)

    def _emit_here(self, event: str, *args: object) -> None:
        for follower in self._followers:
            run_logged(follower.heard, event)
        if event == "close":
            # They know this emitter, and are not to wait for the garbage collector.
            self._followers = ()
        if self._is_heard(event):
            self.emit(event, *args)

    def _is_heard(self, event: str) -> bool:
        """Whether it makes a difference to an app that *event* is emitted."""
        return event == "error" or bool(self._events.get(event)) or self._emits_itself

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._emits_itself = cls.emit is not pyee.EventEmitter.emit

    #: Whether an app's class has an ``emit`` of its own.
    _emits_itself = False

    def _call_handlers(self, event: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """All of them, also when the greenlet is killed in one."""
        with self._lock:
            handlers = list(self._events.get(event, {}).items())
        killed: GreenletExit | None = None
        for given, handler in handlers:
            try:
                # The handler of once() is pyee's, and calls the one that was given.
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
        run_logged(called, *args, origin=self._lane.origin)

    def _emit_handle_potential_error(self, event: str, error: Any) -> None:
        if event == "error":
            log_failure(
                self._lane.origin,
                "an error on %s, and no handler for it: %r",
                type(self).__name__,
                error,
                exc_info=error if isinstance(error, BaseException) else None,
            )


#: What a lane calls: whose event it is (or None), the function, its arguments.
_Call = tuple[Emitter | None, Callable[..., object], tuple[Any, ...]]


def _after_fork() -> None:
    # A thread of the parent may have held it.
    Emitter._lock = new_lock()


os.register_at_fork(after_in_child=_after_fork)
