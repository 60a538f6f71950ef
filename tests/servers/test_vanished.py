"""Clients whose network is gone: no FIN, no RST, no acknowledgement."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kit.networks import start_networks
from tests.kit.servers import SERVERS, Client, Server

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        sys.platform != "linux", reason="only Linux has a filter that takes nothing"
    ),
]

BEAT = 0.5
TIMEOUT = 1.5

#: Seconds that a busy machine may add.
NOISE = 3.0


def settings(**more: float | None) -> dict[str, str]:
    return {"SETTINGS": json.dumps({f"SSESTREAM_{key.upper()}": more[key] for key in more})}


def gone_after(server: Server, client: Client, key: str) -> float:
    """Seconds from its vanishing to ``close``."""
    client.read_until(b":ok\n\n")
    client.vanish()
    vanished = time.monotonic()
    closed: float = server.wait_for(event="close", key=key)["at"]
    return closed - vanished


@pytest.mark.parametrize("kind", SERVERS)
def test_it_is_closed_within_the_heartbeat_and_the_user_timeout(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(
        kind, "tests.servers.apps.app:app", env=settings(heartbeat=BEAT, tcp_user_timeout=TIMEOUT)
    )
    client = Client(server.port).get("/quiet?key=vanished")
    assert gone_after(server, client, "vanished") < BEAT + TIMEOUT + NOISE
    assert len(server.events(event="close")) == 1


@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread", "flask"])
@pytest.mark.parametrize("how", ["stream", "by-hand"])
def test_the_function_of_a_handler_is_ended_just_as_soon(
    how: str, kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(
        kind, "tests.servers.apps.app:app", env=settings(heartbeat=BEAT, tcp_user_timeout=TIMEOUT)
    )
    client = Client(server.port).get(f"/handled/{how}?key=vanished")
    assert gone_after(server, client, "vanished") < BEAT + TIMEOUT + NOISE
    assert len(server.events(event="close")) == 1


@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_so_it_is_by_the_send_timeout(kind: str, serve: Callable[..., Server]) -> None:
    env = settings(heartbeat=BEAT, send_timeout=TIMEOUT, tcp_user_timeout=None)
    server = serve(kind, "tests.servers.apps.app:app", env=env)
    client = Client(server.port).get("/quiet?key=vanished")
    assert gone_after(server, client, "vanished") < BEAT + TIMEOUT + NOISE


@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_without_a_heartbeat_the_kernels_own_probes_find_it(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(
        kind, "tests.servers.apps.app:app", env=settings(heartbeat=None, tcp_user_timeout=TIMEOUT)
    )
    there = Client(server.port).get("/quiet?key=there")
    there.read_until(b":ok\n\n")
    client = Client(server.port).get("/quiet?key=vanished")
    # The kernel counts keep-alive in whole seconds.
    assert gone_after(server, client, "vanished") < 3 + TIMEOUT + NOISE
    # Who is silent and answers is no such client.
    assert not server.events(event="close", key="there")
    there.fin()
    server.wait_for(event="close", key="there")


def test_one_that_reads_slowly_has_not_vanished(serve: Callable[..., Server]) -> None:
    """To the kernel's own timeout a window that stays small is as no answer."""
    timeout = 2 * TIMEOUT
    clients = []
    for kind, send_timeout in (("gevent", 5 * timeout), ("gthread", None)):
        env = settings(send_timeout=send_timeout, tcp_user_timeout=timeout)
        server = serve(kind, "tests.servers.apps.app:app", env=env)
        # Its window opens often, and never far.
        clients.append(Client(server.port, receive_buffer=4096).get("/flood?key=slow"))
        clients[-1].read_until(b":ok\n\n")
    end = time.monotonic() + 4 * timeout
    while time.monotonic() < end:
        for client in clients:
            assert client.sock.recv(1024), "cut, although it reads"
        time.sleep(0.1)


def test_so_is_one_that_vanishes_while_it_is_written_to(serve: Callable[..., Server]) -> None:
    env = settings(send_timeout=None, tcp_user_timeout=TIMEOUT)
    server = serve("gthread", "tests.servers.apps.app:app", env=env)
    client = Client(server.port, receive_buffer=4096).get("/flood?key=vanished")
    # Its thread sits in sendall(), and no send deadline is there to cut it.
    assert gone_after(server, client, "vanished") < TIMEOUT + NOISE


def test_none_leaves_it_to_the_system(serve: Callable[..., Server]) -> None:
    server = serve(
        "gevent", "tests.servers.apps.app:app", env=settings(heartbeat=0.1, tcp_user_timeout=None)
    )
    client = Client(server.port).get("/quiet?key=vanished")
    client.read_until(b":ok\n\n")
    client.vanish()
    # It is written to all the time, and for longer than the others were given.
    there = Client(server.port).get("/quiet?key=there")
    for _ in range(40):
        there.received = b""
        there.read_until(b":\n")
    assert not server.events(event="close")
    client.fin()


#: One that has connected and then says nothing.
QUIET = """
sock = connect(b"/quiet?key=vanished")
received = b""
while b":ok" not in received:
    received += sock.recv(4096)
print("connected", flush=True)
time.sleep(600)
"""

PULL = """
inside ip link set there down
echo pulled
read -r _
"""


@pytest.fixture
def networks() -> Iterator["subprocess.Popen[str]"]:
    """Two networks, and between them a cable that is pulled when a line comes."""
    process = start_networks(
        QUIET,
        afterwards=PULL,
        env=settings(heartbeat=BEAT, tcp_user_timeout=TIMEOUT),
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_cable_that_is_pulled_is_noticed_too(networks: subprocess.Popen[str]) -> None:
    assert networks.stdin is not None
    assert networks.stdout is not None
    seen = []

    def wait_for(mark: str) -> str:
        assert networks.stdout is not None
        for line in networks.stdout:
            seen.append(line)
            if mark in line:
                return line
        raise AssertionError(f"{mark!r} did not come:\n{''.join(seen)}")

    wait_for("connected")
    networks.stdin.write("\n")
    networks.stdin.flush()
    wait_for("pulled")
    pulled = time.monotonic()
    event = json.loads(wait_for('"event": "close"').partition("@event ")[2])
    assert event["key"] == "vanished"
    assert event["at"] - pulled < BEAT + TIMEOUT + NOISE
