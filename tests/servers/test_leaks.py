"""After the clients have gone nothing of theirs remains."""

import http.client
import json
import random
from typing import Any

import pytest

from tests.kit.servers import UWSGI, Client, Server, wait_until

pytestmark = pytest.mark.server

#: Connections in one go. Each way of leaving comes in turn.
BATCH = 1200
AT_A_TIME = 40

#: The servers of a thread for each stream.
THREADED = ("gthread", "waitress", "uwsgi-threads")

COUNTED = (
    "SseStream",
    "ServerResponse",
    "Connection",
    "timers",
    "watched",
    "looked_after",
)


def inside(server: Server) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/inside", headers={"Connection": "close"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def come_and_go(server: Server, count: int, prefix: str) -> None:
    """*count* connections, opened and dropped in every way."""
    ways = random.Random(2)
    pending: list[tuple[str, Client]] = []
    for number in range(count):
        key = f"{prefix}{number}"
        path = ("/quiet", "/ticking", "/firehose", "/iterated", "/ended")[number % 5]
        client = Client(server.port)
        request = f"GET {path}?key={key}&ms=5 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client.sock.sendall((request * ways.choice((1, 2))).encode())
        pending.append((path, client))
        if len(pending) == AT_A_TIME or number == count - 1:
            ways.shuffle(pending)
            for path, client in pending:
                # Some leave before the first byte, some in the middle of a write.
                if ways.random() < 0.7:
                    client.read_until(b"last" if path == "/ended" else b":ok\n\n")
                leave = ways.choice((client.fin, client.rst, client.half_close))
                leave()
                if leave == client.half_close:
                    wait_until(lambda client=client: drained(client), "the end after a half-close")
                    client.fin()
            pending.clear()


def drained(client: Client) -> bool:
    try:
        return not client.sock.recv(1 << 16)
    except ConnectionResetError:
        return True


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind",
    [
        "SseWorker",
        pytest.param("gevent", marks=pytest.mark.long),
        "gthread",
        pytest.param("pywsgi", marks=pytest.mark.long),
        pytest.param("waitress", marks=pytest.mark.long),
        *(pytest.param(kind, marks=pytest.mark.long) for kind in UWSGI),
    ],
)
def test_nothing_is_left_of_thousands_of_clients(kind: str, request: pytest.FixtureRequest) -> None:
    if kind in UWSGI:
        request.getfixturevalue("uwsgi")
    # waitress takes up to 16 MiB for a client that does not read. By default, each of its threads
    # keeps some of this for itself.
    env = {"MALLOC_ARENA_MAX": "1"} if kind == "waitress" else {}
    server = Server(kind, "tests.servers.apps.app:app", threads=AT_A_TIME * 3, env=env).start()
    try:
        come_and_go(server, 200, "warm")  # what is made once is made now
        before = settled(server)
        come_and_go(server, BATCH, "a")
        after = settled(server)
        # On a busy machine more of waitress's clients wait at once in a later batch. What leaks
        # would show in each batch.
        for batch in range(4 if kind == "waitress" else 1):
            middle = after
            come_and_go(server, BATCH, f"b{batch}")
            after = settled(server)
            if after["resident"] - middle["resident"] < 1000 * BATCH:
                break
    finally:
        server.stop()
    for name in COUNTED:
        assert (before[name], middle[name], after[name]) == (0, 0, 0), name
    # A threaded server keeps its own threads for the next request, each with
    # the greenlet that every thread begins with.
    spare = AT_A_TIME * 3 if kind in THREADED else 0
    assert after["greenlets"] <= before["greenlets"] + spare
    assert after["descriptors"] <= before["descriptors"] + 2
    assert after["threads"] <= before["threads"] + spare
    # Levelled off: what so many more cost would be 1 KB each if each left 1 KB.
    print(f"{kind}: {after['resident'] - middle['resident']:,} bytes more")
    assert after["resident"] - middle["resident"] < 1000 * BATCH


def settled(server: Server) -> dict[str, Any]:
    """What is alive once all the counts have come to rest."""

    def at_rest() -> dict[str, Any] | None:
        now = inside(server)
        return now if not any(now[name] for name in COUNTED) else None

    try:
        result: dict[str, Any] = wait_until(at_rest, "everything to be released")
    except AssertionError:
        return inside(server)
    return result
