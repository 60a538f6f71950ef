"""Flush: what many streams write in one turn of the loop is sent together."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ssestream.gunicorn import flush
from ssestream.gunicorn.flush import send_each
from ssestream.gunicorn.sender import Sender
from ssestream.http.connection import Connection
from ssestream.http.lent_socket import SocketType
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.runtime.loop import CALLS_AT_ONCE
from tests.kit.visit import as_a_greenlet, until


class Client:
    """A client, and the sender of its response."""

    def __init__(self) -> None:
        server, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.message = OutgoingMessage()
        body = body_of(self.message)
        body.open(Connection(server))
        assert body.connection is not None
        own = body.connection.take_over()
        server.close()
        self.over: list[Sender] = []
        self.sender = Sender(body, own, True, self.over.append)
        self.sender.begin(b"")

    def received(self) -> bytes:
        """All that has come and was not read yet, without the framing of chunks."""
        data = b""
        try:
            while some := self.sock.recv(1 << 20):
                data += some
        except BlockingIOError:
            pass
        texts = []
        while data:
            size, _, data = data.partition(b"\r\n")
            texts.append(data[: int(size, 16)])
            data = data[int(size, 16) + 2 :]
        return b"".join(texts)

    def fill(self) -> None:
        """Let the socket have no room."""
        try:
            while True:
                self.sender.sock.send(b"x" * 1000)
        except BlockingIOError:
            pass

    def close(self) -> None:
        self.message.destroy()
        until(lambda: len(self.over) == 1, "its end")
        self.sock.close()


@pytest.fixture
def made() -> Iterator[Callable[[int], list[Client]]]:
    clients: list[Client] = []

    def make(count: int) -> list[Client]:
        clients.extend(Client() for _ in range(count))
        return clients

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sockets of all sends."""
    seen: list[Any] = []

    def send(sock: Any, data: bytes, flags: int) -> int:
        seen.append(sock)
        return SocketType.send(sock, data, flags)

    monkeypatch.setattr(flush, "socket_send", send)
    return seen


@as_a_greenlet
def test_the_streams_that_write_in_one_turn_are_sent_one_after_another(
    made: Callable[[int], list[Client]], sends: list[Any]
) -> None:
    clients = made(5)
    sends.clear()
    for text in (b"one\n\n", b"two\n\n"):
        for client in reversed(clients):
            client.message.write(text)
    assert sends == []
    gevent.sleep(0)
    # One send for both messages of a stream, in the order in which the streams were written to.
    assert sends == [client.sender.sock for client in reversed(clients)]
    assert {client.received() for client in clients} == {b"one\n\ntwo\n\n"}


@as_a_greenlet
def test_more_streams_than_a_turn_holds_are_all_sent(
    made: Callable[[int], list[Client]], sends: list[Any]
) -> None:
    clients = made(2 * CALLS_AT_ONCE + 1)
    sends.clear()
    for client in clients:
        client.message.write(b"x\n\n")
    gevent.sleep(0)
    assert len(sends) == CALLS_AT_ONCE
    until(lambda: len(sends) == len(clients), "all sends")
    assert {client.received() for client in clients} == {b"x\n\n"}


@pytest.mark.parametrize("which", range(3))
@as_a_greenlet
def test_a_broken_socket_and_a_full_one_hold_up_no_other(
    made: Callable[[int], list[Client]], which: int
) -> None:
    clients = made(5)
    broken, full = clients[which], clients[which + 1]
    full.fill()
    broken.sender.sock.shutdown(socket.SHUT_WR)
    for client in clients:
        client.message.write(b"x\n\n")
    until(lambda: broken.over, "the end of the broken one")
    for client in clients:
        if client not in (broken, full):
            assert client.received() == b"x\n\n"
            assert not client.over
    assert full.message.writable_length == len(b"x\n\n")
    # It gets the rest when there is room.
    data = b""
    try:
        while not data.endswith(b"3\r\nx\n\n\r\n"):
            data = (data + full.sock.recv(1 << 20))[-100:]
            gevent.sleep(0)
    except BlockingIOError:
        until(lambda: not full.message.writable_length, "the rest to be sent")
        data += full.sock.recv(1 << 20)
    assert data.endswith(b"3\r\nx\n\n\r\n")
    assert not full.over


@as_a_greenlet
def test_one_that_is_destroyed_in_the_turn_gets_nothing_and_the_others_all(
    made: Callable[[int], list[Client]],
) -> None:
    clients = made(3)
    for client in clients:
        client.message.write(b"x\n\n")
    clients[1].message.destroy()
    until(lambda: clients[1].over, "its end")
    assert clients[0].received() == clients[2].received() == b"x\n\n"
    assert clients[1].received() == b""


@as_a_greenlet
def test_one_that_ends_in_the_turn_gets_all_and_its_end(
    made: Callable[[int], list[Client]],
) -> None:
    clients = made(3)
    for client in clients:
        client.message.write(b"x\n\n")
    clients[1].message.end()
    until(lambda: clients[1].over, "its end")
    assert clients[1].sock.recv(1000) == b"3\r\nx\n\n\r\n0\r\n\r\n"
    assert clients[0].received() == clients[2].received() == b"x\n\n"
    clients[0].message.write(b"y\n\n")
    gevent.sleep(0)
    assert clients[0].received() == b"y\n\n"


@as_a_greenlet
def test_one_that_fails_after_its_send_fails_alone(
    made: Callable[[int], list[Client]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients = made(3)

    for client in clients:
        client.message.write(b"x\n\n")
    monkeypatch.setattr(clients[1].sender.buffer.__class__, "fall_asleep", fail_for(clients[1]))
    until(lambda: clients[1].over, "its end")
    assert "its stream failed" in caplog.text
    assert clients[0].received() == clients[2].received() == b"x\n\n"


def fail_for(client: Client) -> Callable[[Any, Any], bool]:
    real = client.sender.buffer.__class__.fall_asleep

    def fall_asleep(buffer: Any, waker: Any) -> bool:
        if waker is client.sender:
            raise MemoryError
        return real(buffer, waker)

    return fall_asleep


def test_each_socket_gets_its_own_data_whatever_the_others_do() -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    own = [SocketType(fileno=ours.detach()) for ours, _ in pairs]
    for sock in own:
        sock.setblocking(False)
    own[1].shutdown(socket.SHUT_WR)
    try:
        while True:
            own[2].send(b"x" * 1000)
    except BlockingIOError:
        pass
    assert send_each(own, [b"a", b"bb", b"ccc", b"dddd"]) == [1, -1, 0, 4]
    assert pairs[0][1].recv(10) == b"a"
    assert pairs[3][1].recv(10) == b"dddd"
    for sock in (*own, *(theirs for _, theirs in pairs)):
        sock.close()
