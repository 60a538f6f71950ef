"""Find streams, timers and subscriptions that a test has left open."""

import contextlib
from collections.abc import Iterator
from typing import cast

from ..channels.exchanges import all_exchanges
from ..channels.subscription import Subscription
from ..http.body import Body
from ..http.registry import registry
from ..runtime.clock import clock
from ..runtime.timerheap import heaps
from ..timers import Timer
from .in_process import open_here
from .loops import settle
from .waiting import wait_until

#: Seconds for which things may take to end, as many do soon after their stream.
SOON = 2.0


class LeftOpen(AssertionError):
    """A test has left something open. The text names each thing, and its place if it is known."""


@contextlib.contextmanager
def nothing_left_open() -> Iterator[None]:
    """Check that nothing is left open by a block: no stream, no timer and no subscription.

    What was open before the block does not count. Raises `LeftOpen`, unless the block raises, if
    something is still open 2 s after the block.
    """
    began, before = clock.now(), _open()
    yield
    left: dict[object, str] = {}

    def is_closed() -> bool:
        # A timer is not found while its callback runs, so a timer that was found counts until it
        # is over. The second look finds one that the first look has missed so.
        running = {
            each: name
            for each, name in left.items()
            if isinstance(each, Timer) and not each.is_over
        }
        left.clear()
        for found in (running, _open(), _open()):
            left.update((each, name) for each, name in found.items() if is_new(each))
        return not left

    def is_new(each: object) -> bool:
        # An older timer is not in *before* if its callback ran then.
        return each not in before and not (isinstance(each, Timer) and each.began < began)

    if not wait_until(is_closed, SOON):
        lines = "".join(f"\n  {line}" for line in sorted(left.values()))
        raise LeftOpen(f"left open: {len(left)}{lines}")


def _open() -> dict[object, str]:
    """All that is open now, each with its name for people."""
    settle()
    found: dict[object, str] = {}
    for body in cast(list[Body], registry.streams()):
        origin = body.call_queue.origin
        found[body] = f"the stream of {body.name if origin is None else origin.text}"
    for served in open_here.copy():
        if not served.is_over:
            found[served] = f"a request whose response has not ended: {served.path!r}"
    for _, heap in heaps():
        for entry in heap.entries():
            if isinstance(entry, Timer):
                found[entry] = _name_of_timer(entry)
    for exchange in all_exchanges():
        for subscription in exchange.subscriptions:
            found[subscription] = _name_of_subscription(subscription)
    return found


def _name_of_timer(timer: Timer) -> str:
    code = getattr(timer.callback, "__code__", None)
    place = "" if code is None else f" ({code.co_filename}, line {code.co_firstlineno})"
    origin = "" if timer.origin is None else f", set in the request of {timer.origin.text}"
    return f"a timer that calls {timer}{place}{origin}"


def _name_of_subscription(subscription: Subscription) -> str:
    names = ", ".join(repr(cursor.name) for cursor in subscription.cursors)
    return f"a subscription to {names or 'no channel'}"
