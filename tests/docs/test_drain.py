"""The recipes of docs/stopping.rst for servers that are not gunicorn, as they stand there."""

import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks
from tests.kit.promptness import at_best
from tests.kit.servers import ROOT, Client, Server, free_port
from tests.servers.test_jobs import ask, get_more, opened
from tests.servers.test_shutdown import IN_TIME, SOON, ended_cleanly, streams

pytestmark = pytest.mark.server

RECIPES = [code for code in blocks(ROOT / "docs" / "stopping.rst", "python") if "drain()" in code]

CLIENTS = 200

APP = "tests.servers.apps.app"


class Script(Server):
    """A server that a script runs, and that says nothing of itself."""

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self._app]

    def _listening(self) -> re.Match[str] | None:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return None
        return re.search(r":(\d+)", self.url[len("http:") :])


@pytest.fixture(params=["pywsgi", "flask"])
def server(
    request: pytest.FixtureRequest, serve: Callable[..., Server], tmp_path: Path
) -> Callable[..., Server]:
    """Start the server of one recipe."""

    def pywsgi(app: str = APP, **env: str) -> Server:
        (recipe,) = (code for code in RECIPES if "WSGIServer" in code)
        port = free_port()
        script = (
            "from gevent import monkey; monkey.patch_all()\n\n"
            f"{recipe}\n\n"
            f"from {app} import app\n"
            f"serve(app, ('127.0.0.1', {port}))\n"
        )
        started.append(Script("pywsgi", script, port=port, env=env).start())
        return started[-1]

    def threaded(app: str = APP, **env: str) -> Server:
        (recipe,) = (code for code in RECIPES if "signal.SIGINT" in code)
        (tmp_path / "drained.py").write_text(
            f"{recipe}\n\nfrom {app} import app\ndrain_on_sigterm()\n"
        )
        return serve(
            request.param,
            "drained:app",
            env={**env, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
            threads=CLIENTS + 8,
            args=("--connection-limit=1000",) if request.param == "waitress" else (),
        )

    started: list[Server] = []
    yield pywsgi if request.param == "pywsgi" else threaded
    for each in started:
        each.stop()


def ended_after(server: Server, began: float) -> float:
    assert server.process is not None
    assert server.process.wait(60) == 0, server.log()
    return time.monotonic() - began


@pytest.mark.long_except("waitress")
@pytest.mark.parametrize("server", ["pywsgi", "flask", "waitress"], indirect=True)
def test_on_sigterm_every_stream_ends_cleanly_and_the_process_soon_after(
    server: Callable[..., Server],
) -> None:
    def stop() -> float:
        running = server()
        clients = streams(running, CLIENTS)
        assert running.process is not None
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        seconds = ended_after(running, began)
        pauses = ended_cleanly(running, clients)
        assert len(set(pauses)) > CLIENTS / 2
        assert "Traceback" not in running.log()
        return seconds

    at_best(stop, SOON)


@pytest.mark.long_except("flask")
def test_so_it_does_with_clients_that_never_read(server: Callable[..., Server]) -> None:
    running = server()
    stalled = [
        Client(running.port, receive_buffer=4096).get(f"/flood?key=f{number}")
        for number in range(20)
    ]
    for number in range(20):
        running.wait_for(event="open", key=f"f{number}")
    clients = streams(running, 20)
    assert running.process is not None
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert ended_after(running, began) < IN_TIME
    ended = sorted(event["key"] for event in running.events(event="close"))
    assert ended == sorted(f"{kind}{number}" for kind in "fs" for number in range(20))
    for client in clients:
        assert client.read_until(b"0\r\n\r\n")
    for client in stalled:
        client.fin()


def test_a_stop_right_after_the_start_is_no_error(server: Callable[..., Server]) -> None:
    running = server()
    assert running.process is not None
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    # By the recipe, or, before that has taken the signal, by the system.
    assert running.process.wait(60) in (0, -signal.SIGTERM)
    assert time.monotonic() - began < IN_TIME
    assert "Traceback" not in running.log()


@pytest.mark.long_except("pywsgi")
@pytest.mark.parametrize("server", ["pywsgi", "flask", "waitress"], indirect=True)
def test_a_job_that_a_view_forks_ends_by_its_own_sigterm_and_ends_no_stream(
    server: Callable[..., Server],
) -> None:
    running = server("tests.servers.apps.jobs")
    clients = [opened(running, f"/{path}?key={path}") for path in ("timer", "quiet")]
    for what in ("wait&seconds=60", "work"):
        pid = ask(running, f"/job?what={what}")["pid"]
        running.wait_for(event="job", pid=pid)
        assert ask(running, f"/terminate?pid={pid}")["code"] == -signal.SIGTERM
        get_more(clients[0], 20)
    assert not running.events(event="close")
    assert running.process is not None
    running.process.send_signal(signal.SIGTERM)
    for client in clients:
        assert b"\nretry: " in client.read_until(b"0\r\n\r\n")
    assert running.process.wait(60) == 0
