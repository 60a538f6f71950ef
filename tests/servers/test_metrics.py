"""The numbers of all workers of a server, from whichever worker is asked."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.kit.servers import PATIENCE, Client, Server, ask, wait_until

pytestmark = pytest.mark.server

STREAMS = 12


@pytest.fixture(params=["SseWorker", "gthread"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(
        request.param,
        "tests.servers.apps.metrics:app",
        env={
            "NUMBERS": str(tmp_path / "numbers"),
            "EVENTS": f"sqlite:///{tmp_path}/events.db",
        },
        args=("-w", "2", "-c", "python:ssestream.gunicorn"),
    )
    yield server.start()
    server.stop()


def samples(server: Server) -> list[Sample]:
    text = ask(server.port, "/metrics").decode()
    return [each for family in text_string_to_metric_families(text) for each in family.samples]


def numbers(server: Server) -> dict[str, float]:
    """The sum of the samples of each number that Prometheus would get."""
    sums: Counter[str] = Counter()
    for each in samples(server):
        sums[each.name.removeprefix("ssestream_").removesuffix("_total")] += each.value
    return sums


@pytest.mark.long_except("gthread")
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
    old = psutil.Process(server.process.pid).children()
    server.process.send_signal(signal.SIGHUP)
    for client in clients[4:]:
        client.fin()
    # A worker that stops may reset a connection that it has accepted last.
    wait_until(lambda: not any(psutil.pid_exists(each.pid) for each in old), "their end")
    wait_until(lambda: numbers(server)["open_streams"] == 0, "the end of all")
    assert numbers(server)["opened_streams"] >= STREAMS
    assert numbers(server)["closed_streams"] >= 4


@pytest.mark.long
def test_a_reload_tells_how_long_workers_took_to_end_their_streams(server: Server) -> None:
    clients = [Client(server.port).get(f"/quiet?key=d{number}") for number in range(STREAMS)]
    for client in clients:
        client.read_until(b":ok\n\n")
    assert numbers(server)["drain_seconds_count"] == 0
    assert server.process is not None
    workers = {each.pid for each in psutil.Process(server.process.pid).children()}
    server.process.send_signal(signal.SIGHUP)
    for client in clients:
        client.read_until(b"0\r\n\r\n")
        client.fin()
    wait_until(lambda: not any(map(psutil.pid_exists, workers)), "the end of the old workers")
    # A worker that has had no request tells nothing.
    assert 1 <= numbers(server)["drain_seconds_count"] <= 2
    # Not before the last of the streams had its end.
    assert 0 < numbers(server)["drain_seconds_sum"] < 2 * PATIENCE


@pytest.mark.long_except("SseWorker")
def test_what_streams_get_is_counted_in_all_workers_and_when_they_have_left(
    server: Server,
) -> None:
    for _ in range(2):
        clients = [Client(server.port).get("/follow") for _ in range(STREAMS)]
        for client in clients:
            client.read_until(b":ok\n\n")
        wait_until(lambda: numbers(server)["channel_followers"] == STREAMS, "all to follow")
        ask(server.port, "/publish")
        for client in clients:
            client.read_until(b"data: hello")
            client.fin()
        wait_until(lambda: numbers(server)["channel_followers"] == 0, "all to leave")
    # Another worker may have told of them only up to five seconds ago.
    wait_until(lambda: numbers(server)["delivered_events"] == 2 * STREAMS, "all events")
    wait_until(lambda: numbers(server)["publish_seconds_count"] == 2, "both messages")
    states = {
        each.labels["state"]: each.value
        for each in samples(server)
        if each.name == "ssestream_broker_states"
    }
    assert states["down"] == 0
    # A worker that has had no request tells nothing.
    assert 1 <= sum(states.values()) <= 2
