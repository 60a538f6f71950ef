"""Timers as in JavaScript: ``setInterval`` and its family, in milliseconds.

An interval does not drift: its n-th tick is due n delays after it was set. (Node counts each
delay from the start of the last callback, and so drifts.) A tick that comes while the callback
still runs is left out, so that a slow callback never overlaps itself. A tick that a blocked loop
has missed is left out, too. A delay under 1 counts as 1.

Callbacks that are due at nearly the same time are called together, in the order in which they are
due, as each turn of the loop costs much. So a callback is never early. If the loop is not busy, a
callback is up to a millisecond late with a delay below 40 ms, up to 2 with one below 80, and up to
4 with any other. On a busy loop, callbacks that are due within such a time of each other may change
places.

Both clearing functions clear both kinds. Unlike in Node, an exception in a callback is logged and
the interval goes on.

A timer belongs to the loop of the thread or greenlet that sets it. Its callback runs in a
greenlet there, or on threaded servers in a plain thread, outside every request and app context.
Callbacks that do not wait share this greenlet or thread (see ``runtime.timerheap``). Any thread
may clear the timer.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from .http.origin import current_origin
from .runtime.callables import check_callable, fitting
from .runtime.calls import run_logged
from .runtime.forking import process
from .runtime.loop import current_loop
from .runtime.timerheap import Entry, heap_of
from .runtime.uncopyable import Uncopyable
from .runtime.writer import running_writer


class Timer(Uncopyable, Entry):
    """A timer of `set_interval` or `set_timeout`, for `clear_interval` and `clear_timeout`."""

    _only_one = "it runs in this process, once. Set another timer"

    def __init__(
        self, callback: Callable[..., object], delay_ms: float, args: tuple[Any, ...], repeat: bool
    ) -> None:
        super().__init__(max(1, delay_ms) / 1000)
        self._loop = current_loop()
        #: The request whose view or handler has set the timer; None outside of requests.
        self.origin = current_origin()
        self._call: tuple[Callable[..., object], tuple[Any, ...]] = (callback, args)
        self._repeat = repeat
        if not process.serves:
            _early.add(self)
        heap_of(self._loop).add(self)

    def run(self) -> None:
        # Read both in one step. A clear() from another thread could come between two steps.
        callback, args = self._call
        if self.is_over:
            return
        try:
            run_logged(callback, *args, origin=self.origin)
        finally:
            if not self._repeat:
                self._finish()

    def clear(self) -> None:
        if not self.is_over:
            self._finish()
            heap_of(self._loop).discard(self)

    def _finish(self) -> None:
        self.is_over = True
        _early.discard(self)
        # The app may keep the timer. The timer must not keep the callback.
        self._call = (_nothing, ())

    def is_left_behind(self) -> bool:
        """Called in a forked child: whether the timer runs in the parent only."""
        # A child has only the thread that forked, and so only the hub of that thread.
        return not self._loop.here()

    @property
    def callback(self) -> Callable[..., object]:
        """The app's function."""
        return self._call[0]

    def __str__(self) -> str:
        callback = self._call[0]
        module, name = (getattr(callback, key, None) for key in ("__module__", "__qualname__"))
        return f"{module}.{name}" if module and name else repr(callback)


# The timers that were set before this process served a request, and that can still fire.
_early: set[Timer] = set()


def _after_fork() -> None:
    if not process.is_job:  # a job knows that it has none of its parent's timers
        names = [str(each) for each in _early if each.is_left_behind()]
        process.leave_behind("timer", "set", "Set", names)
    _early.clear()


os.register_at_fork(after_in_child=_after_fork)


def _nothing() -> None:
    pass


def set_interval(callback: Callable[..., object], delay_ms: float, *args: Any) -> Timer:
    """Call ``callback(*args)`` every *delay_ms* milliseconds until cleared.

    If the callback takes fewer arguments, it gets the first of *args*, as in JavaScript.
    Returns a timer for `clear_interval`. Raises ``TypeError`` if *callback* cannot be called
    or is an ``async def``, and if *delay_ms* is no number. Raises ``ValueError`` if *delay_ms*
    is negative or not finite. JavaScript's ``setInterval``.
    """
    return _timer(callback, delay_ms, args, repeat=True)


def set_timeout(callback: Callable[..., object], delay_ms: float, *args: Any) -> Timer:
    """Call ``callback(*args)`` once, after *delay_ms* milliseconds, unless cleared.

    Returns and raises as `set_interval`. JavaScript's ``setTimeout``.
    """
    return _timer(callback, delay_ms, args, repeat=False)


def clear_interval(timer: Timer | None) -> None:
    """Stop *timer*: no call of its callback begins after this.

    Does nothing for None, and for a timer that was cleared or has run out. Raises
    ``TypeError`` for anything else. JavaScript's ``clearInterval``.
    """
    if timer is None:
        return
    if not isinstance(timer, Timer):
        raise TypeError(
            f"a timer is what set_interval() and set_timeout() return, not {type(timer).__name__}"
        )
    timer.clear()


def clear_timeout(timer: Timer | None) -> None:
    """The same as `clear_interval`. JavaScript's ``clearTimeout``."""
    clear_interval(timer)


def _timer(
    callback: Callable[..., object], delay_ms: float, args: tuple[Any, ...], repeat: bool
) -> Timer:
    check_callable("callback", callback)
    if not isinstance(delay_ms, (int, float)) or isinstance(delay_ms, bool):
        raise TypeError(f"delay_ms is a number of milliseconds, not {type(delay_ms).__name__}")
    # Compared with a bound, because isfinite() fails for an int beyond all floats.
    if not 0 <= delay_ms <= sys.float_info.max:
        raise ValueError(f"delay_ms must be finite and not negative, and is {delay_ms}")
    timer = Timer(callback, delay_ms, fitting(callback, args), repeat)
    writer = running_writer()
    if writer is not None:
        writer.hold(timer)
    return timer
