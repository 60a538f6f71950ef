"""One request to an app in this process: served by wsgiref over a socket pair.

wsgiref refuses hop-by-hop headers, adds no framing, and swallows nothing.
"""

import functools
import inspect
import io
import socket
import threading
from collections.abc import Callable
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults

import gevent
import gevent.socket
import pytest

from tests.kit.servers import PATIENCE, Client, Patience

App = Callable[..., Any]


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """As `tests.kit.servers.wait_until`, and lets the greenlets of this thread run."""
    patience = Patience(seconds, what)
    while not (result := condition()):
        patience.look()
        gevent.sleep(0.001)
    return result


def in_greenlet() -> bool:
    return isinstance(gevent.getcurrent(), gevent.Greenlet)


def as_a_greenlet(test: Callable[..., None]) -> Callable[..., None]:
    """Run *test* in a greenlet, as gevent's servers would."""

    @functools.wraps(test)
    def spawned(**fixtures: Any) -> None:
        gevent.spawn(test, **fixtures).get()

    return spawned


def on_threads_and_greenlets(test: Callable[..., None]) -> Any:
    """Run *test* twice: in a plain thread, and in a greenlet, as gevent's servers would."""

    @functools.wraps(test)
    def played(where: str, **fixtures: Any) -> None:
        if where == "greenlets":
            gevent.spawn(test, **fixtures).get()
        else:
            test(**fixtures)

    own = inspect.signature(test)
    where = inspect.Parameter("where", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [where, *own.parameters.values()]
    played.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return pytest.mark.parametrize("where", ["threads", "greenlets"])(played)


class _Handler(SimpleHandler):
    os_environ = {}


class Visit(Client):
    """A client of *app*, which is served in a greenlet if this is called in one.

    A context manager: at its end the client has left and the server is done.
    """

    def __init__(
        self,
        app: App,
        path: str = "/",
        method: str = "GET",
        version: str = "1.1",
        reachable: bool = True,
        send_buffer: int | None = None,
        **environ: Any,
    ) -> None:
        made = gevent.socket.socketpair() if in_greenlet() else socket.socketpair()
        self._server, self.sock = made
        if send_buffer is not None:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.sock.settimeout(PATIENCE)
        self.received = b""
        self.errors = io.StringIO()
        self.served = False
        path, _, query = path.partition("?")
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": f"HTTP/{version}",
            **environ,
        }
        if reachable:
            self.environ["werkzeug.socket"] = self._server
        setup_testing_defaults(self.environ)
        if in_greenlet():
            gevent.spawn(self._serve, app)
        else:
            threading.Thread(target=self._serve, args=(app,), daemon=True).start()

    def _serve(self, app: App) -> None:
        stdout = self._server.makefile("wb")
        try:
            _Handler(io.BytesIO(), stdout, self.errors, self.environ).run(app)
            stdout.close()
        except OSError:  # the client has left
            pass
        finally:
            self._server.close()
            self.served = True

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def head(self) -> str:
        return self.received.partition(b"\r\n\r\n")[0].decode("latin-1")

    def headers(self, name: str) -> list[str]:
        """The values of the headers of that *name*."""
        lines = (line.partition(": ") for line in self.head.split("\r\n")[1:])
        return [value for key, _, value in lines if key.lower() == name.lower()]

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *error: object) -> None:
        self.fin()
        until(lambda: self.served, "the server to be done")
