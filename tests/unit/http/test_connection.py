"""The client's socket: found, tuned and named."""

import io
import socket
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from ssestream import SseStream
from ssestream.http.connection import Connection
from tests.kit.insides import socket_of
from tests.kit.pair import Pair

# -- where servers put it


def environ(**more: Any) -> dict[str, Any]:
    return {**EnvironBuilder().get_environ(), **more}


class Input:
    """gevent.pywsgi's body, which reads from a file of the socket."""

    def __init__(self, rfile: Any) -> None:
        self.rfile = rfile


@pytest.mark.parametrize("key", ["gunicorn.socket", "gunicorn.sock", "werkzeug.socket"])
def test_the_socket_is_found_under_each_servers_key(key: str, pair: Pair) -> None:
    connection = Connection.of(environ(**{key: pair.server}))
    assert socket_of(connection) is pair.server
    connection.release()


@pytest.mark.parametrize("wrap", [Input, lambda rfile: rfile], ids=["gevent.pywsgi", "wsgiref"])
def test_the_socket_is_found_below_the_body(wrap: Any, pair: Pair) -> None:
    with pair.server.makefile("rb") as rfile:
        connection = Connection.of(environ(**{"wsgi.input": wrap(rfile)}))
        assert socket_of(connection) is pair.server
        connection.release()


@pytest.mark.parametrize("value", [None, "socket", 5, object(), io.BytesIO()])
def test_what_is_no_socket_is_passed_over(value: object, pair: Pair) -> None:
    connection = Connection.of(
        environ(**{"gunicorn.socket": value, "werkzeug.socket": pair.server})
    )
    assert socket_of(connection) is pair.server
    connection.release()


def test_a_closed_socket_is_none(pair: Pair) -> None:
    pair.server.close()
    assert not Connection.of(environ(**{"gunicorn.socket": pair.server})).reachable


def test_http_2_means_no_socket(pair: Pair) -> None:
    """It carries other streams beside this one."""
    connection = Connection.of(
        environ(**{"gunicorn.socket": pair.server, "gunicorn.http2.send_trailers": lambda: None})
    )
    assert not connection.reachable
    assert pair.server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_no_socket_at_all_is_no_error() -> None:
    assert not Connection.of(environ()).reachable


def test_a_request_has_one_connection(pair: Pair) -> None:
    asked = environ(**{"gunicorn.socket": pair.server})
    assert Connection.of(asked) is Connection.of(asked)


def test_the_socket_is_tuned_as_nodes_is(pair: Pair) -> None:
    pair.server.settimeout(60)
    SseStream(environ(**{"gunicorn.socket": pair.server}))
    assert pair.server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert pair.server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert pair.server.gettimeout() is None


def test_a_socket_that_does_not_block_stays_so(pair: Pair) -> None:
    """It is a server's that waits in a loop of its own."""
    pair.server.setblocking(False)
    SseStream(environ(**{"gunicorn.socket": pair.server}))
    assert pair.server.gettimeout() == 0


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0"])
def test_an_address_is_in_the_log_as_it_is(address: str) -> None:
    asked = environ(REMOTE_ADDR=address, PATH_INFO="/clock")
    assert Connection.of(asked).name == f"{address} '/clock'"


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1\nINFO:ssestream:forged",
        "10.0.0.1\x85INFO:ssestream:forged\x1b[2J",
        "10.0.0.1 '/': cut, as it was forged",
        "10.0.0.1\u2028",
        "10.0.0.1\u202e",
        "10.0.0.1\udc80",
        "fe80::1%\x1b",
        "1" * 10_000,
    ],
)
def test_any_other_text_of_the_clients_is_in_the_log_escaped_and_short(text: str) -> None:
    """Behind a proxy the address is what a header says, and the path is the client's always."""
    for asked in (environ(REMOTE_ADDR=text), environ(PATH_INFO="/" + text[:80])):
        name = Connection.of(asked).name
        assert name.isascii()
        assert name.isprintable()
        assert len(name) < 200
    quoted = Connection.of(environ(REMOTE_ADDR=text, PATH_INFO="/")).name
    assert quoted == f"{text[:80]!r} '/'"


@pytest.mark.parametrize(
    ("protocol", "delimited"), [("HTTP/1.1", True), ("HTTP/1.0", False), ("HTTP/0.9", False)]
)
def test_before_http_1_1_the_connections_end_is_the_bodys(protocol: str, delimited: bool) -> None:
    assert Connection.of(environ(SERVER_PROTOCOL=protocol)).delimited is delimited
