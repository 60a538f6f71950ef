"""A client that still takes bytes is not stalled, however slowly; one that takes none is."""

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ssestream.http import connection as connections
from ssestream.http.connection import Connection
from ssestream.http.keepalive import PATIENCE, SLOWEST
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.runtime.clock import clock
from ssestream.settings import Settings
from tests.kit.insides import check_of, keepalive_of
from tests.kit.networks import start_networks
from tests.kit.pair import pair_over
from tests.kit.promptness import in_one_try
from tests.kit.servers import Client, Patience, Server, free_port, wait_until
from tests.kit.visit import until

#: The default, on a clock that the tests move.
SEND_TIMEOUT = 15.0

#: Seconds of that clock between two turns of a client.
TURN = 0.1

#: Where the client is, and how it is connected. Elsewhere is as on another host: this
#: kernel does not know what the client has read.
LINES = ("tcp", "tcp6", "tls", "unix", "elsewhere", "tls elsewhere")


def small_pair() -> tuple[socket.socket, socket.socket]:
    """The server's end of a connection, and the client's, whose kernel has little room."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    return server, client


class Download:
    """A response that always has more for its client, and a server that sends it."""

    def __init__(self, server: Any, client: Any, **settings: Any) -> None:
        self.server, self.client = server, client
        self.client.settimeout(60)
        self.message = OutgoingMessage()
        made = Settings(heartbeat=None, **settings)
        body_of(self.message).open(Connection.of({"gunicorn.socket": server}), made)
        self.upkeep = keepalive_of(self.message)
        check_of(self.upkeep).cancel()
        self.now = self.began = clock.now()
        self.look_at = self.now
        self.message.on("drain", self.write)
        self.sending = threading.Thread(target=self._send, daemon=True)
        self.sending.start()
        self.write()

    def write(self) -> None:
        while not (self.message.writable_need_drain or self.message.closed):
            self.message.write(b"x" * 1000)

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # cut, or gone
            for chunk in body_of(self.message):
                self.server.sendall(chunk)

    def turn(self, rate: float) -> None:
        """The client reads as much as it does in a turn, and whatever is due is done."""
        left = round(rate * TURN)
        while left:
            data = self.client.recv(left)
            if not data:
                raise ConnectionResetError("cut")
            left -= len(data)
        # The server goes on where it has room to.
        time.sleep(0.0005)
        self.now += TURN
        if self.now >= self.look_at:
            due = self.upkeep.look(self.now)
            self.look_at = due or float("inf")
            if due is None:
                # It was cut, and another thread sees to the rest.
                until(lambda: self.message.closed, "its end")

    def fill(self) -> None:
        """Send until nothing more goes, with the client at rest."""
        connection = body_of(self.message).connection
        assert connection is not None
        seen: list[Any] = []
        # A kernel without room is asked for it after 0.2 s, and may then have a little.
        while len(seen) < 50 or seen[-50:] != [seen[-1]] * 50:
            standing = connection.standing()
            seen.append((standing[:2], body_of(self.message).buffer.sent()))
            time.sleep(0.01)
        assert standing.unsent
        # By the clock that the tests move, which is ahead of the one that wrote this.
        body_of(self.message).buffer.sent_past(0, 0, self.now)

    def take_the_rest(self) -> None:
        """Let the client read everything that was written, and nothing be written any more."""
        self.message.remove_all_listeners("drain")
        body = body_of(self.message)
        connection = body.connection
        assert connection is not None

        def has_all() -> bool:
            # A socket with a timeout waits in `recv`, even with MSG_DONTWAIT.
            self.client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self.client.recv(1 << 20)
            self.client.settimeout(60)
            return connection.standing().unsent == 0 and body.buffer.length == 0

        until(has_all, "the client to have everything")

    def seconds_until_cut(self, most: float) -> float:
        """Since the client's kernel took something last. Without room it may take a little more."""
        connection = body_of(self.message).connection
        assert connection is not None
        began, taken = self.now, connection.standing().acknowledged
        while not self.message.closed:
            assert self.now - began < most, "not cut"
            self.turn(0)
            more = connection.standing().acknowledged
            # It is None once the connection is cut.
            if more not in (None, taken):
                began, taken = self.now, more
        return self.now - began

    def end(self) -> None:
        self.client.close()
        self.message.destroy()
        self.sending.join(60)
        self.server.close()


@pytest.fixture
def download(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Download]]:
    made: list[Download] = []

    def start(line: str, **settings: Any) -> Download:
        if line.endswith("elsewhere"):
            monkeypatch.setattr(connections, "unread", lambda sock: None)
        ends = small_pair() if line == "small" else pair_over(line, certificate)
        made.append(Download(*ends, **settings))
        return made[-1]

    yield start
    for each in made:
        each.end()


@pytest.mark.long_except("tcp")
@pytest.mark.parametrize("line", LINES)
def test_a_steady_reader_of_5_kilobytes_a_second_stays(
    line: str, download: Callable[..., Download]
) -> None:
    slow = download(line)
    for _ in range(round(120 / TURN)):
        slow.turn(5000)
        assert not slow.message.closed, f"cut after {slow.now - slow.began:.0f} s"


@pytest.mark.long_except("tcp6-200")
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
        assert not slow.message.closed, f"cut after {slow.now - slow.began:.0f} s"


@pytest.mark.long_except("unix-nothing")
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


@pytest.mark.parametrize("line", ["tcp", "unix"])
def test_one_that_may_pass_on_what_it_has_read_gets_time_for_it(
    line: str, download: Callable[..., Download]
) -> None:
    """As a proxy on this host, though its own receive buffer is full and large."""
    proxy = download(line)
    proxy.turn(SLOWEST * PATIENCE * SEND_TIMEOUT / TURN)
    proxy.fill()
    seconds = proxy.seconds_until_cut(2 * PATIENCE * SEND_TIMEOUT)
    assert seconds >= SEND_TIMEOUT * (PATIENCE - 1 / 4)
    assert seconds <= SEND_TIMEOUT * (PATIENCE + 1 / 4) + TURN


@pytest.mark.long
def test_one_that_has_read_slowly_once_may_pause_later(download: Callable[..., Download]) -> None:
    """Linux closes such a connection by ``TCP_USER_TIMEOUT``, as soon as it has no room again."""

    def read() -> tuple[bool, str]:
        client = download("small", tcp_user_timeout=1.0)
        # Longer than that, and with little room each time.
        end = time.monotonic() + 2
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                client.turn(10_000)
                time.sleep(TURN / 2)
        if client.message.closed:
            return False, "cut at first"
        client.take_the_rest()
        client.upkeep.look(client.now)
        client.message.on("drain", client.write)
        client.write()
        client.fill()
        # It is asked for room all the time.
        time.sleep(0.5)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.turn(10_000)
        return not client.message.closed, "cut later"

    # A client that has no turn for so long reads nothing, and is rightly cut.
    in_one_try(read)


def test_without_a_send_timeout_one_that_reads_nothing_and_answers_stays(
    download: Callable[..., Download],
) -> None:
    def stay() -> tuple[bool, str]:
        client = download("tcp", send_timeout=None, tcp_user_timeout=1.5)
        connection = body_of(client.message).connection
        assert connection is not None
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            client.now = time.monotonic()
            client.upkeep.look(client.now)
            if client.message.closed:
                return False, "it was cut"
            time.sleep(0.05)
        assert connection.standing().unsent
        client.turn(10_000)
        return True, "it stays"

    # Nor does a server that has no turn for so long see what it has to.
    in_one_try(stay)


def test_one_that_had_time_to_read_everything_is_given_no_more_of_it(
    download: Callable[..., Download],
) -> None:
    client = download("elsewhere")
    for _ in range(100):
        client.turn(1_000_000)
    # Then silence for some minutes.
    client.take_the_rest()
    client.upkeep.look(client.now)
    connection = body_of(client.message).connection
    assert connection is not None
    client.now += 200
    client.look_at = client.now
    client.message.write(b"x" * 10_000)
    until(lambda: body_of(client.message).buffer.length == 0, "that to be with the kernel")
    until(lambda: connection.standing().unsent == 0, "that to be with the client")
    body_of(client.message).buffer.sent_past(0, 0, client.now)
    client.upkeep.look(client.now)
    assert client.upkeep._grace(connection.standing(), client.now) < 5


# -- with real servers


#: Of these a full buffer of this system, read at this rate, takes some seconds. A client on a
#: busy machine may be left without its turn for a second.
SHORT, RATE = 2.5, 20_000

#: nginx in one process, so that it needs no other user. SMALL lets it keep as little as it can for
#: a slow client.
NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {port}{options};
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_buffer_size 4k;
        }}
    }}
}}
"""
SMALL = " sndbuf=4k"


def configured(folder: Path, port: str | int, upstream: str, options: str = "") -> list[str]:
    """The command that starts nginx in front of *upstream*."""
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, port=port, upstream=upstream, options=options))
    return ["nginx", "-p", str(folder), "-c", str(conf), "-e", str(folder / "error.log")]


@pytest.fixture
def behind_nginx(nginx: str, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start nginx before a server on that port; the port of nginx."""
    started: list[subprocess.Popen[bytes]] = []

    def start(upstream: int, options: str = "") -> int:
        port = free_port()
        command = configured(tmp_path, f"127.0.0.1:{port}", f"127.0.0.1:{upstream}", options)
        started.append(subprocess.Popen([nginx, *command[1:]], start_new_session=True))

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, "nginx")
        return port

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_slowly(clients: list[Client], seconds: float, rate: float = RATE) -> None:
    """Raises `ConnectionError` if one is cut, although it reads."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for client in clients:
            if not client.sock.recv(round(rate * TURN)):
                raise ConnectionResetError("cut")
        time.sleep(TURN)


@pytest.mark.long
@pytest.mark.server
def test_real_servers_keep_those_who_read_slowly_and_cut_those_who_do_not(
    serve: Callable[..., Server], behind_nginx: Callable[..., int]
) -> None:
    env = {"SETTINGS": json.dumps({"SSESTREAM_SEND_TIMEOUT": SHORT})}
    servers = [
        serve(kind, "tests.servers.apps.app:app", env=env)
        for kind in ("SseWorker", "gevent", "gthread")
    ]
    proxied = behind_nginx(servers[0].port, SMALL)
    numbers = itertools.count()

    def visit() -> tuple[bool, str]:
        slow, stalled = (f"{name}{next(numbers)}" for name in ("slow", "stalled"))
        with contextlib.ExitStack() as stack:
            clients = []
            for server in servers:
                clients.append(Client(server.port).get(f"/flood?key={slow}"))
                stack.callback(clients[-1].fin)
                stack.callback(Client(server.port).get(f"/flood?key={stalled}").fin)
            clients.append(Client(proxied, receive_buffer=4096).get(f"/flood?key={slow}"))
            stack.callback(clients[-1].fin)
            try:
                # In less time the window of none would have opened again.
                read_slowly(clients, 4 * SHORT)
                # On a busy machine it takes a server longer to fill the buffers of one that does
                # not read.
                patience = Patience(60, "the stalled clients to be cut")
                while not all(server.events(event="close", key=stalled) for server in servers):
                    patience.look()
                    read_slowly(clients, TURN)
            except ConnectionError:
                return False, "cut, although it reads"
            assert not any(server.events(event="close", key=slow) for server in servers)
            lasted = []
            for server in servers:
                (opened,) = server.events(event="open", key=stalled)
                (closed,) = server.events(event="close", key=stalled)
                lasted.append(closed["at"] - opened["at"])
            assert min(lasted) > SHORT / 2
            return max(lasted) < PATIENCE * SHORT, f"cut after {lasted}"

    # A client that has no turn for so long reads nothing, and is rightly cut.
    in_one_try(visit, tries=4)


@pytest.mark.long
@pytest.mark.server
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_behind_an_nginx_that_keeps_megabytes_one_that_reads_slowly_has_more_time(
    kind: str, serve: Callable[..., Server], behind_nginx: Callable[..., int]
) -> None:
    env = {"SETTINGS": json.dumps({"SSESTREAM_SEND_TIMEOUT": SHORT})}
    server = serve(kind, "tests.servers.apps.app:app", env=env)
    proxied = behind_nginx(server.port)
    numbers = itertools.count()

    def visit() -> tuple[bool, str]:
        keys = [f"{name}{next(numbers)}" for name in ("slow", "stalled")]
        slow, stalled = (Client(proxied).get(f"/flood?key={key}") for key in keys)
        read_slowly([slow], SHORT * (PATIENCE - 3 / 4), rate=5000)
        lasted = []
        for client, key in zip((slow, stalled), keys, strict=True):
            closed = server.wait_for(event="close", key=key)
            (opened,) = server.events(event="open", key=key)
            lasted.append(closed["at"] - opened["at"])
            client.fin()
        # nginx takes nothing from here on: it has enough for minutes.
        fits = min(lasted) > SHORT * (PATIENCE - 3 / 4) and max(lasted) < SHORT * (PATIENCE + 1)
        return fits, f"cut after {lasted}"

    in_one_try(visit, tries=4)


#: A cable that carries a megabit a second, in segments of 1448 bytes as the internet does.
NARROW = """
ip link set here gso_max_segs 1
tc qdisc add dev here root tbf rate 1mbit burst 8kb latency 400ms
"""

#: Segments as the internet has them, also between nginx and gunicorn.
REAL_SEGMENTS = """
ip link set here gso_max_segs 1
ip link set lo mtu 1500 gso_max_segs 1
"""

#: One that reads 5000 bytes a second, and one that reads nothing.
SLOW_AND_STALLED = """
slow, stalled = connect(b"/flood?key=slow"), connect(b"/flood?key=stalled")
while slow.recv(500):
    time.sleep(0.1)
print("cut", flush=True)
"""


@pytest.mark.long
@pytest.mark.server
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such networks")
def test_so_it_is_over_a_line_with_a_narrow_band(tmp_path: Path) -> None:
    def read() -> tuple[bool, str]:
        with (tmp_path / "log").open("wb+") as log:
            seconds, is_kept = over_a_line(log, timeout=3.0, client=SLOW_AND_STALLED, cable=NARROW)
        return seconds < (PATIENCE + 2) * 3.0 and is_kept, f"{seconds} s, and {is_kept}"

    # A client that has no turn for so long reads nothing, and is rightly cut.
    in_one_try(read, tries=4)


@pytest.mark.long
@pytest.mark.server
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such networks")
def test_so_it_is_behind_nginx_with_segments_as_the_internet_has_them(
    nginx: str, tmp_path: Path
) -> None:
    command = [nginx, *configured(tmp_path, 8080, "10.77.0.1:8000")[1:]]
    # The network has no other user.
    command += ["-g", "user root;"]

    def read() -> tuple[bool, str]:
        with (tmp_path / "log").open("wb+") as log:
            seconds, is_kept = over_a_line(
                log,
                timeout=3.0,
                # Not before gunicorn is there: nginx would answer that it is not.
                client='connect(b"/").close()' + SLOW_AND_STALLED.replace('")', '", 8080)'),
                cable=REAL_SEGMENTS,
                beside=f"{shlex.join(command)} &",
            )
        return seconds < (PATIENCE + 2) * 3.0 and is_kept, f"{seconds} s, and {is_kept}"

    # A client that has no turn for so long reads nothing, and is rightly cut.
    in_one_try(read, tries=4)


def over_a_line(log: BinaryIO, timeout: float, **network: str) -> tuple[float, bool]:
    """When a client that reads nothing is cut, and whether one that reads slowly is not."""
    process = start_networks(
        **network,
        env={"SETTINGS": json.dumps({"SSESTREAM_SEND_TIMEOUT": timeout})},
        stdout=log,
    )

    def events(**match: Any) -> list[dict[str, Any]]:
        text = os.pread(log.fileno(), 1 << 20, 0).decode()
        found = [json.loads(e) for e in re.findall(r"@event (.*)\n", text)]
        return [e for e in found if match.items() <= e.items()]

    try:
        wait_until(lambda: len(events(event="open")) == 2, "both")
        wait_until(lambda: events(event="close", key="stalled"), "the end of one")
        (opened,) = events(event="open", key="stalled")
        (closed,) = events(event="close", key="stalled")
        left = opened["at"] + 6 * timeout - time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, left))
        return closed["at"] - opened["at"], not events(event="close", key="slow")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
