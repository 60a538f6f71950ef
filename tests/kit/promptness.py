"""Bounds in seconds that a busy machine does not break, and a slow mechanism does."""

from collections.abc import Callable
from typing import Any

import gevent

#: Tries at most. Between two tries is a pause, and each pause is twice as long as the one before:
#: the last tries meet another machine than the first ones.
TRIES = 8

FIRST_PAUSE, LAST_PAUSE = 0.1, 4.0


def in_one_try(attempt: Callable[[], tuple[bool, Any]], tries: int = TRIES) -> None:
    """Show that *attempt* can succeed. It says whether it has, and what it has seen.

    For what a machine that stands still for a second spoils. What is broken spoils all *tries*.
    """
    seen = []
    for number in range(tries):
        succeeded, what = attempt()
        if succeeded:
            return
        seen.append(what)
        gevent.sleep(min(FIRST_PAUSE * 2**number, LAST_PAUSE))
    raise AssertionError(f"none of {tries} tries succeeded: {seen}")


def at_best(attempt: Callable[[], float], within: float, tries: int = TRIES) -> None:
    """Show that what *attempt* measures can take less than *within* seconds.

    A try that is short shows that the mechanism is prompt. A slow mechanism fails all *tries*.
    """

    def measured() -> tuple[bool, float]:
        took = attempt()
        return took < within, took

    in_one_try(measured, tries)
