"""A WSGI app in this process, and the server of one request to it.

The server calls the app in a thread, or in a greenlet if the test runs in one. It hands the
bytes to the client in memory. Beside this there is a real pair of sockets, and the app finds one
end in its environ. So a departure is noticed, and a stream is cut, as on a server.
"""

import contextlib
import contextvars
import functools
import itertools
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import flask
import gevent
import gevent.socket
import werkzeug.test
from werkzeug.datastructures import Headers

from ..http.body import Body
from ..http.connection import Connection, has_connection
from ..http.origin import known_call_queue
from ..http.registry import registry
from ..runtime.loop import hub_of_greenlet
from ..runtime.threads import new_lock
from .question import Question, builder_for
from .waiting import PATIENCE, wait_until

#: Bytes that wait for a client that takes nothing, before its server waits, too.
KEPT = 256 * 1024

#: How a response ended. None while it is open.
Ending = Literal["clean", "cut"]


class Left(Exception):
    """The client has left, or the server has cut the connection."""


class InProcess:
    """*app* as a server: a WSGI app, or a test client of Werkzeug or Flask with its cookies."""

    def __init__(self, app: Any, question: Question) -> None:
        if isinstance(app, werkzeug.test.Client):
            self._client: werkzeug.test.Client = app
        elif isinstance(app, flask.Flask):
            self._client = app.test_client()
        elif callable(app):
            self._client = werkzeug.test.Client(app)
        else:
            raise TypeError(
                "stream() takes a WSGI app, a test client or a URL, not " + type(app).__name__
            )
        self._question = question

    def ask(self, last_event_id: str) -> "Served":
        """Send the request. *last_event_id* is the id of the client's last event, or ``""``."""
        make = builder_for(self._client.application)
        environ = self._question.environ(last_event_id, make)
        base = getattr(self._client, "environ_base", {})
        return Served(self._client, {"REMOTE_ADDR": "127.0.0.1", **base, **environ})


class _HandedOver(dict[str, Any]):
    """An environ whose copy is a plain dict. Werkzeug calls the app with such a copy."""

    def copy(self) -> dict[str, Any]:
        return dict(self)


class Served:
    """One request, and the part of the response that its client has got."""

    #: A server in another process cannot be asked whether its handlers have run.
    is_local = True

    def __init__(self, client: werkzeug.test.Client, environ: dict[str, Any]) -> None:
        self.path = environ["PATH_INFO"]
        #: The status and the headers; None until the server has sent them.
        self.head: tuple[int, Headers] | None = None
        #: The exception of the app; None if it raised none.
        self.error: BaseException | None = None
        self.is_stalled = False
        self._ended: Ending | None = None
        self._chunks: list[bytes] = []
        self._length = 0
        self._lock = new_lock()
        self._environ: dict[str, Any] = {}
        # The status and the headers of each call of start_response().
        self._started: list[tuple[str, Any]] = []
        self._body: Body | None = None
        # Whether the server is done, and all handlers of the response have run.
        self._done = threading.Event()
        self._has_left = False
        self._waits = False
        is_in_greenlet = hub_of_greenlet() is not None
        module: Any = gevent.socket if is_in_greenlet else socket
        self._server, self._sock = module.socketpair()
        # A socket of gevent's would wait, whatever the flags of a call are.
        self._sock.setblocking(False)
        given = {**environ, "werkzeug.socket": self._server, "wsgi.multithread": True}
        # The app runs in no context of the test's.
        serve = functools.partial(contextvars.Context().run, self._serve, client, given)
        open_here.add(self)
        if is_in_greenlet:
            gevent.spawn(serve)
        else:
            threading.Thread(target=serve, daemon=True, name="ssestream.testing").start()

    # -- the client's end

    def take(self) -> bytes:
        """The bytes that have come since the last call. Never waits."""
        with self._lock:
            chunks, self._chunks = self._chunks, []
            self._length = 0
        return b"".join(chunks)

    def stall(self, is_stalled: bool) -> None:
        """Let the client take nothing more, or take on."""
        self.is_stalled = is_stalled

    @property
    def ended(self) -> Ending | None:
        """How the response ended; None while it is open."""
        return self._ended

    def leave(self) -> None:
        """The client leaves: it closes its end of the connection."""
        self._has_left = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    @property
    def is_over(self) -> bool:
        """Whether the server is done with the request, and all its handlers have run."""
        return self._done.is_set()

    # -- the server's end

    def _serve(self, client: werkzeug.test.Client, environ: dict[str, Any]) -> None:
        iterable: Iterable[bytes] = ()
        try:
            iterable = self._call(client, environ)
            for chunk in iterable:
                self._send(chunk)
            self._send(b"")
            self._ended = "clean"
        except Left:
            pass
        except BaseException as error:
            self.error = error
        finally:
            try:
                close = getattr(iterable, "close", None)
                if close is not None:
                    close()
            except BaseException as error:
                self.error = self.error or error
            self._ended = self._ended or "cut"
            if has_connection(self._environ):
                # Another thread has noticed the departure, and may be about to emit "close".
                connection = Connection.of(self._environ)
                wait_until(lambda: not connection.owes_close, PATIENCE)
            queue = known_call_queue(self._environ)
            if queue is None:
                self._finish()
            else:
                queue.call_soon(self._finish)

    def _finish(self) -> None:
        self._server.close()
        self._sock.close()
        # As a server does: outside of Flask, a stream that was not sent ends with the environ.
        self._environ = {}
        open_here.discard(self)
        self._done.set()

    def _call(self, client: werkzeug.test.Client, environ: dict[str, Any]) -> Iterable[bytes]:
        """Call the app, and return its body."""
        found: list[Iterable[bytes]] = []

        def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> tuple[()]:
            self._environ = environ
            started = self._started

            def start(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], Any]:
                start_response(status, headers, exc_info)
                started.append((status, headers))
                return self._send

            iterable = app(environ, start)
            found.append(iterable)
            if not started:
                # A generator begins with its first chunk.
                rest = iter(iterable)
                found[0] = _Chained(list(itertools.islice(rest, 1)), rest, iterable)
            return ()

        # A copy has the same cookies. It knows how a client of its class calls an app.
        app = client.application
        twin = object.__new__(type(client))
        vars(twin).update(vars(client), application=call)
        twin.run_wsgi_app(_HandedOver(environ))
        return found[0]

    def _send(self, chunk: bytes) -> None:
        """Hand *chunk* to the client. Waits while the client takes nothing."""
        self._check_open()
        if self.head is None:
            status, headers = self._started[-1]
            self.head = int(status.partition(" ")[0]), Headers(headers)
        if not chunk:
            return
        while not self._put(chunk):
            self._waits = True
            wait_until(lambda: self._is_cut or self._has_room, PATIENCE)
            self._waits = False
            self._check_open()

    def _put(self, chunk: bytes) -> bool:
        with self._lock:
            if not self._has_room:
                return False
            self._chunks.append(chunk)
            self._length += len(chunk)
            return True

    @property
    def _has_room(self) -> bool:
        return not self.is_stalled and self._length < KEPT

    def _check_open(self) -> None:
        if self._is_cut:
            raise Left

    @property
    def _is_cut(self) -> bool:
        """Whether one of both ends is closed."""
        if self._has_left:
            return True
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    # -- for the clock

    @property
    def is_settled(self) -> bool:
        """Whether all that was written has reached the client, or waits for it to read."""
        body = self._find_body()
        if self.is_over or body is None:
            # A response that is none of this package cannot be asked.
            return self.is_over or self._ended is None
        if self._waits:
            return not body.over
        return not body.over and body.goes_on and not body.waiting() and not body.in_hand

    def _find_body(self) -> Body | None:
        """The response of this package that the app has given; None if it has given another."""
        if self._body is None and has_connection(self._environ):
            connection = Connection.of(self._environ)
            bodies = cast(list[Body], registry.streams())
            self._body = next((each for each in bodies if each.connection is connection), None)
        return self._body


class _Chained:
    """The *first* chunks, the *rest*, and the ``close()`` of the *iterable* that both are from."""

    def __init__(self, first: Iterable[bytes], rest: Iterable[bytes], iterable: Any) -> None:
        self._chunks = itertools.chain(first, rest)
        self.close = getattr(iterable, "close", lambda: None)

    def __iter__(self) -> Any:
        return self._chunks


#: The requests that are served in this process.
open_here: set[Served] = set()
