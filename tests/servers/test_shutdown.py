"""Streams end when their worker is told to stop, and the worker is gone soon after."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from gunicorn.config import make_settings

import ssestream
import ssestream.gunicorn
from tests.kit.promptness import at_best
from tests.kit.servers import ROOT, Client, Server, body_of, wait_until

pytestmark = pytest.mark.server

#: Seconds within which a worker is gone: two are promised, and a busy machine has some more.
SOON = 8.0

#: Seconds within which a worker is gone on a machine that stands still meanwhile: far less than
#: the time that gunicorn here gives a worker which waits.
IN_TIME = 60.0

#: The most streams of a worker in a test.
MOST = 2_000

GRACEFUL = ("--graceful-timeout", "200")

HOOKED = ("-c", str(ROOT / "tests" / "servers" / "apps" / "reload.conf.py"))

WORKERS = {
    "SseWorker": ("ssestream.gunicorn.SseWorker", GRACEFUL),
    "gevent": ("gevent", (*HOOKED, *GRACEFUL)),
    "gevent_pywsgi": ("gevent_pywsgi", (*HOOKED, *GRACEFUL)),
    "gthread": ("gthread", (*HOOKED, *GRACEFUL)),
    "sync": ("sync", (*HOOKED, *GRACEFUL)),
}

#: Of all workers, where they nearly do the same.
FEW_WORKERS = [
    pytest.param(kind, marks=[pytest.mark.long] if kind in ("gevent_pywsgi", "sync") else [])
    for kind in WORKERS
]


def streams(server: Server, count: int, prefix: str = "s") -> list[Client]:
    clients = [Client(server.port).get(f"/quiet?key={prefix}{n}") for n in range(count)]
    for client in clients:
        client.read_until(b":ok\n\n")
    return clients


def ended_cleanly(server: Server, clients: list[Client], prefix: str = "s") -> list[int]:
    """Every client was told when to come back, and got the last chunk. Their pauses."""
    pauses = []
    for client in clients:
        # Behind the last chunk the client holds its side open: that must not
        # keep the worker.
        client.read_until(b"0\r\n\r\n")
        told = re.search(rb"\nretry: (\d+)\n\n$", body_of(client.received))
        assert told, client.received
        pauses.append(int(told[1]))
    expected = sorted(f"{prefix}{number}" for number in range(len(clients)))

    def keys(event: str) -> list[str]:
        told = [each["key"] for each in server.events(event=event)]
        return sorted(key for key in told if re.fullmatch(rf"{prefix}\d+", key))

    wait_until(lambda: len(keys("close")) >= len(clients), "every close")
    for event in ("close", "finish"):
        assert keys(event) == expected
    return pauses


def gone_after(pid: int, began: float) -> float:
    wait_until(lambda: not psutil.pid_exists(pid), "the worker to be gone")
    return time.monotonic() - began


#: To a worker these are one of the other signals, which gunicorn's master sends it.
PASSED_ON = (signal.SIGINT, signal.SIGHUP, signal.SIGTTOU)


@pytest.mark.long_except("gthread-SIGTERM")
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        pytest.param(kind, how, marks=[pytest.mark.long] if again else [])
        for how in (signal.SIGTERM, signal.SIGQUIT, *PASSED_ON)
        for kind in WORKERS
        for again in [
            (how in PASSED_ON and kind != "SseWorker")
            or (how == signal.SIGQUIT and kind in ("gevent_pywsgi", "sync"))
        ]
    ],
)
def test_a_worker_with_open_streams_stops_soon(
    kind: str, how: signal.Signals, serve: Callable[..., Server]
) -> None:
    worker_class, args = WORKERS[kind]
    count = 2 if how == signal.SIGTTOU else 1
    args = (*args, "--workers", str(count))

    def stop() -> float:
        server = serve(worker_class, "tests.servers.apps.app:app", args=args)
        wait_until(lambda: server.log().count("Booting worker") == count, "the workers")
        clients = streams(server, 1 if kind == "sync" else 40)
        assert server.process is not None
        pids = {child.pid for child in psutil.Process(server.process.pid).children()}
        began = time.monotonic()
        server.process.send_signal(how)
        if how == signal.SIGTTOU:
            # The oldest of the two goes, and its clients with it.
            wait_until(lambda: [p for p in pids if not psutil.pid_exists(p)], "one to go")
            return time.monotonic() - began
        pauses = ended_cleanly(server, clients)
        (pid,) = pids
        took = gone_after(pid, began)
        if len(pauses) > 1:
            assert len(set(pauses)) > len(pauses) / 2, "all would come back at once"
        assert all(1000 <= pause <= 5000 for pause in pauses)
        server.stop()
        return took

    at_best(stop, SOON)


@pytest.mark.parametrize("opened", [0, 3])
def test_one_that_is_interrupted_while_it_begins_a_thread_stops_too(
    opened: int, serve: Callable[..., Server]
) -> None:
    conf = str(ROOT / "tests" / "servers" / "apps" / "interrupted.conf.py")
    # A worker that is silent for the time of --timeout is ended by gunicorn's master.
    args = ("-c", conf, *GRACEFUL, "--timeout", "200")
    env = {"INTERRUPTED_AT": str(opened)}
    server = serve("gthread", "tests.servers.apps.app:app", args=args, env=env)
    pid = server.worker_pid()
    clients = streams(server, opened)
    interrupting = Client(server.port).get("/quiet?key=last")
    gone_after(pid, time.monotonic())
    interrupting.fin()
    if clients:
        ended_cleanly(server, clients)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process and its servers open as many files as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "opened"),
    [("SseWorker", 300), ("gevent", 300), ("gthread", 300), ("SseWorker", MOST), ("gevent", MOST)],
)
def test_so_does_one_with_hundreds(
    kind: str, opened: int, serve: Callable[..., Server], many_descriptors: None
) -> None:
    worker_class, args = WORKERS[kind]
    args = (*args, "--worker-connections", "3000")
    server = serve(worker_class, "tests.servers.apps.app:app", args=args, threads=300)
    # To open thousands takes most of the time.
    ways = [signal.SIGINT] if opened == MOST else [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
    for count, how in enumerate(ways, 1):
        clients = streams(server, opened, how.name)
        pid = server.worker_pid()
        began = time.monotonic()
        os.kill(pid, how)
        assert gone_after(pid, began) < IN_TIME
        ended_cleanly(server, clients, how.name)
        # gunicorn puts another worker in its place.
        wait_until(lambda n=count: server.log().count("Booting worker") > n, "the next worker")


@pytest.mark.long_except("gevent", "SseWorker")
@pytest.mark.parametrize("kind", FEW_WORKERS)
def test_gunicorns_own_hook_for_an_interrupt_is_called_once(
    kind: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    config = tmp_path / "gunicorn.conf.py"
    config.write_text(
        ("" if kind == "SseWorker" else "from ssestream.gunicorn import post_worker_init\n")
        + "def worker_int(worker):\n    print('interrupted', flush=True)\n"
    )
    server = serve(
        WORKERS[kind][0], "tests.servers.apps.app:app", args=("-c", str(config), *GRACEFUL)
    )
    clients = streams(server, 1)
    pid = server.worker_pid()
    began = time.monotonic()
    os.kill(pid, signal.SIGINT)
    # As Ctrl-C does: a terminal interrupts the worker, and gunicorn's master then does.
    os.kill(pid, signal.SIGQUIT)
    ended_cleanly(server, clients)
    assert gone_after(pid, began) < IN_TIME
    assert server.log().count("interrupted") == 1


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", FEW_WORKERS)
def test_a_worker_whose_master_is_gone_ends_its_streams_and_goes(
    kind: str, serve: Callable[..., Server]
) -> None:
    worker_class, args = WORKERS[kind]
    server = serve(worker_class, "tests.servers.apps.app:app", args=args)
    clients = streams(server, 1 if kind == "sync" else 40)
    pid = server.worker_pid()
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    began = time.monotonic()
    ended_cleanly(server, clients)
    assert gone_after(pid, began) < IN_TIME


@pytest.mark.long_except("gthread", "SseWorker")
@pytest.mark.parametrize("kind", FEW_WORKERS)
def test_a_stream_that_a_generator_iterates_gets_its_last_chunk_too(
    kind: str, serve: Callable[..., Server]
) -> None:
    worker_class, args = WORKERS[kind]
    server = serve(worker_class, "tests.servers.apps.app:app", args=args)
    client = Client(server.port).get("/iterated?key=i")
    client.read_until(b"data: first\n\n")
    pid = server.worker_pid()
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    # The client holds its side open.
    client.read_until(b"\r\n0\r\n\r\n")
    assert re.search(rb"\nretry: \d+\n\n$", body_of(client.received))
    assert gone_after(pid, began) < IN_TIME


def test_so_does_one_that_has_served_its_requests(serve: Callable[..., Server]) -> None:
    args = ("--max-requests", "10")
    server = serve("ssestream.gunicorn.SseWorker", "tests.servers.apps.app:app", args=args)
    pid = server.worker_pid()
    clients = streams(server, 10)
    wait_until(lambda: not psutil.pid_exists(pid), "the worker to be gone")
    ended_cleanly(server, clients)


#: Ways in which a configuration file takes in the hook.
TAKEN_IN = {
    "star": "from ssestream.gunicorn import *",
    "both stars": "from ssestream import *\nfrom ssestream.gunicorn import *",
    "module": "import ssestream.gunicorn as mine\npost_worker_init = mine.post_worker_init",
    "name": "import ssestream.gunicorn\npost_worker_init = 'ssestream.gunicorn.post_worker_init'",
    "beside": """
import ssestream.gunicorn

def post_worker_init(worker):
    ssestream.gunicorn.post_worker_init(worker)
    worker.log.info("my own hook")
""",
    "worker": "from ssestream.gunicorn import *\nworker_class = SseWorker",
}


@pytest.mark.long_except("python-ssestream.gunicorn.SseWorker", "name-gthread", "worker-gthread")
@pytest.mark.parametrize(
    ("how", "worker_class"),
    [
        *((how, "gthread") for how in ("python", "star", "name", "beside", "worker")),
        *(pytest.param(how, "gthread", marks=pytest.mark.long) for how in ("both stars", "module")),
        pytest.param("python", "gevent", marks=pytest.mark.long),
        ("python", "ssestream.gunicorn.SseWorker"),
    ],
)
def test_a_configuration_may_take_in_the_hook_in_any_way(
    how: str, worker_class: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "mine.conf.py").write_text(TAKEN_IN.get(how, ""))
    conf = "python:ssestream.gunicorn" if how == "python" else str(tmp_path / "mine.conf.py")
    server = serve(worker_class, "tests.servers.apps.app:app", args=("-c", conf, *GRACEFUL))
    clients = streams(server, 3)
    assert ("my own hook" in server.log()) == (how == "beside")
    pid = server.worker_pid()
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert gone_after(pid, began) < IN_TIME
    ended_cleanly(server, clients)


def test_only_the_hook_has_the_name_of_a_setting_of_gunicorns() -> None:
    settings = set(make_settings())
    assert settings.intersection(vars(ssestream.gunicorn)) == {"post_worker_init"}
    assert not settings.intersection(ssestream.__all__)


def test_a_program_that_a_background_job_starts_hears_ctrl_c() -> None:
    # What a shell does for such a job; the imported module is the kit that starts the servers.
    job = """
import signal, subprocess, sys
for number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
import tests.kit.servers
subprocess.run(["grep", "SigIgn", "/proc/self/status"], check=True)
"""
    done = subprocess.run([sys.executable, "-c", job], cwd=ROOT, capture_output=True, check=True)
    ignored = int(done.stdout.split()[-1], 16)
    assert not ignored & (1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1)
