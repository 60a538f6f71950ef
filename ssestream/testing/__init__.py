"""Tests of an app's event streams, without threads and without sleeps.

::

    with stream(app, "/news") as events:
        assert events.next().data == "hello"

`stream` reads a view as a browser does. `stopped_clock` moves timers, heartbeats and ages by hand.
`in_memory` gives channels an empty memory. `nothing_left_open` checks that a block leaves nothing
behind. The plugin for pytest has all of them as fixtures. See ``docs/testing_views.rst``.
"""

# The rooms, from the ground up.
#
#   waiting.py       wait for a state, with a deadline
#   loops.py         the package's loops, as a test reaches them
#   question.py      the request of a client
#   http_reader.py   a response of HTTP/1.1, piece by piece
#   by_url.py        a server that runs already
#   in_process.py    a WSGI app in this process
#   channels.py      channels in memory
#   clock.py         the clock that a test moves
#   client.py        the client of one response
#   leftovers.py     streams, timers and subscriptions that a test has left open

from .channels import in_memory
from .client import Event, Events, WaitedInVain, stream
from .clock import Clock, stopped_clock
from .leftovers import LeftOpen, nothing_left_open

__all__ = [
    "Clock",
    "Event",
    "Events",
    "LeftOpen",
    "WaitedInVain",
    "in_memory",
    "nothing_left_open",
    "stopped_clock",
    "stream",
]
