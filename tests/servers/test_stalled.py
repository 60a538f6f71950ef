"""Clients that never read cost the others nothing, and what they held is freed."""

import json
import selectors
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.kit.servers import Client, Server, ask, wait_until
from tests.servers.apps.stalled import frames
from tests.servers.test_leaks import COUNTED, inside

pytestmark = pytest.mark.server

#: Clients that read, and as many that never do: usually, and in one row.
CLIENTS, MANY = 150, 300
MESSAGES = 2000
#: So many at once, and milliseconds until the next: what either worker can send to these clients.
BURST = 20
PAUSE_MS = {CLIENTS: 20, MANY: 120}

#: Bytes that the kernel of either side is to keep for one that never reads. The first burst is
#: more, so that the server comes to wait for it before any deadline, on a slow machine as well.
LITTLE = 4096

#: Bytes by which the worker may grow.
ROOM = {CLIENTS: 40 << 20, MANY: 64 << 20}

#: How stalled clients end: by the bound on what waits, or by the deadline.
WAYS: dict[str, dict[str, Any]] = {
    "overflow": {"SSESTREAM_SEND_TIMEOUT": None},
    "stalled": {"SSESTREAM_OVERFLOW": "drop-oldest", "SSESTREAM_SEND_TIMEOUT": 10},
}


def state(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ask(server.port, "/state"))
    return answer


def sent_to(state: dict[str, Any]) -> set[int]:
    """The ports of the clients that the server is sending to, and of those that were cut there."""
    return {*state["in_sendall"], *state["cut_in_sendall"]}


class Readers:
    """Clients that take everything as it comes, and compare it with what was sent."""

    def __init__(self, server: Server, expected: bytes, clients: int) -> None:
        self._expected = memoryview(expected)
        self._selector = selectors.DefaultSelector()
        #: Bytes that each has of what is expected.
        self.have: dict[Client, int] = {}
        for _ in range(clients):
            # HTTP/1.0, so that what comes is the body and not its chunks.
            client = Client(server.port).get("/fan", version="1.0")
            client.read_until(b":ok\n\n")
            self.have[client] = 0
            self._selector.register(client.sock, selectors.EVENT_READ, client)

    def read(self) -> None:
        """What has come, for whom it has."""
        for key, _ in self._selector.select(0.01):
            data = key.data.sock.recv(1 << 18)
            at = self.have[key.data]
            assert data, f"a client that reads was cut after {at} bytes"
            assert data == self._expected[at : at + len(data)]
            self.have[key.data] = at + len(data)

    def have_all(self) -> bool:
        return all(have == len(self._expected) for have in self.have.values())

    def leave(self) -> None:
        self._selector.close()
        for client in self.have:
            client.fin()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "way", "how", "clients"),
    [
        ("SseWorker", "overflow", "write", CLIENTS),
        ("SseWorker", "overflow", "write", MANY),
        pytest.param("SseWorker", "stalled", "push", CLIENTS, marks=pytest.mark.long),
        ("gevent", "stalled", "write", CLIENTS),
        pytest.param("gthread", "overflow", "push", CLIENTS, marks=pytest.mark.long),
    ],
)
def test_clients_that_never_read_cost_the_others_nothing(
    kind: str, way: str, how: str, clients: int, serve: Callable[..., Server]
) -> None:
    server = serve(
        kind,
        "tests.servers.apps.stalled:app",
        threads=2 * clients + 20,
        env={"SETTINGS": json.dumps(WAYS[way])},
    )
    worker = psutil.Process(server.worker_pid())
    # What the first request of a worker makes once is not the clients'.
    at_rest = inside(server)
    began = worker.memory_info().rss
    stalled = [
        Client(server.port, receive_buffer=LITTLE).get(f"/fan?send_buffer={LITTLE}")
        for _ in range(clients)
    ]
    readers = Readers(server, b"".join(frames(MESSAGES)), clients)
    wait_until(lambda: state(server)["open"] == 2 * clients, "all streams")
    with_clients = worker.memory_info().rss

    ask(
        server.port, f"/fan?count={MESSAGES}&burst={BURST}&ms={PAUSE_MS[clients]}&how={how}", "POST"
    )
    ports = {client.sock.getsockname()[1] for client in stalled}
    in_sendall: set[int] = set()
    most = 0
    look_at = 0.0
    deadline = time.monotonic() + 400
    while not readers.have_all():
        assert time.monotonic() < deadline, state(server)
        readers.read()
        most = max(most, worker.memory_info().rss)
        if time.monotonic() > look_at:
            in_sendall |= sent_to(state(server)) & ports
            look_at = time.monotonic() + 0.2
    print(f"{kind}, {way}, {how}: {(with_clients - began) >> 20} MB for the clients themselves,")
    print(f"{(most - began) >> 20} MB at most")
    assert most - began < ROOM[clients]
    # They were cut out of the server's sending, which some may come to after all have read.
    while in_sendall != ports and (now := state(server))["closed"] != {way: clients}:
        in_sendall |= sent_to(now) & ports
    wait_until(lambda: state(server)["closed"] == {way: clients}, "every stalled client's end")
    after = state(server)
    assert in_sendall | (sent_to(after) & ports) == ports
    assert (after["open"], after["in_sendall"]) == (clients, [])

    # The socket of a stream that was cut is closed a moment after its end.
    wait_until(
        lambda: (
            {inside(server)[name] for name in ("SseStream", "Connection", "watched")} == {clients}
        ),
        "nothing to be left of the stalled clients",
    )
    readers.leave()
    for client in stalled:
        client.fin()
    wait_until(lambda: not any(inside(server)[name] for name in COUNTED), "the rest to go")
    # A threaded server keeps its own threads, each with a greenlet to begin with.
    spare = 2 * clients + 20 if kind == "gthread" else 5
    left = inside(server)
    assert left["greenlets"] <= at_rest["greenlets"] + spare
    assert left["descriptors"] <= at_rest["descriptors"] + 5


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_one_for_whom_the_kernel_takes_everything_is_cut_too(
    kind: str, serve: Callable[..., Server]
) -> None:
    settings = {"SSESTREAM_SEND_TIMEOUT": 0.5}
    server = serve(kind, "tests.servers.apps.stalled:app", env={"SETTINGS": json.dumps(settings)})
    client = Client(server.port, receive_buffer=4096).get("/fan")
    wait_until(lambda: state(server)["open"] == 1, "the stream")
    # More than the client's side of the connection holds, less than the server's.
    ask(server.port, "/fan?count=10&burst=10&ms=0", "POST")
    wait_until(lambda: not state(server)["writing"], "the writer")
    wait_until(lambda: not state(server)["waiting"], "all of it to be with the kernel")
    wait_until(lambda: state(server)["closed"] == {"stalled": 1}, "the end")
    client.fin()
