"""Async sources and handlers on real servers, with the real clients of ``openai`` and ``httpx``."""

import itertools
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.model import Model
from tests.kit.promptness import at_best
from tests.kit.servers import UWSGI, Client, Server, body_of, wait_until

pytestmark = pytest.mark.server

#: Streams end with their worker, and gevent patches before --preload imports the app.
EARLY = ("-c", "tests/servers/apps/early.conf.py")

KINDS = ["gevent", "SseWorker", "gthread", "flask"]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model() as model:
        yield model


def start(kind: str, model: Model, *args: str) -> Server:
    args = (*args, "--no-reload") if kind == "flask" else args
    env = {"MODEL_URL": model.url, "KIND": kind, "PATCH": "" if kind == "gthread" else "1"}
    return Server(kind, "tests.servers.apps.models:app", args=args, env=env).start()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("gevent", marks=pytest.mark.long),
        "SseWorker",
        "gthread",
        pytest.param("flask", marks=pytest.mark.long),
    ],
)
def server(request: pytest.FixtureRequest, model: Model) -> Iterator[Server]:
    server = start(request.param, model)
    yield server
    server.stop()


def state(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/state", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.long_except("SseWorker-openai-handler")
@pytest.mark.parametrize("shape", ["pipeline", "handler"])
@pytest.mark.parametrize("client", ["openai", "httpx"])
def test_an_answer_arrives_whole(server: Server, model: Model, shape: str, client: str) -> None:
    reader = Client(server.port).get(f"/{shape}/{client}/10/whole")
    reader.read_until(b"[DONE]" if client == "httpx" else b"data: piece9 ")
    body = body_of(reader.received).decode()
    places = [body.index(f"piece{number} ") for number in range(10)]
    assert places == sorted(places)
    reader.fin()
    wait_until(lambda: not model.connected, "the model's client to leave")


@pytest.mark.parametrize("shape", ["pipeline", "handler"])
@pytest.mark.parametrize("client", ["openai", "httpx"])
def test_a_departure_ends_the_answer_at_the_model(
    server: Server, model: Model, shape: str, client: str
) -> None:
    numbers = itertools.count()

    def departure() -> float:
        who = f"{shape}-{client}-{next(numbers)}"
        reader = Client(server.port).get(f"/{shape}/{client}/-1/{who}")
        reader.read_until(b"piece3 ")
        assert model.connected == 1
        left = time.monotonic()
        reader.fin()
        ended: float = server.wait_for(event="ended", who=who)["at"]
        wait_until(lambda: not model.connected, "the model's client to leave")
        return ended - left

    at_best(departure, 0.1)


@pytest.mark.long
@pytest.mark.usefixtures("uwsgi")
@pytest.mark.parametrize("shape", ["pipeline", "handler"])
@pytest.mark.parametrize("kind", ["gevent_pywsgi", "pywsgi", "waitress", *UWSGI])
def test_so_does_one_on_the_other_servers(kind: str, shape: str, model: Model) -> None:
    # If gevent patches after openai and trio are there, it hangs from Python 3.13 on.
    server = start(kind, model, *["--gevent-early-monkey-patch"] * (kind == "uwsgi-gevent"))
    try:
        for client in ("openai", "httpx"):
            reader = Client(server.port).get(f"/{shape}/{client}/-1/{client}")
            reader.read_until(b"piece3 ")
            reader.fin()
            server.wait_for(event="ended", who=client)
            wait_until(lambda: not model.connected, "the model's client to leave")
    finally:
        server.stop()


def test_a_departure_ends_an_await_that_nothing_else_would_end(server: Server) -> None:
    numbers = itertools.count()

    def departure() -> float:
        who = f"stuck-{next(numbers)}"
        reader = Client(server.port).get(f"/stuck/{who}")
        reader.read_until(b"\r\n\r\n")
        left = time.monotonic()
        reader.fin()
        ended: float = server.wait_for(event="ended", who=who)["at"]
        return ended - left

    at_best(departure, 0.1)


@pytest.mark.long_except("SseWorker")
def test_many_answers_run_side_by_side_and_leave_nothing(server: Server, model: Model) -> None:
    def read(count: int, name: str) -> None:
        paths = [f"/pipeline/openai/-1/{name}-{number}" for number in range(count)]
        readers = [Client(server.port).get(path) for path in paths]
        for reader in readers:
            reader.read_until(b"piece2 ")
        assert model.connected == count
        for reader in readers:
            reader.fin()
        for number in range(count):
            server.wait_for(event="ended", who=f"{name}-{number}")
        wait_until(lambda: not model.connected, "the model's clients to leave")

    read(8, "first")
    before = state(server)
    for turn in range(2):
        read(8, f"turn-{turn}")
    wait_until(
        lambda: state(server)["descriptors"] <= before["descriptors"], "descriptors to be closed"
    )
    assert state(server)["threads"] <= before["threads"] + 8


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_worker_that_stops_ends_its_answers_and_its_loop(kind: str, model: Model) -> None:
    server = start(kind, model, *EARLY)
    try:
        reader = Client(server.port).get("/pipeline/openai/-1/stops")
        reader.read_until(b"piece2 ")
        pid = state(server)["pid"]
        os.kill(pid, signal.SIGTERM)
        server.wait_for(event="ended", who="stops")
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker to end")
        wait_until(lambda: not model.connected, "the model's client to leave")
    finally:
        server.stop()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_each_worker_has_its_own_loop_under_preload(kind: str, model: Model) -> None:
    server = start(kind, model, *EARLY, "--preload", "-w", "2")
    try:
        for number in range(6):
            reader = Client(server.port).get(f"/handler/openai/3/preload-{number}")
            reader.read_until(b"piece2 ")
            server.wait_for(event="ended", who=f"preload-{number}")
            reader.fin()
    finally:
        server.stop()


def test_a_sync_worker_runs_it_too(model: Model) -> None:
    server = start("sync", model)
    try:
        reader = Client(server.port).get("/handler/httpx/-1/sync")
        reader.read_until(b"piece3 ")
        reader.fin()
        server.wait_for(event="ended", who="sync")
        wait_until(lambda: not model.connected, "the model's client to leave")
    finally:
        server.stop()
