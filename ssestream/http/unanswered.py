"""End a stream with its request where no Flask tells of the end: plain WSGI, Django, Bottle.

A view may make a stream and then raise, abort or return something else. Nobody would ever read or
close such a stream. Outside of Flask nothing says that a request is over. But a server drops the
environ when it is done with the request. So the environ gets a `_Guard`, and the end of the guard
ends all streams that nobody sends then:

* A server that iterates a stream keeps the environ meanwhile. Such a stream goes on in any case.
* `ServerResponse.__call__` takes the guard out of the environ: the response decides from then on,
  by the rules of ``http.view``. The server may drop the environ while it sends the response.

An environ may outlive its request. A framework may leave it in a reference cycle, as WebOb does for
an exception. The app's own timer or filter may refer to the request. So the guard is also looked at
every second, until its streams are sent or over: if the server has closed the connection, the
request is over.

The guard has no reference to the environ, so that it ends at once and not by the garbage collector.
"""

import functools
import gc
import sys
import weakref
from typing import Any

from ..runtime.clock import clock
from ..runtime.wheel import wheel_of
from .connection import Connection
from .origin import call_queue_of
from .view import Belonging, end_all, end_with

#: Seconds between two looks at a guard.
LOOK = 1.0

# In an environ: the guard of its streams.
_KEY = "ssestream.guard"


class _Guard:
    """Ends *streams* when nobody has the environ any more, or when the server has closed."""

    __slots__ = ("__weakref__", "_timer", "call_queue", "connection", "streams")

    def __init__(self, environ: dict[str, Any]) -> None:
        self.call_queue = call_queue_of(environ)
        self.connection = Connection.of(environ)
        self.streams: tuple[Belonging, ...] = ()
        check = functools.partial(_look, weakref.ref(self))
        self._timer = wheel_of(self.call_queue.loop).add(clock.now() + LOOK, check)

    def __del__(self) -> None:
        # This may interrupt any code of any thread, which may hold any lock. So it only tells the
        # loop. The close handlers of the app run in the order of the call queue.
        if not sys.is_finalizing() and any(each.waits_for_response for each in self.streams):
            call_queue = self.call_queue
            call_queue.loop.call_from_finalizer(call_queue.call_soon, _end_unsent, self.streams)

    def add(self, stream: Belonging) -> None:
        self.streams = (*self.streams, stream)

    def take(self) -> tuple[Belonging, ...]:
        """Remove and return the streams. The guard is looked at no more."""
        self._timer.cancel()
        streams, self.streams = self.streams, ()
        return streams

    def look(self) -> bool:
        """End the streams if the server has closed. Returns whether to look again."""
        waiting = [each for each in self.streams if each.waits_for_response]
        if waiting and self.connection.abandoned:
            self.call_queue.call_soon(_end_unsent, self.streams)
            return False
        return bool(waiting)


def _end_unsent(streams: tuple[Belonging, ...]) -> None:
    end_all(each for each in streams if each.waits_for_response)


def guard(environ: dict[str, Any], stream: Belonging) -> None:
    """End *stream* when nobody has *environ* any more, unless the stream is sent."""
    found = environ.get(_KEY)
    if found is None:
        found = environ[_KEY] = _Guard(environ)
    found.add(stream)


def answered(environ: dict[str, Any], response: Any) -> None:
    """The server has *response*, which decides when the other streams of *environ* end."""
    found = environ.pop(_KEY, None)
    if found is not None:
        streams = [each for each in found.take() if each.waits_for_response]
        end_with(response, [each for each in streams if not each.is_carried_by(response)])


# When `_look` has last collected garbage.
_collected_at = 0.0


def _look(of: "weakref.ref[_Guard]", now: float) -> float | None:
    """Look at a guard. Returns when to look again: see `runtime.wheel.Check`."""
    global _collected_at
    found = of()
    if found is None or not found.look():
        return None
    del found
    # The guard may be in a cycle that nobody refers to. Only the newer objects are looked at.
    if clock.real() > _collected_at + LOOK / 2:
        _collected_at = clock.real()
        gc.collect(1)
    return now + LOOK
