"""The watchers of a channel in several workers, and a worker that is killed with its streams."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from ssestream import Channels
from ssestream.channels.watchers import LEASE
from tests.kit.promptness import at_best
from tests.kit.servers import Client, Server, wait_until
from tests.kit.states import end_all_of

pytestmark = pytest.mark.server


@pytest.fixture
def channels(shared_url: str) -> Iterator[Channels]:
    channels = Channels(shared_url)
    yield channels
    end_all_of(channels)


def worker_of(server: Server, client: Client) -> int:
    """The worker that has the connection of *client*."""
    mine = client.sock.getsockname()[1]
    assert server.process is not None
    (pid,) = [
        worker.pid
        for worker in psutil.Process(server.process.pid).children()
        for each in worker.net_connections("tcp")
        if each.raddr and each.raddr.port == mine
    ]
    return pid


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SseWorker", pytest.param("gthread", marks=pytest.mark.long)])
def test_the_streams_of_a_killed_worker_count_out(
    kind: str, serve: Callable[..., Server], channels: Channels, shared_url: str
) -> None:
    server = serve(
        kind,
        "tests.servers.apps.watched:app",
        env={"BROKER": shared_url},
        args=("-c", "tests/servers/apps/reload.conf.py", "--workers", "2"),
    )
    room = channels.channel("room")
    called: list[Any] = []
    room.on_empty(called.append, grace=2)
    clients: dict[int, list[Client]] = {}

    def death() -> float:
        while len(clients) < 2:
            client = Client(server.port).get("/room", version="1.0")
            client.read_until(b":ok\n\n")
            clients.setdefault(worker_of(server, client), []).append(client)
        total = sum(map(len, clients.values()))
        wait_until(lambda: room.watchers() == total, "all to be counted")
        killed, left = clients.popitem()
        os.kill(killed, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: room.watchers() == total - len(left), "the killed worker to count out")
        return time.monotonic() - began

    # Its last report is at most as old as the lease.
    at_best(death, LEASE + 4)
    assert called == []
    (pid,) = clients
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: called == ["room"], "the call")
    assert room.watchers() == 0
    room.off_empty(called.append)
