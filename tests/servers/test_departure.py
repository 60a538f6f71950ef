"""A departed client is noticed at once, on real servers, with nothing written."""

import http.client
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kit.promptness import at_best
from tests.kit.servers import MORE_SERVERS, SERVERS, Client, Server, wait_until

pytestmark = pytest.mark.server

#: Seconds within which "close" is promised.
AT_ONCE = 0.1

ROUNDS = 5

_keys = (f"k{number}" for number in itertools.count())

Leave = Callable[[Client], None]


def fin(client: Client) -> None:
    client.fin()


def rst(client: Client) -> None:
    client.rst()


def half_close(client: Client) -> None:
    client.half_close()


#: The ways but one, where all ways were tried in another test.
OTHERS = [pytest.param(each, marks=pytest.mark.long) for each in (rst, half_close)]


@pytest.fixture(
    scope="module",
    params=[*SERVERS, *(pytest.param(kind, marks=pytest.mark.long) for kind in MORE_SERVERS)],
)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    need: Callable[[str], None],
) -> Any:
    need(request.param)
    release = tmp_path_factory.mktemp("release")
    server = Server(request.param, "tests.servers.apps.app:app", env={"RELEASE_DIR": str(release)})
    with_server = server.start()
    yield with_server
    server.stop()


def get_json(server: Server, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers={"Connection": "close"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def request_for(key: str) -> bytes:
    return f"GET /quiet?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def opened(server: Server, behind_at: str | None, mark: bytes) -> tuple[Client, str, str]:
    """A client of a stream, when *mark* has come, and the keys of the stream and of a second one.

    The second stream is asked for on the same connection *behind_at* "once" or "later". Sent
    together, the server has read both requests. Sent later, the second one waits in the socket, in
    front of the FIN.
    """
    key, behind = next(_keys), next(_keys)
    client = Client(server.port)
    first, second = request_for(key), request_for(behind)
    client.sock.sendall(first + second if behind_at == "once" else first)
    client.read_until(mark)
    if behind_at == "later":
        client.sock.sendall(second)
    return client, key, behind


def median_of(departure: Callable[[], float]) -> float:
    """The seconds of most of some rounds, as a single round may be quick by chance."""
    return statistics.median(departure() for _ in range(ROUNDS))


def departs(server: Server, leave: Leave, behind_at: str | None = None) -> None:
    """Open a stream, leave it, and see what the server makes of that; some rounds of it."""
    clients = []

    def departure() -> float:
        client, key, behind = opened(server, behind_at, b":ok\n\n")
        left = time.monotonic()
        leave(client)
        closed: float = server.wait_for(event="close", key=key)["at"]
        server.wait_for(event="stream close", key=key)
        server.wait_for(event="unpipe", key=key)
        clients.append((client, key, behind))
        return closed - left

    at_best(lambda: median_of(departure), AT_ONCE)
    for client, key, behind in clients:
        assert len(server.events(event="close", key=key)) == 1
        assert len(server.events(event="unpipe", key=key)) == 1
        assert not server.events(event="finish", key=key)
        assert not server.events(event="open", key=behind), "served to somebody who had left"
        client.fin()
    timers_are_dead(server, [key for _, key, _ in clients])


def timers_are_dead(server: Server, keys: list[str]) -> None:
    """The timers that "close" cleared do not fire while another one does."""
    before = get_json(server, "/ticks")
    wait_until(
        lambda: get_json(server, "/ticks").get("pulse", 0) >= before.get("pulse", 0) + 5,
        "a timer that is alive",
    )
    after = get_json(server, "/ticks")
    for key in keys:
        assert after.get(key, 0) == server.events(event="close", key=key)[0]["ticks"]


@pytest.mark.parametrize("leave", [fin, rst, half_close])
def test_a_departed_client_is_noticed_at_once(server: Server, leave: Leave) -> None:
    departs(server, leave)


@pytest.mark.parametrize("behind_at", ["once", "later"])
@pytest.mark.parametrize("leave", [fin, *OTHERS])
def test_so_is_one_with_a_pipelined_request_behind(
    server: Server, leave: Leave, behind_at: str
) -> None:
    departs(server, leave, behind_at)


@pytest.mark.parametrize("leave", [fin, *OTHERS])
def test_so_is_one_that_leaves_before_the_first_byte(server: Any, leave: Leave) -> None:
    keys = []

    def departure() -> float:
        key = next(_keys)
        keys.append(key)
        client = Client(server.port).get(f"/late?key={key}")
        server.wait_for(event="in view", key=key)
        leave(client)
        (Path(server.env["RELEASE_DIR"]) / key).touch()
        opened: float = server.wait_for(event="open", key=key)["at"]
        closed: float = server.wait_for(event="close", key=key)["at"]
        server.wait_for(event="stream close", key=key)
        client.fin()
        return closed - opened

    at_best(departure, AT_ONCE)
    timers_are_dead(server, keys)
    assert all(len(server.events(event="close", key=key)) == 1 for key in keys)


@pytest.mark.parametrize("leave", [fin, rst, half_close])
def test_so_is_one_of_an_iterated_stream(server: Server, leave: Leave) -> None:
    key = next(_keys)
    client = Client(server.port).get(f"/iterated?key={key}")
    client.read_until(b"data: first\n\n")
    leave(client)
    server.wait_for(event="close", key=key)
    client.fin()


def test_a_half_closed_client_sees_the_end(server: Server) -> None:
    key = next(_keys)
    client = Client(server.port).get(f"/quiet?key={key}")
    client.read_until(b":ok\n\n")
    client.half_close()
    client.read_to_end()
    assert b"HTTP/1.1 200 OK" in client.received


@pytest.mark.long
@pytest.mark.parametrize("behind_at", ["once", "later"])
def test_a_client_that_stays_is_never_cut_by_mistake(server: Server, behind_at: str) -> None:
    """A pipelined request behind an open stream is no close and does not spin the CPU."""
    key, behind = next(_keys), next(_keys)
    client = Client(server.port)
    first = f"GET /ticking?key={key}&ms=50&count=30 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    second = f"GET /ended?key={behind} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    client.sock.sendall(first + second.encode() if behind_at == "once" else first)
    client.read_until(b"id: 2\n")
    if behind_at == "later":
        client.sock.sendall(second.encode())
    client.read_until(b"id: 5\n")
    process = psutil.Process(server.worker_pid())
    times = process.cpu_times()
    busy, began = times.user + times.system, time.monotonic()
    client.read_until(b"id: 25\n")
    times = process.cpu_times()
    share = (times.user + times.system - busy) / (time.monotonic() - began)
    assert share < 0.5, f"{share:.0%} of a core for a stream of 20 messages a second"
    client.read_until(b"id: 30\n")
    server.wait_for(event="finish", key=key)
    server.wait_for(event="close", key=key)
    client.fin()


@pytest.mark.long_except("fin")
@pytest.mark.parametrize("leave", [fin, rst, half_close])
def test_tls_hides_no_departure(
    serve: Callable[..., Server], certificate: tuple[str, str], leave: Leave
) -> None:
    args = ("--certfile", certificate[0], "--keyfile", certificate[1])
    server = serve("gevent", "tests.servers.apps.app:app", args=args)

    def departure() -> float:
        key = next(_keys)
        client = Client(server.port, tls=True).get(f"/quiet?key={key}")
        client.read_until(b":ok\n\n")
        left = time.monotonic()
        leave(client)
        closed: float = server.wait_for(event="close", key=key)["at"]
        client.fin()
        return closed - left

    at_best(lambda: median_of(departure), AT_ONCE)


def test_waitress_that_reads_on_and_may_close_the_socket_first_hides_none(
    serve: Callable[..., Server],
) -> None:
    args = ("--channel-request-lookahead=1",)
    departs(serve("waitress", "tests.servers.apps.app:app", args=args), fin)
