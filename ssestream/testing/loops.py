"""The loops of the package, as a test reaches them."""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from ..runtime.loop import Loop
from ..runtime.timerheap import heaps
from ..runtime.wheel import wheels
from .waiting import PATIENCE, wait_until

#: Seconds for a loop that has not answered yet: nobody seems to run its hub.
BRIEF = 0.02

_T = TypeVar("_T")

_silent: "weakref.WeakSet[Loop]" = weakref.WeakSet()


def loops() -> set[Loop]:
    """The loops of living threads that have timers or checks, or had some."""
    found = {loop for loop, _ in [*wheels(), *heaps()]}
    return {loop for loop in found if not _has_ended(loop) and not loop.is_copy}


def _has_ended(loop: Loop) -> bool:
    """Whether the thread of *loop* has ended."""
    # The number of such a thread may be the number of another thread now. The main greenlet of the
    # thread, which is the parent of its hub, is dead for good.
    return bool(loop.hub.parent.dead)


def in_loop(loop: Loop, function: Callable[..., _T], *args: Any) -> _T | None:
    """Call *function* in *loop*, and return its result. None if nobody runs the loop."""
    results: list[_T] = []

    def answer() -> None:
        results.append(function(*args))
        # Also when the answer is late: the loop was only busy.
        _silent.discard(loop)

    seconds = BRIEF if loop in _silent else PATIENCE
    _silent.add(loop)
    loop.call(answer)
    wait_until(lambda: results or _has_ended(loop), seconds, loop.here())
    return results[0] if results else None


def settle() -> None:
    """Wait until the loops have run all calls so far, such as to enter a timer."""
    for loop in loops():
        in_loop(loop, bool)
