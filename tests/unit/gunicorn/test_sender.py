"""What a `Sender` does with a socket that takes little, or nothing."""

import socket
from collections.abc import Iterator

import gevent
import pytest

from ssestream.gunicorn import sender
from ssestream.gunicorn.sender import Sender
from ssestream.http.connection import Connection
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.http.registry import registry
from tests.kit.visit import until


class Pair:
    """A sender, and the other end of its connection."""

    def __init__(self) -> None:
        server, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.message = OutgoingMessage()
        body_of(self.message).open(Connection(server))
        assert body_of(self.message).connection is not None
        self.sock = body_of(self.message).connection.take_over()
        server.close()
        self.ends = 0
        self.sender = Sender(body_of(self.message), self.sock, True, self._count)
        self.sender.begin(b"head\r\n\r\n")

    def _count(self, sender: Sender) -> None:
        self.ends += 1

    def fill(self) -> int:
        """As if much were on its way already: so many bytes."""
        sent = 0
        try:
            while True:
                sent += self.sock.send(b"x" * 1000)
        except BlockingIOError:
            pass
        try:
            while True:
                sent += self.sock.send(b"x")
        except BlockingIOError:
            return sent

    def received(self) -> bytes:
        data = b""
        try:
            while some := self.client.recv(1 << 20):
                data += some
        except BlockingIOError:
            pass
        return data


@pytest.fixture
def pair() -> Iterator[Pair]:
    # In a greenlet: it is at loop in this thread.
    pair: Pair = gevent.spawn(Pair).get()
    yield pair
    pair.message.destroy()
    until(lambda: pair.ends == 1, "the end")
    assert pair.sock.fileno() == -1
    pair.client.close()


def with_only_the_end_to_send(pair: Pair) -> int:
    pair.message.write(b"all\n")
    until(lambda: not pair.message.writable_length, "all to be sent")
    filled = pair.fill()
    pair.message.end()
    until(lambda: pair.message.closed, "its end")
    assert pair.ends == 0
    return filled


def test_the_end_alone_waits_for_room(pair: Pair) -> None:
    filled = with_only_the_end_to_send(pair)
    before = pair.received()
    assert before == b"head\r\n\r\n4\r\nall\n\r\n" + b"x" * filled
    until(lambda: pair.ends, "the end")
    assert pair.received() == b"0\r\n\r\n"


def test_it_is_over_when_the_client_leaves_meanwhile(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the looks: it is over at once.
    monkeypatch.setattr(sender, "LOOK", 1000.0)
    with_only_the_end_to_send(pair)
    pair.client.close()
    until(lambda: pair.ends, "the end")


def test_it_is_over_soon_when_the_worker_stops(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with_only_the_end_to_send(pair)
    monkeypatch.setattr(registry, "draining", True)
    until(lambda: pair.ends, "the end")
