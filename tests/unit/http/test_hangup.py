"""A departure is noticed at once, in each of the three ways, and nothing is read."""

import os
import socket
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssestream import ServerResponse, SseStream
from ssestream.http import hangup
from ssestream.http.connection import Connection
from ssestream.http.lent_socket import LentSocket
from ssestream.runtime.loop import current_loop
from tests.kit.pair import Pair
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


def under_watch(way: str) -> Any:
    """The descriptors that the current loop watches."""
    watch = hangup.watch_of(current_loop())
    return watch._connections if way == "epoll" else watch._watchers


LEAVING = [Pair.fin, Pair.rst, Pair.half_close]


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
    assert pair.server.fileno() not in under_watch(way)
    pair.server.sendall(b"it is not closed")


@on_threads_and_greenlets
def test_of_a_descriptor_that_is_lent_a_copy_is_watched_and_closed(way: str, pair: Pair) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    # Makes the watch of the loop.
    Watched(pair.server).connection.release()
    loop_turns()
    before = opened()
    watched = Watched(LentSocket(pair.server.fileno()))
    loop_turns()
    left = under_watch(way)
    assert list(left)
    assert pair.server.fileno() not in left
    watched.connection.release()
    until(lambda: not left and opened() <= before, "the copy to be closed")
    pair.server.sendall(b"it is not closed")
    again = Watched(LentSocket(pair.server.fileno()))
    pair.fin()
    until(lambda: again.gone, "the departure")
    again.connection.release()


def test_a_lent_descriptor_that_was_closed_is_not_watched(pair: Pair) -> None:
    lent = LentSocket(pair.server.fileno())
    pair.server.close()
    assert lent.copy_descriptor() == -1
    watched = Watched(lent)
    watched.connection.release()
    assert watched.gone == 0


def test_cut_hits_no_other_connection_that_gets_the_number_meanwhile(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(LentSocket(pair.server.fileno()))
    loop_turns()
    number_of = LentSocket.fileno

    with socket.socket() as other, socket.create_server(("127.0.0.1", 0)) as listener:
        other.connect(listener.getsockname())

        def server_closes_now(lent: LentSocket) -> int:
            number = number_of(lent)
            os.dup2(other.fileno(), pair.server.fileno())
            return number

        monkeypatch.setattr(LentSocket, "fileno", server_closes_now)
        watched.connection.cut()
        other.sendall(b"it is not cut")
    assert pair.client.recv(1) == b""


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
