"""A job that a view forks has nothing of what its parent serves."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.servers import ROOT, Client, Server, body_of, wait_until

pytestmark = pytest.mark.server

HOOKED = ("-c", str(ROOT / "tests" / "live" / "reload.conf.py"))

#: Those whose greenlets go on in a child.
GREENLETS = {
    "SseWorker": (),
    "gevent": HOOKED,
    "gevent_pywsgi": HOOKED,
    "pywsgi": (),
}

#: Seconds that a job lives which is not to end before its test.
LONG = 60

Start = Callable[..., Server]


@pytest.fixture(params=[kind for kind in GREENLETS if kind != "gevent_pywsgi"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(serve: Start, kind: str) -> Start:
    def start(**env: str) -> Server:
        return serve(kind, "tests.live.jobs:app", args=GREENLETS[kind], env=env)

    return start


def ask(server: Server, path: str) -> Any:
    client = Client(server.port).get(path, "Connection: close")
    # The end of an ordinary response is not the library's, and a job has a copy of its socket.
    return json.loads(body_of(client.read_until(b"}\n")))


def opened(server: Server, path: str) -> Client:
    client = Client(server.port).get(path)
    client.read_until(b":ok\n\n")
    return client


def numbers(client: Client) -> list[int]:
    return [int(number) for number in re.findall(rb"data: (\d+)\n\n", body_of(client.received))]


def get_more(client: Client, count: int) -> None:
    enough = len(numbers(client)) + count
    while len(numbers(client)) < enough:
        data = client.sock.recv(65536)
        assert data, "it has ended"
        client.received += data


@pytest.mark.parametrize("kind", GREENLETS)
@pytest.mark.parametrize("how", ["/job?seconds=60", "/forked?seconds=60"])
def test_every_event_comes_once_while_it_lives(
    how: str, start: Start, tmp_path: Path, kind: str
) -> None:
    server = start(BROKER=f"sqlite:///{tmp_path}/events.db")
    clients = [
        opened(server, f"/{path}?key={path}{n}")
        for path in ("timer", "pipeline", "channel")
        for n in range(2)
    ]
    for client in clients:
        get_more(client, 1)
    job = psutil.Process(ask(server, how)["pid"])
    for client in clients:
        get_more(client, 25)
    assert job.is_running()
    for client in clients:
        got = numbers(client)
        assert got == list(range(got[0], got[0] + len(got)))
        # Each beat in a chunk of its own, and each chunk as long as it says.
        assert client.received.count(b":ok") == 1


def test_a_departure_is_seen_by_its_parent_alone(start: Start) -> None:
    server = start()
    client = opened(server, "/quiet?key=before")
    job = psutil.Process(ask(server, f"/job?seconds={LONG}")["pid"])
    late = opened(server, "/quiet?key=behind")
    client.fin()
    late.fin()
    for key in ("before", "behind"):
        assert server.wait_for(event="close", key=key)["pid"] == server.worker_pid()
    # Whatever the job had to say of it would have been said by now.
    assert ask(server, "/job?what=write&key=before")["pid"] != job.pid
    server.wait_for(event="wrote")
    assert len(server.events(event="close")) == 2


def test_what_it_writes_to_its_parents_stream_goes_nowhere_and_is_told(start: Start) -> None:
    server = start()
    client = opened(server, "/timer?key=a")
    ask(server, "/job?what=write&key=a")
    told = server.wait_for(event="wrote")
    assert told["wrote"] == [False] * 3
    assert told["destroyed"]
    get_more(client, 10)
    assert b"from a job" not in client.received
    assert server.log().count("writes to a stream of its parent") == 1


def test_a_client_that_is_slow_gets_its_bytes_once(start: Start) -> None:
    server = start()
    client = Client(server.port, receive_buffer=4096).get("/flood?messages=100")
    client.read_until(b":ok\n\n")
    job = psutil.Process(ask(server, f"/job?seconds={LONG}")["pid"])
    while not client.received.endswith(b"\r\n0\r\n\r\n"):
        data = client.sock.recv(65536)
        assert data
        client.received += data
    assert job.is_running()
    body = body_of(client.received)
    assert [int(n) for n in re.findall(rb"data: (\d+) x{60000}\n\n", body)] == list(range(100))


@pytest.mark.parametrize("what", ["wait&seconds=60", "work"])
def test_its_end_by_a_signal_is_its_own(what: str, start: Start) -> None:
    server = start()
    clients = [opened(server, f"/{path}?key={path}") for path in ("quiet", "timer")]
    pid = ask(server, f"/job?what={what}")["pid"]
    assert ask(server, f"/terminate?pid={pid}")["code"] == -signal.SIGTERM
    get_more(clients[1], 20)
    assert not server.events(event="close")
    assert not any(b"retry: " in client.received for client in clients)


def test_no_signal_is_lost_that_comes_while_it_is_forked(start: Start) -> None:
    server = start()
    client = opened(server, "/timer?key=a")
    assert ask(server, "/terminate-at-once")["codes"] == [-signal.SIGTERM] * 20
    get_more(client, 1)


def test_it_ends_by_itself_when_it_is_done(start: Start) -> None:
    server = start()
    client = opened(server, "/timer?key=a")
    # More than gunicorn's workers let pass before they look whether their master is there.
    pid = ask(server, "/job?seconds=2.5")["pid"]
    assert server.wait_for(event="job over")["open"] == 0
    assert ask(server, f"/terminate?pid={pid}")["code"] == 0
    get_more(client, 1)


def test_so_does_one_of_the_plain_fork(start: Start) -> None:
    server = start()
    opened(server, "/timer?key=a")
    pid = ask(server, "/forked?seconds=1.5")["pid"]
    server.wait_for(event="job over", pid=pid)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_it_holds_up_no_end_of_a_stream(version: str, start: Start) -> None:
    server = start()
    client = Client(server.port).get("/quiet?key=a", "Connection: close", version=version)
    client.read_until(b":ok\n\n")
    job = psutil.Process(ask(server, f"/job?seconds={LONG}")["pid"])
    ask(server, "/end?key=a")
    client.read_to_end()
    assert b"data: last" in client.received
    assert job.is_running()


def test_nor_the_end_of_its_worker(start: Start, kind: str) -> None:
    if kind == "pywsgi":
        pytest.skip("it waits for nobody, unless an app tells it to")
    server = start()
    client = opened(server, "/quiet?key=a")
    job = psutil.Process(ask(server, f"/forked?seconds={LONG}")["pid"])
    pid = server.worker_pid()
    os.kill(pid, signal.SIGTERM)
    client.read_to_end()
    assert b"\nretry: " in client.received
    wait_until(lambda: not psutil.pid_exists(pid), "the worker to be gone")
    assert job.is_running()
    # Whoever comes is answered by the worker that took its place, and not left to the job.
    server.wait_for(event="close", key="a")
    opened(server, "/quiet?key=b").fin()
    assert server.wait_for(event="close", key="b")["pid"] != job.pid
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port)).close()
    os.kill(job.pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["gthread", "sync"], indirect=False)
def test_nor_does_one_of_a_threaded_server(kind: str, serve: Start) -> None:
    args = (*HOOKED, "--workers", "2") if kind == "sync" else HOOKED
    server = serve(kind, "tests.live.jobs:app", args=args, env={})
    client = Client(server.port).get("/timer?key=a", version="1.0")
    client.read_until(b"data: 0\n\n")
    job = psutil.Process(ask(server, f"/job?seconds={LONG}")["pid"])
    ask(server, f"/terminate?pid={job.pid}") if kind == "gthread" else job.kill()
    client.read_until(b"data: 30\n\n")
    assert re.findall(rb"data: (\d+)\n\n", client.received)[:31] == [b"%d" % n for n in range(31)]
