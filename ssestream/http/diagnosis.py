"""Warnings about a wrong set-up, as far as a stream can see it. Each is logged once.

The level is WARNING, or INFO if streams only cost more than they need to.
"""

import itertools
import os
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

import flask
from gevent import monkey

from ..errors import StreamDestroyed
from ..printable import escape
from ..runtime.calls import run_logged
from ..runtime.frames import callers
from ..runtime.loop import Loop, current_loop, logger
from .connection import Connection
from .registry import registry
from .server_stop import cut_at_stop

#: The modules in which an app's code waits. If one is not patched, a wait in it stops every
#: stream.
_WAITING = ("socket", "ssl", "time", "threading", "subprocess")

#: Modules that run a WSGI app on an ASGI server, and the package to name. asgiref runs all
#: requests in one thread.
_ADAPTERS = {
    "a2wsgi.": "a2wsgi",
    "asgiref.wsgi": "asgiref",
    "hypercorn.": "hypercorn",
    "starlette.middleware.wsgi": "starlette",
    "uvicorn.middleware.wsgi": "uvicorn",
}

_OF_ADAPTERS = tuple(_ADAPTERS)

_said: set[str] = set()

#: The end of each warning of a cause that makes streams hang.
MORE = ". See docs/hangs.rst of ssestream"

# See `explain_standard_way_with`.
_why_standard_way: Callable[[Any], str] | None = None

# Whether gevent has patched all of these. Asked until it is true.
_is_patched = False

#: How many streams of a process are examined: the first hundred, then one of 64. Most streams
#: of a process have the same middleware and server between them and the client.
FIRST, OF = 100, 64
_count = itertools.count()


def look_at_server(connection: Connection, loop: Loop) -> None:
    """Warn, in one line, if the server is not fit for an event stream that is being opened."""
    global _is_patched
    found: list[tuple[str, tuple[object, ...]]] = []

    def warn(text: str, *args: object) -> None:
        if text not in _said:
            _said.add(text)
            found.append((text, args))

    # A request without a socket may come from a test client, without any server.
    if loop.cooperative and connection.reachable and not _is_patched:
        unpatched = [name for name in _WAITING if not monkey.is_module_patched(name)]
        _is_patched = not unpatched
        if unpatched:
            warn(
                "its server runs greenlets, and gevent has not patched %s: code that waits"
                " there stops every stream of this process. Call gevent.monkey.patch_all()"
                " before everything else" + MORE,
                ", ".join(unpatched),
            )
    if not loop.cooperative:
        _look_at_threads(connection, warn)
    if _STOP not in _said and (connection.reachable or connection.keeper is not None):
        cut = cut_at_stop(connection.keeper, loop.cooperative)
        if cut is not None:
            warn(_STOP, *cut)
        _said.add(_STOP)
    if found:
        texts = ". ".join(text for text, _ in found)
        logger.warning("%s: " + texts, connection.name, *(arg for _, args in found for arg in args))


def _look_at_threads(connection: Connection, warn: Callable[..., None]) -> None:
    """The part of `look_at_server` for a server without greenlets."""
    if connection.serial:
        warn(
            "its server answers one request at a time, and this stream blocks it."
            " Use gunicorn's gevent worker, or gthread with more threads than streams" + MORE
        )
    elif not connection.reachable:
        adapter = asgi_adapter()
        if adapter is not None:
            warn(
                "%s runs this app on an ASGI server, and does not tell the app that a client"
                " has left: the stream stays open and keeps a thread, of which there %s. A stop"
                " waits for the stream, or cuts it. Serve the app with gunicorn or another WSGI"
                " server, or set SSESTREAM_MAX_AGE",
                adapter,
                "is only one" if adapter == "asgiref" else "are few",
            )
    if connection.keeper is not None:
        warn(
            "%s keeps the client's socket to itself. Only a failed heartbeat shows that a"
            " client has left. This takes up to three heartbeats (SSESTREAM_HEARTBEAT), and the"
            " stream keeps a thread until then. See docs/servers.rst of ssestream",
            connection.keeper,
        )
    if not connection.serial and _LAST_THREAD not in _said:
        threads = threads_of_server()
        if threads is not None and registry.number_open() >= threads:
            warn(_LAST_THREAD, threads)


#: On the first stream of a process: later ones have the same server.
_STOP = (
    "%s: clients come back and go on after their last id, and an answer without ids is broken off."
    " %s. See docs/stopping.rst of ssestream"
)

_LAST_THREAD = (
    "this stream has taken the last of the %d threads of its server, and every other request"
    " waits until a stream ends: give the server more --threads than there are streams, use"
    " gunicorn's gevent worker, or set SSESTREAM_MAX_STREAMS below the threads" + MORE
)


def threads_of_server() -> int | None:
    """How many threads answer requests in this process; None where that is not known.

    The server's own objects tell, and the stack of the calling thread leads to them. No
    number is kept, since a process may have several servers.
    """
    for frame in callers():
        find = _THREADS.get(frame.f_globals.get("__name__", ""))
        if find is not None:
            try:
                return int(find(frame.f_locals["self"]))
            except (AttributeError, KeyError, TypeError):  # of a function beside the worker's
                pass
    return None


#: By the module of a server, from the object whose method runs: its number of threads.
_THREADS: dict[str, Callable[[Any], int]] = {
    "cheroot.workers.threadpool": lambda worker: worker.server.requests.min,
    "gunicorn.workers.gthread": lambda worker: worker.cfg.threads,
    "waitress.task": lambda dispatcher: len(dispatcher.threads) - dispatcher.stop_count,
}


def asgi_adapter() -> str | None:
    """The package that runs the app on an ASGI server; None on other servers.

    The stack of the calling thread tells. A middleware may have replaced every object that
    the adapter gave to the app.
    """
    for frame in callers():
        module = frame.f_globals.get("__name__")
        if isinstance(module, str) and module.startswith(_OF_ADAPTERS):
            return next(name for start, name in _ADAPTERS.items() if module.startswith(start))
    return None


def may_be_held_back() -> bool:
    """Whether to examine this stream: does its first chunk leave?"""
    number = next(_count)
    return number < FIRST or number % OF == 0


def held_back(connection: Connection) -> None:
    """Warn that nothing was sent to the client, although the server asks for the next chunk."""
    _warn(
        "%s: something between this stream and its server holds back what is sent to the"
        " client, such as a middleware that compresses or collects responses. Exempt"
        " text/event-stream from it" + MORE,
        connection.name,
    )


def burst(name: str | None) -> None:
    """Warn that more was written at once than may wait, before the client could take any.

    *name* is the name of the connection. None means that the server has no response yet.
    """
    if name is None:
        _warn(
            "%s: more was written to an unsent response than may wait (max_bytes). Nothing is"
            " sent before the view has returned. Use pipeline(), which waits for the client, or"
            " write from a timer or another thread",
            _view(),
        )
    else:
        _warn(
            "%s: more was written at once than may wait (max_bytes), before its client could"
            " take it. Use pipeline(), which waits for the client, or write on after 'drain'",
            name,
        )


def explain_standard_way_with(why: Callable[[Any], str]) -> None:
    """Called by a server that can send streams itself.

    *why* returns the reason why the server does not send the body of an `OutgoingMessage` itself.
    """
    global _why_standard_way
    _why_standard_way = why


def standard_way(body: Any) -> None:
    """Log why the server iterates *body*, an open event stream."""
    if _why_standard_way is None:
        return
    reason = _why_standard_way(body)
    if reason not in _said:
        _said.add(reason)
        logger.info(
            "%s: SseWorker sends this stream as gunicorn's gevent worker does, with a greenlet"
            " and the memory of its request for as long as it is open: %s",
            body.name,
            reason,
        )


def view_writes_on() -> None:
    """Warn that the current view has written for long and has not returned."""
    _warn(
        "%s: its view (%s) has written for over a second and has not returned. Nothing is sent"
        " before it returns its response: return the response first, and write from"
        " set_interval(), pipeline() or a thread" + MORE,
        _view(),
        flask.request.endpoint,
    )


def never_piped(connection: Connection | None = None) -> None:
    """A view has returned, and its stream is piped into no response."""
    _warn(
        "%s: the view made an SseStream and returned a response that the stream is not piped"
        " into: the client gets no event, and on most servers not even a head. Call"
        " sse_stream.pipe(res) before the view returns res" + MORE,
        _view() if connection is None else connection.name,
    )


def refused(error: Exception) -> None:
    """Warn that a message was refused, with the line of the app that wrote it.

    The exception may get lost: in a handler of the app, or in a timer among many others.
    """
    for frame in callers():
        name = str(frame.f_globals.get("__name__"))
        if name == "ssestream.pipeline":  # which calls `refused_of`
            return
        if not name.startswith("ssestream."):
            _refused(frame, error)
            return


def refused_of(source: Any, error: Exception) -> None:
    """The same for a message that *source* of a pipeline has given, if it is a generator."""
    frame = getattr(source, "gi_frame", None) or getattr(source, "ag_frame", None)
    if frame is not None:
        _refused(frame, error)


def _refused(frame: FrameType, error: Exception) -> None:
    code = frame.f_code
    place = f"{code.co_filename}, line {frame.f_lineno}, in {code.co_name}"
    if f"refused: {place}" not in _said:
        _said.add(f"refused: {place}")
        logger.warning("a message was refused (%s): %s", place, error)


def never_ended(name: str) -> None:
    """Warn that the function *name* of a handler has returned, and nothing writes any more."""
    key = f"never ended: {name}"
    if key not in _said:
        _said.add(key)
        logger.warning(
            "%s: the handler %s has returned without res.end(), and its response has no pipe, no"
            " timer and no listener. If the app does not keep res and write to it later, the"
            " client waits for ever. If it does, take res out again with req.on('close', ...)",
            _view(),
            name,
        )


def cancelled_with_view(tasks: list[str]) -> None:
    """Warn that an ``async def`` view has returned, and its unfinished *tasks* were cancelled."""
    _warn(
        "%s: the async def view has returned, and with it ended its event loop, which cancelled"
        " the tasks that the view had started (%s): nothing writes to the stream. Use"
        " set_interval(), a thread, or a generator that pipeline() draws from" + MORE,
        _view(),
        ", ".join(map(escape, tasks)),
    )


_MEMORY = {
    "several": "%sChannels('memory://') with more than one worker: an event that one worker"
    " publishes does not reach the clients of other workers. Use sqlite:/// or redis://",
    "job": "%sChannels('memory://') in a job: an event that a process beside the server publishes"
    " does not reach the server's clients. Use sqlite:/// or redis:// in both",
    "script": "%sChannels('memory://') in a script or a command: nobody follows what it publishes,"
    " and it does not reach the clients of another process. Use sqlite:/// or redis:// in both",
}


def warn_of_memory(cause: Literal["several", "job", "script"]) -> None:
    """Not all clients, or none at all, get what is published to ``memory://``."""
    _warn(_MEMORY[cause], f"{_view()}: " if flask.has_request_context() else "")


def written_in_a_job(callback: Callable[[Exception], object] | None = None) -> None:
    """Log that a job writes to a stream of its parent, and call *callback* with the error."""
    global _said_of_job
    if _said_of_job != os.getpid():
        _said_of_job = os.getpid()
        logger.warning(
            "process %d is a forked job and writes to a stream of its parent: no client gets"
            " this. Publish to channels of sqlite:/// or redis:// instead",
            os.getpid(),
        )
    if callback is not None:
        error = StreamDestroyed("the stream belongs to the parent of this process")
        current_loop().spawn(run_logged, callback, error)


_said_of_job = 0


def _view() -> str:
    """The path of the current view, for the log."""
    return repr(escape(flask.request.path)) if flask.has_request_context() else "a view"


def _warn(text: str, *args: object) -> None:
    if text not in _said:
        _said.add(text)
        logger.warning(text, *args)
