"""Flush: the first write in a turn of the loop is sent at once, the others in the next turn."""

import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ssestream import BufferFull, SseStream
from ssestream.gunicorn import flush
from ssestream.gunicorn.flush import send_each
from ssestream.gunicorn.sender import Sender
from ssestream.http.connection import NO_CHUNK, Connection
from ssestream.http.lent_socket import SocketType
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.http.output import OutputBuffer
from ssestream.runtime.clock import clock
from ssestream.runtime.loop import CALLS_AT_ONCE, Loop, checkpoint
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

    def raw(self) -> bytes:
        """All that has come and was not read yet."""
        data = b""
        try:
            while some := self.sock.recv(1 << 20):
                data += some
        except BlockingIOError:
            pass
        return data

    def received(self) -> bytes:
        """The same without the framing of chunks."""
        return unframed(self.raw())

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


def unframed(data: bytes) -> bytes:
    """The body that the chunks in *data* make."""
    texts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        texts.append(data[: int(size, 16)])
        assert data[int(size, 16) :].startswith(b"\r\n")
        data = data[int(size, 16) + 2 :]
    return b"".join(texts)


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
    first, *clients = made(6)
    checkpoint()
    sends.clear()
    first.message.write(b"first\n\n")
    for text in (b"one\n\n", b"two\n\n"):
        for client in reversed(clients):
            client.message.write(text)
    assert sends == [first.sender.sock]
    gevent.sleep(0)
    # One send for both messages of a stream, in the order in which the streams were written to.
    assert sends[1:] == [client.sender.sock for client in reversed(clients)]
    assert {client.received() for client in clients} == {b"one\n\ntwo\n\n"}


@as_a_greenlet
def test_the_first_write_of_a_turn_is_sent_before_the_writer_goes_on(
    made: Callable[[int], list[Client]], sends: list[Any]
) -> None:
    (client,) = made(1)
    for text in (b"one\n\n", b"two\n\n"):
        checkpoint()
        sends.clear()
        for expected in ([client.sender.sock], [client.sender.sock]):
            client.message.write(text)
            assert sends == expected
        assert client.received() == text
        gevent.sleep(0)
        assert client.received() == text
        assert client.message.writable_length == 0


@as_a_greenlet
def test_a_write_that_finds_its_client_gone_leaves_the_end_to_the_loop(
    made: Callable[[int], list[Client]],
) -> None:
    client, other = made(2)
    stream, heard = SseStream(), list[object]()
    stream.pipe(client.message)
    client.message.on("close", functools.partial(heard.append, "close"))
    checkpoint()
    client.sender.sock.shutdown(socket.SHUT_WR)
    assert stream.write({"data": 1}, callback=heard.append)
    assert not client.message.destroyed
    other.message.write(b"x\n\n")
    until(lambda: client.over, "its end")
    assert heard == [None, "close"]
    assert other.received() == b"x\n\n"


@pytest.mark.parametrize("where", ["taking", "sleeping"])
@as_a_greenlet
def test_so_does_one_that_fails(made: Callable[[int], list[Client]], where: str) -> None:
    (client,) = made(1)
    checkpoint()

    class FailingBuffer(OutputBuffer):
        __slots__ = ()

        if where == "taking":
            take_nowait = fail_with(MemoryError)
        else:
            fall_asleep = fail_with(MemoryError)

    client.sender.buffer.__class__ = FailingBuffer
    assert client.message.write(b"x\n\n")
    assert not client.message.destroyed
    client.sender.buffer.__class__ = OutputBuffer
    client.message.write(b"y\n\n")
    until(lambda: client.over, "its end")
    assert client.raw() == (b"" if where == "taking" else b"3\r\nx\n\n\r\n") + NO_CHUNK


@as_a_greenlet
def test_a_burst_behind_a_message_that_is_sent_in_part_meets_no_slow_client(
    made: Callable[[int], list[Client]],
) -> None:
    (client,) = made(1)
    stream = SseStream(overflow="error")
    stream.pipe(client.message)
    client.sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    checkpoint()
    stream.write({"data": "x" * 60_000})
    # The socket has a part of the message, and the loop no chance to send the rest.
    received = bytearray(client.raw())
    assert 0 < len(received) < 60_000
    for number in range(1500):
        stream.write({"data": number})
    until(lambda: received.extend(client.raw()) or b"data: 1499\n" in received, "the last one")
    assert not client.message.destroyed


@as_a_greenlet
def test_it_meets_one_that_takes_nothing_in_the_turns_after_it(
    made: Callable[[int], list[Client]],
) -> None:
    (client,) = made(1)
    stream = SseStream(overflow="error")
    stream.pipe(client.message)
    client.sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    checkpoint()
    stream.write({"data": "x" * 60_000})
    buffer = body_of(client.message).buffer
    assert body_of(client.message).in_hand
    assert not buffer.is_stuck(clock.now() + 1)
    checkpoint()
    assert buffer.is_stuck(clock.now() + 1)
    assert buffer.taken_at <= clock.now()

    def write_on() -> None:
        for number in range(3000):
            stream.write({"data": number})
            checkpoint()

    with pytest.raises(BufferFull):
        write_on()


@as_a_greenlet
def test_more_streams_than_a_turn_holds_are_all_sent(
    made: Callable[[int], list[Client]], sends: list[Any]
) -> None:
    clients = made(2 * CALLS_AT_ONCE + 1)
    checkpoint()
    sends.clear()
    for client in clients:
        client.message.write(b"x\n\n")
    gevent.sleep(0)
    assert len(sends) == 1 + CALLS_AT_ONCE
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
    assert b"x" not in clients[1].raw()


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


def fail_with(error: type[BaseException]) -> Callable[..., None]:
    def fail(*args: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("is_first", [False, True], ids=["among others", "first"])
@pytest.mark.parametrize("where", ["taking", "ending", "sleeping", "cutting"])
@as_a_greenlet
def test_one_that_fails_fails_alone(
    made: Callable[[int], list[Client]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    is_first: bool,
) -> None:
    clients = made(5)
    checkpoint()
    bad, others = clients[2], [*clients[:2], *clients[3:]]

    class Failing(Sender):
        __slots__ = ()

        if where in ("ending", "cutting"):
            _finish = fail_with(MemoryError)
        if where == "cutting":

            def break_off(self) -> None:
                super().break_off()
                raise MemoryError

    class FailingBuffer(OutputBuffer):
        __slots__ = ()

        if where == "taking":
            take_nowait = fail_with(MemoryError)
        if where == "sleeping":
            fall_asleep = fail_with(MemoryError)

    bad.sender.__class__ = Failing
    bad.sender.buffer.__class__ = FailingBuffer
    for text in (b"x\n\n", b"y\n\n"):
        if text == b"x\n\n" and is_first:
            bad.message.end(b"x\n\n")
        for client in others:
            client.message.write(text)
        if text == b"x\n\n" and not is_first:
            bad.message.end(b"x\n\n")
        checkpoint()
    until(lambda: bad.over, "its end")
    assert "its stream failed" in caplog.text
    for client in others:
        assert client.received() == b"x\n\ny\n\n"
        assert client.message.writable_length == 0


@as_a_greenlet
def test_a_signal_handler_that_raises_breaks_off_those_that_were_not_sent_to(
    made: Callable[[int], list[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = made(4)
    sends: list[Any] = []

    class Raised(BaseException):
        pass

    def send(sock: Any, data: bytes, flags: int) -> int:
        sends.append(sock)
        if len(sends) == 2:
            raise Raised
        return int(SocketType.send(sock, data, flags))

    monkeypatch.setattr(flush, "socket_send", send)
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *args: None)
    for client in clients:
        client.message.write(b"x\n\n")
    until(lambda: all(client.over for client in clients), "their ends")
    # The loop goes on, and so do later streams.
    (late,) = made(1)[4:]
    late.message.write(b"x\n\n")
    gevent.sleep(0)
    assert late.received() == b"x\n\n"


@as_a_greenlet
def test_so_does_one_that_raises_in_the_first_send_of_a_turn(
    made: Callable[[int], list[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, other = made(2)
    checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(flush, "socket_send", fail_with(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            client.message.write(b"x\n\n")
    until(lambda: client.over, "its end")
    other.message.write(b"x\n\n")
    checkpoint()
    assert other.received() == b"x\n\n"


@as_a_greenlet
def test_the_other_destinations_of_a_stream_get_what_such_a_write_wrote(
    made: Callable[[int], list[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, *others = made(3)
    stream = SseStream()
    for each in (client, *others):
        stream.pipe(each.message)
    checkpoint()
    opening = b":ok\n\n"
    assert {each.received() for each in others} == {opening}
    with monkeypatch.context() as patch:
        patch.setattr(flush, "socket_send", fail_with(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stream.write({"data": 1})
    checkpoint()
    assert [each.received() for each in others] == [b"data: 1\n\n"] * 2
    stream.write({"data": 2})
    checkpoint()
    assert [each.received() for each in others] == [b"data: 2\n\n"] * 2


@as_a_greenlet
def test_one_that_is_added_twice_sends_each_piece_whole(
    made: Callable[[int], list[Client]], sends: list[Any]
) -> None:
    """Else a second piece would be taken before the rest of the first one is kept."""
    client, other = made(2)
    client.sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    text = b"".join(b"data: %06d\n\n" % number for number in range(20_000))
    client.message.write(text)
    client.sender.wake()
    other.message.write(b"x\n\n")
    data = b""
    while len(data) < len(text):
        gevent.sleep(0)
        data += client.raw()
        if len(sends) > 20_000:
            break
    until(lambda: not client.message.writable_length, "all to be sent")
    data += client.raw()
    assert unframed(data) == text
    assert other.received() == b"x\n\n"


@as_a_greenlet
def test_the_loop_of_a_response_of_another_thread_is_called_as_other_threads_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else nothing wakes this loop, and the end of the response waits for its next event."""
    called_here: list[bool] = []
    call_each = Loop.call_each

    def called(loop: Loop, calls: Any) -> None:
        called_here.append(loop.here())
        call_each(loop, calls)

    monkeypatch.setattr(Loop, "call_each", called)
    hub = gevent.get_hub()
    message: OutgoingMessage = hub.threadpool.apply(OutgoingMessage)
    assert not body_of(message).call_queue.loop.here()
    message.end(b"x\n\n")
    server, theirs = socket.socketpair()
    body = body_of(message)
    body.open(Connection(server))
    assert body.connection is not None
    own = body.connection.take_over()
    server.close()
    over: list[Sender] = []
    sender = Sender(body, own, True, over.append)
    sender.begin(b"head\r\n\r\n")
    until(lambda: over, "its end")
    assert theirs.recv(1000) == b"head\r\n\r\n3\r\nx\n\n\r\n0\r\n\r\n"
    theirs.close()
    assert called_here
    assert all(called_here)


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
