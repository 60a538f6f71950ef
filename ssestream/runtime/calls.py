"""Calls of an app's code: one after another, in the order of their queue, each failure logged."""

import contextvars
from collections.abc import Callable
from typing import Any

import gevent
from gevent import GreenletExit

from .callables import is_lazy
from .loop import Loop, current_loop
from .origin import Origin, enter, log_failure
from .threads import new_lock

#: A call in a queue: for an event, a function that tells whether anything hears the event, and
#: None for any other call; the function to call; and its arguments.
_Call = tuple[Callable[[str], bool] | None, Callable[..., object], tuple[Any, ...]]


class CallQueue:
    """A queue of calls that run one after another, in the order of the queue.

    A stream and its response share one call queue, so that their events have one order. A
    greenlet or a thread that is started for the queue runs it, or the greenlet or thread that ends
    the request, if that comes first. Most events have no handler. The hub's loop itself skips
    them, so that no greenlet and no thread is made for them.
    """

    __slots__ = ("_busy", "_loop", "_pending", "lock", "origin")

    def __init__(self, loop: Loop | None = None, origin: Origin | None = None) -> None:
        self._loop = loop
        #: The request of the call queue, for the log; None outside of requests.
        self.origin = origin
        #: Guards the queue, and the state of every stream and response of this call queue. They
        #: share it, as each lock takes a hundred bytes. It is held for a few instructions only.
        self.lock = new_lock()
        # A deque is large even when empty, so this is a list, and an empty tuple while
        # nothing waits.
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
    def has_loop(self) -> bool:
        """Whether the loop is chosen."""
        return self._loop is not None

    @property
    def is_copy(self) -> bool:
        """Whether this process is a job, and the call queue is a copy of its parent's."""
        return self._loop is not None and self._loop.is_copy

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Call *function* soon, after all earlier calls of the call queue. Thread-safe."""
        self._add((None, function, args))

    def emit_soon(
        self, is_heard: Callable[[str], bool], emit: Callable[..., object], *args: object
    ) -> None:
        """Call *emit* with an event and its arguments soon, after all earlier calls. Thread-safe.

        *is_heard* tells whether the app can notice the event. If not, *emit* does not block.
        """
        self._add((is_heard, emit, args))

    def _add(self, call: _Call) -> None:
        # Get the loop before queuing: it may raise, for lack of descriptors for example.
        loop = self.loop
        if loop.is_copy:
            return
        with self.lock:
            if self._pending:
                self._pending.append(call)
                return
            self._pending = [call]
            if self._busy:
                return
        is_heard, _, args = call
        if loop.cooperative or (is_heard is not None and not is_heard(args[0])):
            loop.call(self.run, True)
        else:
            loop.spawn(self.run)

    def run(self, in_loop: bool = False) -> None:
        """Run the queued calls, unless another thread or greenlet already runs them.

        With *in_loop* the caller is the hub's loop, which must not block. Then this stops at
        the first call that might block, and a greenlet runs the rest.
        """
        if self.is_copy:
            return
        with self.lock:
            if self._busy or not self._pending:
                return
            self._busy = True
        try:
            while True:
                with self.lock:
                    if not self._pending or self.is_copy:
                        return
                    is_heard, function, args = self._pending[0]
                    if in_loop and (is_heard is None or is_heard(args[0])):
                        return
                    del self._pending[0]
                run_logged(function, *args, origin=self.origin)
        finally:
            with self.lock:
                self._busy = False
                owed = bool(self._pending)
                if not owed:
                    self._pending = ()
            if owed and in_loop and self.loop.cooperative:
                self.loop.run_now(self.run)
            elif owed:  # for a pool's thread, or the greenlet was killed in the middle of a handler
                self.loop.spawn(self.run)


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
        # Nearly every callback returns None.
        if result is not None and is_lazy(result):
            text = "%r returned an object of %r, and nobody awaits or iterates it"
            log_failure(origin, text, function, type(result), exc_info=None)
