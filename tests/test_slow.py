"""A client that still takes bytes is not stalled, however slowly; one that takes none is."""

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssestream import connection as connections
from ssestream.body import Body
from ssestream.connection import Connection
from ssestream.outgoing import OutgoingMessage
from ssestream.peer import unread
from ssestream.settings import Settings
from ssestream.upkeep import PATIENCE
from tests.visit import until

#: The default, on a clock that the tests move.
SEND_TIMEOUT = 15.0

#: Seconds of that clock between two turns of a client.
TURN = 0.1

#: Where the client is, and how it is connected. Elsewhere is as on another host: this
#: kernel does not know what the client has read.
LINES = ("tcp", "tcp6", "tls", "unix", "elsewhere", "tls elsewhere")


def pair(line: str, certificate: tuple[str, str]) -> tuple[Any, Any]:
    """The server's end of a connection, and the client's, with the buffers of the system."""
    if line == "unix":
        return socket.socketpair()
    family = socket.AF_INET6 if line == "tcp6" else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(("::1" if line == "tcp6" else "127.0.0.1", 0))
        listener.listen()
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    if not line.startswith("tls"):
        return server, client
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    ends: list[Any] = []
    shaking = threading.Thread(
        target=lambda: ends.append(context.wrap_socket(server, server_side=True))
    )
    shaking.start()
    encrypted = trusting.wrap_socket(client)
    shaking.join()
    return ends[0], encrypted


class Download:
    """A response that always has more for its client, and a server that sends it."""

    def __init__(self, server: Any, client: Any, **settings: Any) -> None:
        self.server, self.client = server, client
        self.client.settimeout(20)
        self.message = OutgoingMessage()
        made = Settings(heartbeat=None, **settings)
        self.message.open(Connection.of({"gunicorn.socket": server}), made)
        upkeep = self.message._upkeep
        assert upkeep is not None
        assert upkeep._appointment is not None
        upkeep._appointment.cancel()
        self.upkeep = upkeep
        self.now = time.monotonic()
        self.look_at = self.now
        self.message.on("drain", self._write)
        self.sending = threading.Thread(target=self._send, daemon=True)
        self.sending.start()
        self._write()

    def _write(self) -> None:
        while not (self.message.writable_need_drain or self.message.closed):
            self.message.write(b"x" * 1000)

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # cut, or gone
            for chunk in Body(self.message):
                self.server.sendall(chunk)

    def turn(self, rate: float) -> None:
        """The client reads as much as it does in a turn, and whatever is due is done."""
        left = round(rate * TURN)
        while left:
            left -= len(self.client.recv(left))
        # The server goes on where it has room to.
        time.sleep(0.0005)
        self.now += TURN
        if self.now >= self.look_at:
            self.look_at = self.upkeep.look(self.now) or float("inf")

    def fill(self) -> None:
        """Send until nothing more goes, with the client at rest."""
        connection = self.message._connection
        assert connection is not None
        seen: list[Any] = []
        # A kernel without room is asked for it after 0.2 s, and may then have a little.
        while len(seen) < 50 or seen[-50:] != [seen[-1]] * 50:
            standing = connection.standing()
            seen.append((standing[:2], self.message._buffer.sent()))
            time.sleep(0.01)
        assert standing.unsent

    def seconds_until_cut(self, most: float) -> float:
        began = self.now
        while not self.message.closed:
            assert self.now - began < most, "not cut"
            self.turn(0)
        return self.now - began

    def end(self) -> None:
        self.client.close()
        self.message.destroy()
        self.sending.join(20)
        self.server.close()


@pytest.fixture
def download(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Download]]:
    made: list[Download] = []

    def start(line: str, **settings: Any) -> Download:
        if line.endswith("elsewhere"):
            monkeypatch.setattr(connections, "unread", lambda sock: None)
        made.append(Download(*pair(line, certificate), **settings))
        return made[-1]

    yield start
    for each in made:
        each.end()


@pytest.mark.parametrize("line", LINES)
def test_a_steady_reader_of_5_kilobytes_a_second_stays(
    line: str, download: Callable[..., Download]
) -> None:
    slow = download(line)
    for _ in range(round(120 / TURN)):
        slow.turn(5000)
        assert not slow.message.closed, f"cut after {slow.now - slow.upkeep._began:.0f} s"


@pytest.mark.parametrize(
    # A TLS record of 16 KiB leaves the kernel as one.
    ("line", "rate"),
    [("tcp", 200), ("tcp6", 200), ("tls", 2000)],
)
def test_where_this_kernel_knows_the_client_a_very_slow_one_stays_too(
    line: str, rate: int, download: Callable[..., Download]
) -> None:
    slow = download(line, tcp_user_timeout=None)
    for _ in range(round(200 / TURN)):
        slow.turn(rate)
        assert not slow.message.closed, f"cut after {slow.now - slow.upkeep._began:.0f} s"


@pytest.mark.parametrize(
    ("line", "before"),
    [
        *((line, "nothing") for line in LINES),
        *itertools.product(("tcp", "elsewhere"), ("fast", "slowly")),
    ],
)
def test_one_that_reads_no_more_is_cut_in_time(
    line: str, before: str, download: Callable[..., Download]
) -> None:
    client = download(line)
    if before == "fast":
        for _ in range(100):
            client.turn(1_000_000)
    elif before == "slowly":
        for _ in range(round(60 / TURN)):
            client.turn(5000)
    client.fill()
    seconds = client.seconds_until_cut(2 * PATIENCE * SEND_TIMEOUT)
    assert seconds >= SEND_TIMEOUT * 3 / 4
    if before == "nothing" and not line.endswith("elsewhere"):
        assert seconds <= SEND_TIMEOUT * 5 / 4 + TURN
    else:
        # It may have so much to read still, or to hand on.
        assert seconds <= SEND_TIMEOUT * (PATIENCE + 1 / 4) + TURN


def test_one_that_had_time_to_read_everything_is_given_no_more_of_it(
    download: Callable[..., Download],
) -> None:
    client = download("elsewhere")
    for _ in range(100):
        client.turn(1_000_000)
    # All of the rest, and then silence for some minutes.
    client.message.remove_all_listeners("drain")
    client.client.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while client.client.recv(1 << 20):
            pass
    connection = client.message._connection
    assert connection is not None
    until(lambda: connection.standing().unsent == 0, "all of it to be with the client")
    client.upkeep.look(client.now)
    client.now += 200
    client.look_at = client.now
    client.message.write(b"x" * 10_000)
    until(lambda: client.message._buffer.length == 0, "that to be with the kernel")
    until(lambda: connection.standing().unsent == 0, "that to be with the client")
    client.message._buffer.written_at = client.now
    client.upkeep.look(client.now)
    assert client.upkeep._grace(connection.standing(), client.now) < 5


@pytest.mark.parametrize("line", ["tcp", "tcp6", "tls"])
def test_what_the_other_end_has_not_read_is_known_on_this_host(
    line: str, certificate: tuple[str, str]
) -> None:
    server, client = pair(line, certificate)
    with server, client:
        before = unread(server)
        assert before is not None
        server.sendall(b"x" * 1000)
        until(lambda: unread(server) >= before + 1000, "the bytes")
        client.settimeout(20)
        received = 0
        while received < 1000:
            received += len(client.recv(1000))
        assert unread(server) == 0


def test_what_is_no_connection_has_no_other_end() -> None:
    left, right = socket.socketpair()
    with left, right, socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = listener.accept()
            assert [unread(each) for each in (left, listener, None, socket)] == [None] * 4
            client.close()
            served.close()
            assert unread(served) is None
            assert unread(client) is None
