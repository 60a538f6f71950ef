"""The client's socket is found in the environ of each server."""

import socket
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest
import waitress

from ssestream.http.client_socket import find_socket
from ssestream.http.lent_socket import LentSocket
from tests.kit.servers import Client


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("key", ["gunicorn.socket", "gunicorn.sock", "werkzeug.socket"])
def test_the_environ_of_some_servers_has_it(key: str, pair: Any) -> None:
    assert find_socket({key: pair[0]}) is pair[0]


@pytest.mark.parametrize("environ", [{}, {"werkzeug.socket": None}, {"wsgi.input": object()}])
def test_an_environ_without_one_is_told_so(environ: dict[str, Any]) -> None:
    assert find_socket(environ) is None


def test_the_file_of_the_body_has_one(pair: Any) -> None:
    with pair[0].makefile("rb") as file:
        assert find_socket({"wsgi.input": file}) is pair[0]


def test_a_socket_of_http_2_is_shared_and_left_alone(pair: Any) -> None:
    environ = {"gunicorn.socket": pair[0], "gunicorn.http2.send_trailers": None}
    assert find_socket(environ) is None


def test_waitress_has_it_in_the_channel_that_tells_of_departures() -> None:
    found = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sock = find_socket(environ)
        found.append((type(sock), sock.getpeername()))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    server = waitress.create_server(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        client = Client(int(server.effective_port)).get("/", "Connection: close")
        address = client.sock.getsockname()
        assert client.read_to_end().endswith(b"ok")
    finally:
        server.trigger.pull_trigger(server.close)
        thread.join()
    assert found == [(LentSocket, address)]


@pytest.mark.parametrize("value", [None, lambda: False])
def test_without_a_channel_there_is_none(value: Any) -> None:
    """As where a middleware has put a function of its own there."""
    assert find_socket({"waitress.client_disconnected": value}) is None


def test_the_module_of_uwsgi_knows_the_descriptor(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("uwsgi")
    module.connection_fd = pair[0].fileno
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    sock = find_socket({"uwsgi.version": b"2.0.30"})
    assert (type(sock), sock.fileno()) == (LentSocket, pair[0].fileno())
    assert find_socket({}) is None
