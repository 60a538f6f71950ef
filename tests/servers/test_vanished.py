"""Clients whose network is gone: no FIN, no RST, no acknowledgement."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kit.networks import start_networks
from tests.kit.promptness import at_best, in_one_try
from tests.kit.servers import MORE_SERVERS, SERVERS, Client, Server

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        sys.platform != "linux", reason="only Linux has a filter that takes nothing"
    ),
]

BEAT = 0.5
TIMEOUT = 1.5

#: Seconds that a busy machine may add to the best of several tries.
NOISE = 3.0


def settings(**more: float | None) -> dict[str, str]:
    return {"SETTINGS": json.dumps({f"SSESTREAM_{key.upper()}": more[key] for key in more})}


def is_gone_within(
    seconds: float, server: Server, path: str = "/quiet", receive_buffer: int | None = None
) -> None:
    """Show that a client of *path* that vanishes is closed within *seconds*, and once."""
    keys = itertools.count()

    def vanish() -> float:
        key = f"vanished{next(keys)}"
        client = Client(server.port, receive_buffer=receive_buffer).get(f"{path}?key={key}")
        client.read_until(b":ok\n\n")
        client.vanish()
        vanished = time.monotonic()
        closed: float = server.wait_for(event="close", key=key)["at"]
        assert len(server.events(event="close", key=key)) == 1
        return closed - vanished

    at_best(vanish, seconds)


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.long] if kind in ("sync", "pywsgi") else [])
        for kind in (*SERVERS, *MORE_SERVERS)
    ],
)
def test_it_is_closed_within_the_heartbeat_and_the_user_timeout(
    kind: str, need: Callable[[str], None], serve: Callable[..., Server]
) -> None:
    need(kind)
    server = serve(
        kind, "tests.servers.apps.app:app", env=settings(heartbeat=BEAT, tcp_user_timeout=TIMEOUT)
    )
    is_gone_within(BEAT + TIMEOUT + NOISE, server)


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", ["SseWorker", "gthread", "flask", pytest.param("gevent", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("how", ["stream", "by-hand"])
def test_the_function_of_a_handler_is_ended_just_as_soon(
    how: str, kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(
        kind, "tests.servers.apps.app:app", env=settings(heartbeat=BEAT, tcp_user_timeout=TIMEOUT)
    )
    is_gone_within(BEAT + TIMEOUT + NOISE, server, f"/handled/{how}")


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_so_it_is_by_the_send_timeout(kind: str, serve: Callable[..., Server]) -> None:
    env = settings(heartbeat=BEAT, send_timeout=TIMEOUT, tcp_user_timeout=None)
    server = serve(kind, "tests.servers.apps.app:app", env=env)
    is_gone_within(BEAT + TIMEOUT + NOISE, server)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_without_a_heartbeat_the_kernels_own_probes_find_it(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(
        kind, "tests.servers.apps.app:app", env=settings(heartbeat=None, tcp_user_timeout=TIMEOUT)
    )
    there = Client(server.port).get("/quiet?key=there")
    there.read_until(b":ok\n\n")
    # The kernel counts keep-alive in whole seconds.
    is_gone_within(3 + TIMEOUT + NOISE, server)
    # Who is silent and answers is no such client.
    assert not server.events(event="close", key="there")
    there.fin()
    server.wait_for(event="close", key="there")


@pytest.mark.long
def test_one_that_reads_slowly_has_not_vanished(serve: Callable[..., Server]) -> None:
    """To the kernel's own timeout a window that stays small is as no answer."""
    timeout = 2 * TIMEOUT
    servers = []
    for kind, send_timeout in (("gevent", 5 * timeout), ("gthread", None)):
        env = settings(send_timeout=send_timeout, tcp_user_timeout=timeout)
        servers.append(serve(kind, "tests.servers.apps.app:app", env=env))

    def read() -> tuple[bool, str]:
        # The windows of the clients open often, and never far.
        clients = [Client(s.port, receive_buffer=4096).get("/flood?key=slow") for s in servers]
        for client in clients:
            client.read_until(b":ok\n\n")
        end = time.monotonic() + 4 * timeout
        with contextlib.suppress(ConnectionError):
            while all(client.sock.recv(1024) for client in clients):
                if time.monotonic() > end:
                    return True, "both stay"
                time.sleep(0.1)
        return False, "cut, although it reads"

    # A client that has no turn for so long reads nothing, and is rightly cut.
    in_one_try(read, tries=4)


@pytest.mark.parametrize(
    "kind", ["gthread", *(pytest.param(kind, marks=pytest.mark.long) for kind in MORE_SERVERS)]
)
def test_so_is_one_that_vanishes_while_it_is_written_to(
    kind: str, need: Callable[[str], None], serve: Callable[..., Server]
) -> None:
    need(kind)
    env = settings(send_timeout=None, tcp_user_timeout=TIMEOUT)
    server = serve(kind, "tests.servers.apps.app:app", env=env)
    # Its thread sits in sendall(), and no send deadline is there to cut it.
    is_gone_within(TIMEOUT + NOISE, server, "/flood", receive_buffer=4096)


@pytest.mark.long
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


@contextlib.contextmanager
def networks() -> Iterator["subprocess.Popen[str]"]:
    """Two networks, and between them a cable that is pulled when a line comes."""
    process = start_networks(
        QUIET,
        afterwards=PULL,
        env=settings(heartbeat=BEAT, tcp_user_timeout=TIMEOUT),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def pull() -> float:
    """Seconds from the pull to ``close``."""
    seen = []

    def wait_for(mark: str) -> str:
        assert both.stdout is not None
        for line in both.stdout:
            seen.append(line)
            if mark in line:
                return line
        raise AssertionError(f"{mark!r} did not come:\n{''.join(seen)}")

    with networks() as both:
        assert both.stdin is not None
        wait_for("connected")
        both.stdin.write("\n")
        both.stdin.flush()
        wait_for("pulled")
        pulled = time.monotonic()
        event = json.loads(wait_for('"event": "close"').partition("@event ")[2])
    assert event["key"] == "vanished"
    return float(event["at"]) - pulled


def test_a_cable_that_is_pulled_is_noticed_too() -> None:
    at_best(pull, BEAT + TIMEOUT + NOISE)
