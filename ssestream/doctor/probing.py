"""A stream that tells when each of its events was written, so that the doctor can see a delay."""

import time
from typing import Any

from flask import request

from ..response import ServerResponse
from ..stream import SseStream
from ..timers import clear_interval, set_interval

#: The name of the events.
EVENT = "ssestream-probe"

#: Milliseconds between two events.
PACE = 250

#: The characters by which each event is made longer. Small events come first, as most apps write
#: them. Then come longer ones, until the usual buffers are full.
PADDINGS = (*[0] * 12, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 0)


def probe() -> ServerResponse:
    """A view for ``python -m ssestream doctor``. An app adds it under a path of its own choice.

    It writes events for five seconds and then ends. The data of each event is an object with
    ``"number"``, ``"sent"`` (the server's clock, in seconds since the epoch), ``"of"`` (the number
    of events) and ``"padding"`` (a str). It tells nothing else about the server, and needs no
    credentials.

    >>> import flask
    >>> app = flask.Flask("app")
    >>> app.add_url_rule("/doctor", view_func=probe)
    """
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    number = 0

    def write() -> None:
        nonlocal number
        data: dict[str, Any] = {
            "number": number,
            "sent": time.time(),
            "of": len(PADDINGS),
            "padding": " " * PADDINGS[number],
        }
        sse_stream.write({"event": EVENT, "data": data})
        number += 1
        if number == len(PADDINGS):
            clear_interval(timer)
            sse_stream.end()

    timer = set_interval(write, PACE)
    res.on("close", lambda: clear_interval(timer))
    return res
