"""Check what an app gives to `Channels`."""

from collections.abc import Sequence
from typing import Any

from ..brokers.broker import PLAIN, Bounds, Terms
from ..brokers.configuration import check, check_seconds
from ..plain import shortened, unproxied
from ..runtime.callables import check_callable
from ..stream import SseStream

#: For `Channels.subscribe`: since the first event.
START = "start"


def check_subscription(
    sse_stream: Any, names: Sequence[str], since: Any, latest: Any, filter: Any
) -> None:
    """Raise as `Channels.subscribe` does for a wrong argument, except for a name and the key."""
    if not isinstance(sse_stream, SseStream):
        raise TypeError(f"sse_stream must be an SseStream, not {type(sse_stream).__name__}")
    if not names:
        raise TypeError("subscribe() needs the name of at least one channel")
    if since is not None and not isinstance(since, str):
        raise TypeError(f"since must be an id or None, not {type(since).__name__}")
    if filter is not None:
        check_callable("filter", filter, "a function or None")
    if not isinstance(latest, int) or isinstance(latest, bool) or latest < 0:
        raise ValueError(f"latest is an int from 0 on, and not {shortened(latest)}")


def terms_of(history: Any, history_age: Any, ttl: Any) -> Terms:
    """The terms for the messages of one channel. Raises as `Channels.channel` does."""
    # The terms are kept, and a proxy has a value only during the request.
    history, history_age, ttl = unproxied(history), unproxied(history_age), unproxied(ttl)
    check(None, history, history_age)
    check_seconds("ttl", ttl)
    if history is history_age is ttl is None:
        return PLAIN
    bounds = None if history is history_age is None else Bounds(history, history_age)
    return Terms(bounds=bounds, ttl=ttl)
