"""Wait for a state, with a deadline that no stopped clock moves."""

import time
from collections.abc import Callable

import gevent

from ..runtime.clock import clock
from ..runtime.loop import hub_of_greenlet

#: Seconds between two looks at most. Most states come at once, so the first looks are close.
LOOK = 0.001
CLOSE = 20

#: Seconds for a thing that should take no time: the answer of a loop, the return of a handler.
PATIENCE = 5.0


def wait_until(condition: Callable[[], object], seconds: float, in_hub: bool = False) -> bool:
    """Return whether *condition* came true within *seconds*.

    Greenlets and threads run meanwhile. *in_hub* says that the condition needs the hub of the
    calling thread, though the caller is no greenlet of it.
    """
    deadline = clock.real() + seconds
    sleep = time.sleep if hub_of_greenlet() is None and not in_hub else gevent.sleep
    looks = 0
    while not condition():
        if clock.real() > deadline:
            return bool(condition())
        looks += 1
        sleep(max(0, min(looks - CLOSE, 10)) * LOOK / 10)
    return True
