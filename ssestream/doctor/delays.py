"""How long events were held back between the server and the client."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from .finding import Finding, fault, note, ok
from .probing import EVENT, PADDINGS
from .visit import Visit

#: Seconds by which an event may be later than the quickest.
LATE = 1.0

#: Seconds of silence before a burst, and seconds in which all of the burst comes.
SILENCE, TOGETHER = 1.0, 0.05

#: A stream comes in bursts if so many times at least so many messages come together.
BURSTS, IN_BURST = 2, 3

_WHY = (
    "a proxy or a middleware collects bytes until its buffer is full, and events come in bursts"
    " or not at all"
)
_CHANGE = (
    "proxy_buffering off; in the location of nginx; exempt text/event-stream from compression and"
    " from middleware that collects (docs/hangs.rst, step 3)"
)


def examine_delays(visit: Visit) -> Iterator[Finding]:
    """Look at when each message of *visit* came. Yields nothing where nothing can be said."""
    probed = [(came, each) for came, message in visit.messages if (each := _written(message))]
    if probed:
        yield _probed(probed)
    else:
        yield from _bursts(visit)


def _written(message: dict[str, str | int]) -> dict[str, Any] | None:
    """The data of an event of the probe; None for any other event."""
    if message.get("event") == EVENT:
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(str(message.get("data")))
            if isinstance(data, dict) and isinstance(data.get("sent"), int | float):
                return data
    return None


def _probed(events: list[tuple[float, dict[str, Any]]]) -> Finding:
    """The clocks of both hosts may differ. The quickest event is taken for prompt."""
    delays = [came - event["sent"] for came, event in events]
    late = [delay - min(delays) for delay in delays]
    worst = max(late)
    if worst <= LATE:
        return ok(
            f"{len(events)} of {len(PADDINGS)} events of the probe came within {worst:.2f} s of"
            " each other's delay: no hop holds events back"
        )
    first = events[0][0]
    together = [event for came, event in events if came - first <= TOGETHER]
    held = sum(len(json.dumps(event)) for event in together)
    return fault(
        f"events of the probe came up to {worst:.1f} s late: the first {len(together)} came"
        f" together, with about {held:,} bytes",
        _WHY,
        _CHANGE,
    )


def _bursts(visit: Visit) -> Iterator[Finding]:
    """Without the server's clock, only a pattern is seen: silence, then several messages."""
    times = [came for came, message in visit.messages if "data" in message]
    bursts = number = 0
    for index, came in enumerate(times):
        before = times[index - 1] if index else came
        if came - before > SILENCE:
            number = 1
        elif index and came - before <= TOGETHER and number:
            number += 1
            bursts += number == IN_BURST
        else:
            number = 0
    if bursts >= BURSTS:
        yield note(
            f"{bursts} times, several events came together after more than {SILENCE:.0f} s",
            f"the app writes them so, or {_WHY}",
            "add the view ssestream.doctor.probe to the app, and give its URL to see which"
            f" (docs/doctor.rst); then {_CHANGE}",
        )
