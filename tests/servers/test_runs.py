"""Runs in several workers: one produces, and any of them streams, stops and notices an end."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.kit.promptness import at_best
from tests.kit.redis_server import RedisServer
from tests.kit.servers import Client, Server, ask_json, body_of, wait_until

pytestmark = pytest.mark.server

Serve = Callable[..., Server]

CONF = ("-c", "tests/servers/apps/reload.conf.py")

#: Events that a run has if it is to go on until the end of its test.
ENDLESS = 100_000


@pytest.fixture(
    params=[
        pytest.param("gevent", marks=pytest.mark.long),
        "SseWorker",
        pytest.param("gthread", marks=pytest.mark.long),
    ]
)
def server(request: pytest.FixtureRequest, serve: Serve, sqlite_url: str) -> Server:
    return served(str(request.param), serve, sqlite_url)


@pytest.fixture(
    params=[
        pytest.param(("gevent", "sqlite"), marks=pytest.mark.long),
        ("SseWorker", "sqlite"),
        pytest.param(("gthread", "sqlite"), marks=pytest.mark.long),
        pytest.param(("gevent", "redis"), marks=pytest.mark.long),
        pytest.param(("SseWorker", "redis"), marks=pytest.mark.long),
    ],
    ids=" with ".join,
)
def any_broker(request: pytest.FixtureRequest, serve: Serve) -> Server:
    kind, broker = request.param
    return served(kind, serve, request.getfixturevalue(f"{broker}_url"))


def served(
    kind: str, serve: Serve, broker: str, *args: str, conf: tuple[str, ...] = CONF
) -> Server:
    return serve(
        kind,
        "tests.servers.apps.runs:app",
        env={"BROKER": broker},
        args=(*conf, "--workers", "2", *args),
    )


def started(
    server: Server, count: int = ENDLESS, pace: float = 0.02, id: str = "answer", **query: str
) -> int:
    """Start the run *id*. Returns the worker that produces it."""
    more = "".join(f"&{name}={value}" for name, value in query.items())
    return int(ask_json(server, f"/start/{id}?count={count}&pace={pace}{more}")["pid"])


def watching(server: Server, other_than: int | None = None, id: str = "answer") -> Client:
    """A client of the run *id*, in another worker than *other_than* if it is not None."""
    while True:
        client = Client(server.port).get(f"/runs/{id}", version="1.0")
        client.read_until(b":ok\n\n")
        if other_than is None or other_than not in workers_of(server, client):
            return client
        client.fin()


def workers_of(server: Server, client: Client) -> list[int]:
    """The workers that have the connection of *client*."""
    mine = client.sock.getsockname()[1]
    assert server.process is not None
    return [
        worker.pid
        for worker in psutil.Process(server.process.pid).children()
        for each in worker.net_connections("tcp")
        if each.raddr and each.raddr.port == mine
    ]


def status_of(server: Server, id: str = "answer") -> Any:
    for _ in range(20):
        # The gthread worker of gunicorn 23 drops what it has accepted when it stops.
        with contextlib.suppress(ConnectionResetError):
            return ask_json(server, f"/status/{id}")["status"]
    raise AssertionError("no answer")


def test_who_watches_in_another_worker_gets_all_of_it(any_broker: Server) -> None:
    server = any_broker
    pid = started(server, count=40)
    client = watching(server, other_than=pid)
    body = body_of(client.read_to_end())
    assert [body.count(b"data: %d\n" % n) for n in range(40)] == [1] * 40
    assert body.count(b"event: done\n") == 1
    assert status_of(server) == "done"


@pytest.mark.long
def test_a_killed_worker_is_told_within_5_s(any_broker: Server) -> None:
    server = any_broker
    numbers = itertools.count()

    def death() -> float:
        id = f"answer{next(numbers)}"
        pid = started(server, id=id)
        client = watching(server, other_than=pid, id=id)
        client.read_until(b"data: 3\n")
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        client.read_until(b"event: lost\n")
        told = time.monotonic()
        assert client.read_to_end().count(b"event: lost\n") == 1
        assert status_of(server, id) == "lost"
        return told - killed

    at_best(death, 5)


def test_any_worker_stops_a_run_and_its_source_is_closed_at_once(any_broker: Server) -> None:
    server = any_broker
    numbers = itertools.count()

    def stop() -> float:
        id = f"answer{next(numbers)}"
        started(server, id=id)
        client = watching(server, id=id)
        client.read_until(b"data: 3\n")
        began = time.monotonic()
        assert ask_json(server, f"/stop/{id}")["stopped"]
        closed: float = server.wait_for(closed=id)["at"]
        assert b"event: stopped\n" in client.read_to_end()
        assert not ask_json(server, f"/stop/{id}")["stopped"]
        return closed - began

    # Another process needs 0.5 s at most, if it does not hear of it.
    at_best(stop, 3)


@pytest.mark.long
def test_a_run_that_nobody_watches_any_more_is_cancelled(server: Server) -> None:
    pid = started(server, on_disconnect="cancel")
    client = watching(server, other_than=pid)
    # It goes on while somebody watches in another worker.
    client.read_until(b"data: 100\n")
    client.fin()
    wait_until(lambda: bool(server.events(closed="answer")), "the source to be closed")
    assert status_of(server) == "stopped"


@pytest.mark.long
def test_a_watcher_that_vanishes_watches_no_more_and_holds_up_nobody(server: Server) -> None:
    started(server, on_disconnect="cancel")
    vanished, other = watching(server), watching(server)
    vanished.read_until(b"data: 3\n")
    vanished.vanish()
    # The run goes on for the other one, past the time in which the first one is given up.
    body = other.read_until(b"data: 300\n")
    assert b"event: stopped" not in body
    other.vanish()
    wait_until(lambda: bool(server.events(closed="answer")), "the source to be closed")
    assert status_of(server) == "stopped"


@pytest.mark.long
@pytest.mark.parametrize("source", ["plain", "async", "threads"])
@pytest.mark.parametrize("kind", ["gevent", "SseWorker", "gthread"])
def test_a_worker_that_stops_lets_its_runs_end(
    kind: str, source: str, serve: Serve, sqlite_url: str
) -> None:
    server = served(kind, serve, sqlite_url)
    started(server, count=150, source=source)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: status_of(server) != "running", "the run to end")
    assert status_of(server) == "done"


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "source", "hook"),
    [
        ("SseWorker", "async", True),
        ("gevent", "plain", False),
        pytest.param("gthread", "async", False, marks=pytest.mark.long),
        pytest.param("gthread", "plain", True, marks=pytest.mark.long),
        pytest.param("gevent_pywsgi", "plain", False, marks=pytest.mark.long),
        pytest.param("gevent_pywsgi", "async", True, marks=pytest.mark.long),
        pytest.param("sync", "plain", False, marks=pytest.mark.long),
    ],
)
def test_a_worker_that_stops_has_its_grace_however_short_its_timeout_is(
    kind: str, source: str, hook: bool, serve: Serve, sqlite_url: str
) -> None:
    # Without the hook, nothing but its run tells the package of the worker.
    timeout = ("--timeout", "2")
    server = served(kind, serve, sqlite_url, *timeout, conf=CONF if hook else ())
    pid = started(server, count=300, source=source)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: status_of(server) != "running", "the run to end")
    assert status_of(server) == "done"
    assert "WORKER TIMEOUT" not in server.log()
    wait_until(lambda: not psutil.pid_exists(pid), "the worker to end")


@pytest.mark.long_except("SseWorker-async")
@pytest.mark.parametrize("source", ["plain", "async"])
@pytest.mark.parametrize(
    "kind",
    [
        "SseWorker",
        "gevent",
        pytest.param("gthread", marks=pytest.mark.long),
        pytest.param("gevent_pywsgi", marks=pytest.mark.long),
    ],
)
def test_a_worker_that_ends_at_once_waits_for_no_run(
    kind: str, source: str, serve: Serve, sqlite_url: str
) -> None:
    server = served(kind, serve, sqlite_url, "--graceful-timeout", "60")
    pid = started(server, source=source)
    os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: not psutil.pid_exists(pid), "the worker to end", 20)
    assert status_of(server) == "lost"


@pytest.mark.long
def test_a_worker_that_ends_does_not_ask_a_silent_redis_for_each_run(
    serve: Serve, redis_server: RedisServer
) -> None:
    server = serve(
        "SseWorker", "tests.servers.apps.runs:app", env={"BROKER": redis_server.url}, args=CONF
    )
    for number in range(20):
        pid = started(server, pace=1.0, id=f"run{number}")

    def ends() -> float:
        redis_server.freeze()
        began = time.monotonic()
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not psutil.pid_exists(pid), "the worker to end")
        return time.monotonic() - began

    assert ends() < 20
    assert "other runs were not ended either" in server.log()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gevent", "SseWorker", "gthread"])
def test_who_has_started_a_run_by_a_post_gets_all_of_it_through_a_reload(
    kind: str, serve: Serve, sqlite_url: str
) -> None:
    server = served(kind, serve, sqlite_url)
    client = Client(server.port).get("/chat/answer?count=150&pace=0.02", method="POST")
    client.read_until(b"data: 3\n")
    browser = watching(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    # A stream of a GET ends, and comes back.
    assert b"event: done\n" not in browser.read_to_end()
    body = body_of(client.read_until(b"event: done\n"))
    assert [body.count(b"data: %d\n" % n) for n in range(150)] == [1] * 150
    assert client.read_to_end().endswith(b"\r\n0\r\n\r\n")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gevent", "SseWorker", "gthread"])
def test_a_run_that_is_longer_than_the_grace_of_its_worker_is_lost(
    kind: str, serve: Serve, sqlite_url: str
) -> None:
    server = served(kind, serve, sqlite_url, "--graceful-timeout", "4")
    pid = started(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: status_of(server) == "lost", "the run to be lost")
    wait_until(lambda: not psutil.pid_exists(pid), "the worker to end")
