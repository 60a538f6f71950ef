"""The short form of ``python -m tests.long.hosts``, of which ``tox -e hosts`` is the long one."""

import random
import signal
import socket
import subprocess
import sys

import pytest

from tests.kit.networks import skip_unless_permitted
from tests.kit.servers import ROOT
from tests.long.hosts.audience import Break, Client
from tests.long.hosts.street import UNSHARE

#: What a street is made of. Not every kernel that has networks of their own has bridges.
TRY_IT = """
set -e
ip link add street type bridge
ip link add host type veth peer name out
ip link set host master street
unshare --net true
"""


#: For each broker: the fixture that finds its program, the options, and what the program then says.
BROKERS = {
    "redis": ("redis_executable", ["--seconds", "16"], "== redis, "),
    "postgresql": (
        "postgresql_programs",
        ["--broker", "postgresql", "--seconds", "16"],
        "== postgresql, ",
    ),
    # Long enough for one failover at least.
    "sentinel": ("redis_executable", ["--sentinel", "--seconds", "21"], "masters killed "),
}


@pytest.mark.long
@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such networks")
@pytest.mark.parametrize("broker", BROKERS)
def test_three_hosts_that_are_cut_off_and_reloaded_lose_nothing(
    broker: str, nginx: str, request: pytest.FixtureRequest
) -> None:
    program_of_broker, options, shown = BROKERS[broker]
    request.getfixturevalue(program_of_broker)
    skip_unless_permitted([*UNSHARE, "bash", "-c", TRY_IT])
    seed = random.SystemRandom().randrange(1_000_000)
    command = [sys.executable, "-m", "tests.long.hosts", "--seed", str(seed), *options]
    command += ["--messages", "1000", "--clients", "12", "--worker-class", "SseWorker"]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = program.communicate()
    finally:
        # If the test is given up, the program still ends its servers.
        program.send_signal(signal.SIGINT)
        program.wait()
    assert program.returncode == 0, said
    assert said.endswith("== every client has every message once and in order\n")
    assert f"\n{shown}" in f"\n{said}"


def message(number: int, id: str) -> bytes:
    return f"id: {id}\ndata: {number} 1.5 ...\n\n".encode()


def test_a_client_that_measures_sees_what_it_lacks_and_what_it_has_twice() -> None:
    client = Client("news")
    head = b"HTTP/1.1 200 OK\r\nX-Worker: 7\r\n\r\n"
    whole = head + message(1, "a") + message(2, "b")
    assert sum(client.feed(whole[at : at + 1], 2.0) for at in range(len(whole))) == 2
    assert (client.worker, client.missing(2), client.doubles) == (7, 0, 0)
    client.feed(message(4, "d") + message(4, "d"), 3.0)
    assert (client.missing(4), client.missing(5), client.doubles) == (1, 2, 1)
    assert client.is_in_order
    client.feed(message(3, "c"), 4.0)
    assert client.missing(4) == 0
    assert not client.is_in_order
    client.feed(b"event: gap\ndata: news\n\n", 5.0)
    assert client.gaps == 1


def test_a_client_that_measures_knows_how_long_it_has_no_stream() -> None:
    here, there = socket.socketpair()
    client = Client("news")
    client.sock = here
    with there:
        client.feed(b"HTTP/1.1 200 OK\r\nX-Worker: 7\r\n\r\nretry: 250\n\n", 2.0)
        assert client.lose(3.0) == 0.25
    # nginx answers while no host does.
    client.sock = here
    client.feed(b"HTTP/1.1 200 OK\r\n\r\nretry: 4000\n\n", 4.0)
    assert client.lose(4.5) == 4.0
    client.feed(b"HTTP/1.1 200 OK\r\nX-Worker: 9\r\n\r\n", 8.5)
    assert client.breaks == [Break(began=3.0, ended=8.5, before=7, after=9)]
