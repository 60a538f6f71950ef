"""@handler: Express's shape ``(req, res)``, a function that writes between its waits.

A view returns its response, and nothing is sent before that. A handler's function goes on
instead: it runs beside the request (see ``beside``), and the view waits until the response
starts or the function ends.

==================  ======================================  ==============================
                    before the response starts              after it
==================  ======================================  ==============================
the function        an ordinary answer of Flask's           nothing
returns
it raises           raised in the view: an error page       logged, ``error``, the client
                                                            is cut
the client leaves   not noticed                             the function is ended
the contexts        those of the request, which are live    the same, after their teardown
==================  ======================================  ==============================

The first ``write``, ``flush_headers`` or ``pipe`` starts the response, and returns when the
teardown of the request has run. So no teardown takes away what the function is using.

An ``async def`` is a task of the asyncio loop (see ``async_handler.py``). Nothing may wait there,
so its writes return at once, and the teardown of the request runs beside it.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import flask

from .handler_run import Run, name_of
from .http.outgoing import OWN_WRITES
from .incoming import IncomingMessage, read_body
from .plain import unproxied
from .response import ServerResponse
from .runtime.callables import check_callable


def handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a view of *function*, which takes ``req``, ``res`` and the variables of the route.

    The function runs in a greenlet beside the request, and on a threaded server in a thread.
    An ``async def`` is a task in the asyncio loop of the process. It may write between its
    waits. Its response starts with the first ``write``, ``flush_headers`` or ``pipe``, or
    when it ends. Before that, the function may return any answer of Flask's instead, and an
    exception is an ordinary one of a view. After that, an exception is logged, told to the
    handlers of ``error``, and cuts the client.

    When the client leaves, the function is ended with ``GreenletExit``: at once while it
    waits in gevent's way, else at its next write. A ``finally`` in it runs. A function that
    writes faster than its client reads waits in ``write()``. After ``end()`` it runs on.

    An ``async def`` is cancelled when the client leaves, in the middle of an ``await``. No
    ``write()`` waits there: after one that has returned False, it awaits
    ``once(res, "drain")``.

    Raises ``TypeError`` if *function* cannot be called, and if it is a generator.
    """
    kind: type[Run] = Run
    if is_async(function):
        # Not before it is needed: asyncio takes 30 ms and some memory of each process.
        from .async_handler import AsyncRun

        kind = AsyncRun
    else:
        check_callable("the function of @handler", function, "a function of (req, res)")

    @functools.wraps(function)
    def view(*args: Any, **params: Any) -> Any:
        request = unproxied(flask.request)
        read_body(request)
        res = HandlerResponse()
        req = IncomingMessage(request, res)
        # *args* holds the object of a view that is a method.
        call = functools.partial(function, *args, req, res, **params)
        run = kind(name_of(function), call, res)
        res.runs_for(run)
        return run.answer()

    return view


def is_async(function: Any) -> bool:
    """Whether *function* is an ``async def``, perhaps with decorators that are plain functions."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    if isinstance(function, (types.FunctionType, types.MethodType)):
        return inspect.iscoroutinefunction(inspect.unwrap(function))
    return callable(function) and inspect.iscoroutinefunction(type(function).__call__)


class HandlerResponse(ServerResponse):
    """The ``res`` of a handler. A call that starts it wakes the view. A write waits for room."""

    __slots__ = ("_run",)

    _run: Run

    def runs_for(self, run: Run) -> None:
        """Be the response of *run*."""
        self._run = run

    def write(self, chunk: bytes | str) -> bool:
        """As `ServerResponse.write`, but the function of the handler waits here for room.

        It waits when the last write has returned False and nothing has drained since. If
        the client has left, this ends the function.
        """
        self._run.wait_for_room()
        flowing = super().write(chunk)
        self._run.start()
        return flowing

    def end(self, chunk: bytes | str | None = None) -> None:
        """As `ServerResponse.end`. The function runs on."""
        if chunk is not None:
            self._run.wait_for_room()
            super().write(chunk)
        super().end()
        self._run.start_in_a_moment()

    def flush_headers(self) -> None:
        """Send the head now, before there is a body."""
        super().flush_headers()
        self._run.start()


OWN_WRITES.add(HandlerResponse.write)
