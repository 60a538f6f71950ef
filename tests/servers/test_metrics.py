"""The numbers of all workers of a server, from whichever worker is asked."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.servers import Client, Server, ask, wait_until

pytestmark = pytest.mark.server

STREAMS = 12


@pytest.fixture(params=["SseWorker", "gthread"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(
        request.param,
        "tests.servers.apps.metrics:app",
        env={"NUMBERS": str(tmp_path / "numbers")},
        args=("-w", "2"),
    )
    yield server.start()
    server.stop()


def numbers(server: Server) -> dict[str, float]:
    """The sum of the samples of each number that Prometheus would get."""
    text = ask(server.port, "/metrics").decode()
    return {
        family.name.removeprefix("ssestream_"): sum(each.value for each in family.samples)
        for family in text_string_to_metric_families(text)
    }


def test_every_worker_tells_of_all_and_no_counter_falls(server: Server) -> None:
    clients = [Client(server.port).get(f"/quiet?key=m{number}") for number in range(STREAMS)]
    for client in clients:
        client.read_until(b":ok\n\n")
    wait_until(lambda: numbers(server)["open_streams"] == STREAMS, "the streams of all workers")
    assert numbers(server)["opened_streams"] == STREAMS
    for client in clients[:4]:
        client.fin()
    wait_until(lambda: numbers(server)["closed_streams"] == 4, "the departures")

    # A worker that is killed: its streams are open no more, and stay counted.
    assert server.process is not None
    workers = psutil.Process(server.process.pid).children()
    os.kill(workers[0].pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(workers[0].pid), "the end of the worker")
    assert numbers(server)["opened_streams"] >= STREAMS
    assert numbers(server)["closed_streams"] >= 4

    # A reload: all workers are new.
    server.process.send_signal(signal.SIGHUP)
    for client in clients[4:]:
        client.fin()
    wait_until(lambda: numbers(server)["open_streams"] == 0, "the end of all")
    assert numbers(server)["opened_streams"] >= STREAMS
    assert numbers(server)["closed_streams"] >= 4
