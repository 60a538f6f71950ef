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

import functools
import os
from collections.abc import Callable
from typing import Any

import pyee
from gevent import GreenletExit

from .callables import check_callable, fitting
from .calls import CallQueue, run_logged
from .forking import process
from .origin import log_failure
from .threads import new_lock
from .uncopyable import Uncopyable

_NO_HANDLERS: dict[str, Any] = {}

# See `Emitter`.
_lock = new_lock()


class Emitter(Uncopyable, pyee.EventEmitter):
    """An event emitter with a call queue: ``on``, ``once``, ``remove_listener``, ``emit``."""

    _only_one = "its events come once, to the handlers that it has"

    # pyee's own lock would be a lock of greenlets in a patched process, but real threads use
    # emitters, too. All emitters share one: it is held only to look into a table of handlers.
    # Setting it does nothing, so that pyee's __init__ leaves no lock in the emitter.
    _lock = property(lambda self: _lock, lambda self, lock: None)

    def __init__(self, call_queue: CallQueue | None = None) -> None:
        super().__init__()
        # Most emitters have no handlers, and share one empty table.
        self._events: dict[str, Any] = _NO_HANDLERS
        # The queue in which the emitter's events and callbacks wait for their turn.
        self._call_queue = call_queue or CallQueue()

    def off(self, event: str, handler: Callable[..., object]) -> "Emitter":
        """Remove *handler* of *event*. Does nothing if it is not there. Node's ``emitter.off``."""
        try:
            self.remove_listener(event, handler)
        except KeyError:
            pass
        return self

    def _is_copy(self) -> bool:
        """Whether this process is a job, and the emitter is a copy of its parent's."""
        return process.is_job and self._call_queue.is_copy

    def _emit_soon(self, event: str, *args: object) -> None:
        """Emit *event* soon, after all events that were announced before it."""
        self._call_queue.emit_soon(self._is_heard, self._emit_here, event, *args)

    def _add_event_handler(self, event: str, k: Any, v: Any) -> None:
        check_callable(f"the handler of {event!r}", k)
        self._make_table()
        # With once(), *v* is pyee's own function. The log must name the app's handler instead.
        if v is not k:
            functools.update_wrapper(v, k, updated=())
        super()._add_event_handler(event, k, v)

    def remove_all_listeners(self, event: str | None = None) -> None:
        self._make_table()
        super().remove_all_listeners(event)

    def _make_table(self) -> None:
        with self._lock:
            if self._events is _NO_HANDLERS:
                self._events = {}

    def _emit_here(self, event: str, *args: object) -> None:
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


def emit_soon(emitter: Emitter | None, event: str, *args: object) -> None:
    """Let *emitter* emit *event* soon, after all events that were announced before it.

    Nothing happens if *emitter* is None. It is no public method, because an app would inherit it
    with every stream and response.
    """
    if emitter is not None:
        emitter._emit_soon(event, *args)


def emit_if_heard(emitter: Emitter, event: str, *args: object) -> None:
    """The same if an app can notice *event* now. A handler that is added later does not hear it."""
    if emitter._is_heard(event):
        emitter._emit_soon(event, *args)


def _after_fork() -> None:
    # A thread of the parent may have held the lock.
    global _lock
    _lock = new_lock()


os.register_at_fork(after_in_child=_after_fork)
