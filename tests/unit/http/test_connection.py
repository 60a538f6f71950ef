"""The client's socket: found, tuned, watched without being read, released and cut."""

import io
import os
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from ssestream import ServerResponse, SseStream
from ssestream.http import hangup
from ssestream.http.connection import Connection
from ssestream.runtime.loop import current_loop
from tests.kit.visit import Visit, on_threads_and_greenlets, until

#: How departures are noticed: by the epoll of a loop, by a watcher of each socket that asks
#: poll(), and by one that peeks.
WAYS = ("epoll", "poll", "peek")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(hangup, "_watches", weakref.WeakKeyDictionary())
    if request.param != "epoll":
        monkeypatch.setattr(hangup, "_epoll", None)
    if request.param == "peek":
        monkeypatch.setattr(hangup, "_poll", None)
    return str(request.param)


class Pair:
    """A TCP connection: the server's end, and the client's."""

    def __init__(self, family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> None:
        with socket.socket(family) as listener:
            listener.bind(address)
            listener.listen()
            self.client = socket.socket(family)
            self.client.connect(listener.getsockname())
            self.server, _ = listener.accept()

    def fin(self) -> None:
        self.client.close()

    def rst(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def half_close(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


class Watched:
    """A connection under watch, and how often it was gone."""

    def __init__(self, sock: Any, connection: Connection | None = None) -> None:
        self.gone = 0
        self.connection = connection or Connection(sock)
        self.connection.watch(current_loop(), self)

    def connection_lost(self) -> None:
        self.gone += 1


def loop_turns() -> None:
    """Let the loop of the current loop go round a few times, watchers and all."""
    loop = current_loop()
    for _ in range(5):
        turned: list[int] = []
        loop.libev.run_callback_threadsafe(turned.append, 1)
        until(lambda turned=turned: turned, "a turn of the loop")
    # And one that it must wait for.
    pair = Pair()
    watched = Watched(pair.server)
    pair.fin()
    until(lambda: watched.gone, "another's departure")
    watched.connection.release()
    pair.close()


LEAVING = [Pair.fin, Pair.rst, Pair.half_close]


# -- departures


@on_threads_and_greenlets
@pytest.mark.parametrize("leave", LEAVING)
def test_a_departure_is_noticed_once(way: str, pair: Pair, leave: Callable[[Pair], None]) -> None:
    watched = Watched(pair.server)
    loop_turns()
    assert watched.gone == 0
    leave(pair)
    until(lambda: watched.gone, "the departure")
    loop_turns()
    assert watched.gone == 1
    watched.connection.release()


@on_threads_and_greenlets
def test_one_that_came_before_the_watch_is_noticed(way: str, pair: Pair) -> None:
    pair.fin()
    watched = Watched(pair.server)
    until(lambda: watched.gone, "the departure")
    watched.connection.release()


@on_threads_and_greenlets
def test_pipelined_bytes_are_no_departure_and_are_not_read(
    way: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do they spin: a watcher is called once for them at most."""
    calls: list[int] = []
    for kind in (hangup._Watch, hangup._PeekWatch):
        ready = kind._ready

        def counting(self: Any, *args: Any, ready: Any = ready) -> None:
            calls.append(args[0] if args else pair.server.fileno())
            ready(self, *args)

        monkeypatch.setattr(kind, "_ready", counting)
    watched = Watched(pair.server)
    pair.client.sendall(b"GET /next HTTP/1.1\r\n\r\n")
    loop_turns()
    pair.client.sendall(b"and more")
    loop_turns()
    assert watched.gone == 0
    # The epoll is asked for the departures of loop_turns too, one call each.
    assert calls.count(pair.server.fileno()) <= (2 if way == "epoll" else 1)
    assert pair.server.recv(100) == b"GET /next HTTP/1.1\r\n\r\nand more"
    watched.connection.release()


@on_threads_and_greenlets
@pytest.mark.parametrize("leave", LEAVING)
def test_the_epoll_sees_a_departure_behind_pipelined_bytes(
    pair: Pair, leave: Callable[[Pair], None]
) -> None:
    watched = Watched(pair.server)
    pair.client.sendall(b"GET /next HTTP/1.1\r\n\r\n")
    loop_turns()
    leave(pair)
    until(lambda: watched.gone, "the departure")
    watched.connection.release()


@on_threads_and_greenlets
def test_many_are_watched_at_once_and_each_for_itself(way: str) -> None:
    pairs = [Pair() for _ in range(50)]
    watched = [Watched(pair.server) for pair in pairs]
    for pair in pairs[::2]:
        pair.fin()
    until(lambda: all(each.gone for each in watched[::2]), "every second one's departure")
    loop_turns()
    assert [each.gone for each in watched] == [1, 0] * 25
    for each, pair in zip(watched, pairs, strict=True):
        each.connection.release()
        pair.close()


@on_threads_and_greenlets
def test_a_unix_sockets_client_is_noticed_as_well(way: str, tmp_path: Path) -> None:
    pair = Pair(socket.AF_UNIX, str(tmp_path / "socket"))
    connection = Connection.of({"REQUEST_METHOD": "GET", "gunicorn.socket": pair.server})
    assert connection.reachable
    watched = Watched(pair.server, connection)
    loop_turns()
    assert watched.gone == 0
    pair.fin()
    until(lambda: watched.gone, "the departure")
    connection.release()
    pair.close()


@on_threads_and_greenlets
def test_a_response_notices_in_every_way(way: str) -> None:
    kept: list[ServerResponse] = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append(SseStream(environ).pipe(ServerResponse()))
        return kept[0](environ, start_response)

    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
    assert kept[0].closed
    assert not kept[0].writable_finished


# -- release and cut


@on_threads_and_greenlets
def test_a_released_connection_is_watched_no_more(way: str, pair: Pair) -> None:
    watched = Watched(pair.server)
    loop_turns()
    watched.connection.release()
    watched.connection.release()
    pair.fin()
    loop_turns()
    assert watched.gone == 0
    assert not watched.connection.reachable
    watch = hangup.watch_of(current_loop())
    left = watch._connections if way == "epoll" else watch._watchers
    assert pair.server.fileno() not in left
    pair.server.sendall(b"it is not closed")


@on_threads_and_greenlets
def test_cut_ends_both_ways_and_may_come_twice(way: str, pair: Pair) -> None:
    watched = Watched(pair.server)
    watched.connection.cut()
    watched.connection.cut()
    assert pair.client.recv(1) == b""
    assert pair.server.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        pair.server.sendall(b"more")
    # Its number is the server's to close.
    assert pair.server.fileno() >= 0
    loop_turns()
    assert watched.gone == 0


@on_threads_and_greenlets
def test_a_release_may_come_from_the_departure_itself(way: str, pair: Pair) -> None:
    class Cutting(Watched):
        def connection_lost(self) -> None:
            self.connection.cut()
            super().connection_lost()

    watched = Cutting(pair.server)
    pair.fin()
    until(lambda: watched.gone, "the departure")
    loop_turns()
    assert watched.gone == 1


@on_threads_and_greenlets
def test_one_that_cannot_be_told_keeps_no_other_from_it(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Watched):
        def connection_lost(self) -> None:
            super().connection_lost()
            raise LookupError("not to be told")

    pairs = [Pair() for _ in range(6)]
    all_watched = [(Failing if n % 2 else Watched)(pair.server) for n, pair in enumerate(pairs)]
    current_loop().call(lambda: [pair.fin() for pair in pairs])
    until(lambda: all(watched.gone for watched in all_watched), "every departure")
    if way == "epoll":  # else each has a watcher of its own, and gevent reports it

        def reported() -> list[type]:
            return [type(each.exc_info[1]) for each in caplog.records if each.exc_info]

        until(lambda: len(reported()) == 3, "the reports")
        assert set(reported()) == {LookupError}
    for watched, pair in zip(all_watched, pairs, strict=True):
        watched.connection.release()
        pair.close()


def test_a_release_may_come_from_another_thread(way: str, pair: Pair) -> None:
    watched = Watched(pair.server)
    thread = threading.Thread(target=watched.connection.release)
    thread.start()
    thread.join()
    pair.fin()
    loop_turns()
    assert watched.gone == 0


@on_threads_and_greenlets
def test_a_number_that_is_used_again_is_watched_anew(way: str) -> None:
    """The first owner was closed by its server before it was released."""
    first, second = Pair(), Pair()
    before = Watched(first.server)
    loop_turns()
    os.dup2(second.server.fileno(), first.server.fileno())
    again = Watched(first.server)
    before.connection.release()
    loop_turns()
    assert again.gone == 0
    second.fin()
    until(lambda: again.gone, "the second one's departure")
    assert before.gone == 0
    again.connection.release()
    first.close()
    second.close()


@on_threads_and_greenlets
def test_the_next_request_of_a_connection_takes_over_the_watch(pair: Pair) -> None:
    """Even where the last one was not released yet."""
    before, again = Watched(pair.server), Watched(pair.server)
    before.connection.release()
    pair.fin()
    until(lambda: again.gone, "the departure")
    assert before.gone == 0
    again.connection.release()


def test_an_unknown_socket_is_no_trouble() -> None:
    connection = Watched(None).connection
    connection.release()
    connection.cut()
    assert not connection.reachable


def test_nothing_of_a_released_connection_is_held(way: str, pair: Pair) -> None:
    watched = Watched(pair.server)
    loop_turns()
    ref = weakref.ref(watched)
    connection = watched.connection
    del watched
    connection.release()
    until(lambda: ref() is None, "what was told of the departure")


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
    assert connection._sock is pair.server
    connection.release()


@pytest.mark.parametrize("wrap", [Input, lambda rfile: rfile], ids=["gevent.pywsgi", "wsgiref"])
def test_the_socket_is_found_below_the_body(wrap: Any, pair: Pair) -> None:
    with pair.server.makefile("rb") as rfile:
        connection = Connection.of(environ(**{"wsgi.input": wrap(rfile)}))
        assert connection._sock is pair.server
        connection.release()


@pytest.mark.parametrize("value", [None, "socket", 5, object(), io.BytesIO()])
def test_what_is_no_socket_is_passed_over(value: object, pair: Pair) -> None:
    connection = Connection.of(
        environ(**{"gunicorn.socket": value, "werkzeug.socket": pair.server})
    )
    assert connection._sock is pair.server
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
    pair.server.settimeout(5)
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
