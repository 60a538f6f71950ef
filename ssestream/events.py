"""Node's events on pyee's emitter.

Three things differ from a bare ``pyee.EventEmitter``:

* A handler that raises is logged, and the other handlers run. ``"error"``
  without a handler is logged too; Node would end the process.
* A stream's own events come soon, not inside the call that caused them, one
  after another and in order, as Node's do. A handler may block, write, close.
* Handlers run outside every request and app context: a handler that needs one
  pushes it (``with app.app_context():``), so that an open stream holds none.
"""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import pyee

from .hub import Home, current_home, logger, new_lock


class Lane:
    """Calls that run one after another, in the order in which they were asked for.

    A stream and the response that it is piped into share one, so that theirs
    is one order. Whoever comes first runs what is pending: a greenlet or a
    thread started for it, or the one that ends the request.
    """

    __slots__ = ("_busy", "_home", "_lock", "_pending")

    def __init__(self, home: Home | None = None) -> None:
        self._home = home
        self._lock = new_lock()
        # No deque, which is large even when empty; a few calls at most wait here.
        self._pending: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
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

    def soon(self, function: Callable[..., object], *args: object) -> None:
        """Call *function* in its turn."""
        with self._lock:
            self._pending.append((function, args))
            first = len(self._pending) == 1 and not self._busy
        if first:
            self.home.spawn(self.run)

    def run(self) -> None:
        """Run what is pending, unless somebody already does."""
        with self._lock:
            if self._busy:
                return
            self._busy = True
        try:
            while True:
                with self._lock:
                    if not self._pending:
                        self._busy = False
                        return
                    function, args = self._pending.pop(0)
                run_logged(function, *args)
        except BaseException:
            # Killed in the middle of a handler: the rest is still owed.
            with self._lock:
                self._busy = False
                owed = bool(self._pending)
            if owed:
                self.home.spawn(self.run)
            raise


def run_logged(
    function: Callable[..., object], *args: Any, context: contextvars.Context | None = None
) -> None:
    """Call an app's *function* outside every request; what it raises is logged.

    *context* is for calls that belong together, such as those of one generator.
    """
    if context is None:
        context = contextvars.Context()
    try:
        context.run(function, *args)
    except Exception:
        logger.exception("%r failed", function)


class Emitter(pyee.EventEmitter):
    """An event emitter with a lane: ``on``, ``once``, ``remove_listener``, ``emit``."""

    def __init__(self, lane: Lane | None = None) -> None:
        super().__init__()
        # pyee's own would be a greenlet's lock in a patched process, and
        # real threads meet here.
        self._lock = new_lock()
        self._lane = lane or Lane()

    def _announce(self, event: str, *args: object) -> None:
        """Emit *event* soon, after whatever was announced before it."""
        self._lane.soon(self.emit, event, *args)

    def _emit_run(
        self, f: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        run_logged(functools.partial(f, **kwargs) if kwargs else f, *args)

    def _emit_handle_potential_error(self, event: str, error: Any) -> None:
        if event == "error":
            logger.error(
                "an error on %s, and no handler for it: %r",
                type(self).__name__,
                error,
                exc_info=error if isinstance(error, BaseException) else None,
            )
