"""``python -m ssestream top`` before the workers of a real server."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.servers import PATIENCE, ROOT, Client, Server, wait_until

pytestmark = pytest.mark.server

STREAMS = 12
HEADER = ("--header", "Authorization: Bearer operator")


@pytest.fixture(params=["SseWorker", "gthread"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(
        request.param,
        "tests.servers.apps.top:app",
        env={"NUMBERS": str(tmp_path), "EVENTS": f"sqlite:///{tmp_path}/events.db"},
        args=("-w", "2", "-c", "python:ssestream.gunicorn"),
    )
    yield server.start()
    server.stop()


def command(server: Server, *words: str) -> list[str]:
    return [sys.executable, "-m", "ssestream", "top", f"{server.url}/streams", *words]


def look(server: Server) -> str:
    done = subprocess.run(
        command(server, *HEADER, "--once"), cwd=ROOT, capture_output=True, check=True, text=True
    )
    return done.stdout


def opened(server: Server) -> list[Client]:
    clients = [Client(server.port).get(f"/follow/room:{number % 3}") for number in range(STREAMS)]
    for client in clients:
        client.read_until(b":ok\n\n")
    return clients


@pytest.mark.long
def test_one_look_tells_of_the_streams_of_all_workers(server: Server) -> None:
    refused = subprocess.run(
        command(server, "--once"), cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert refused.returncode == 1
    assert "answers with 403" in refused.stderr
    clients = opened(server)
    # Another worker tells of its streams a second after the first look.
    wait_until(lambda: f"{STREAMS} streams open" in look(server), "the streams of all workers")
    text = look(server)
    for number in range(3):
        assert re.search(rf"^room:{number} +{STREAMS // 3} +0$", text, re.MULTILINE), text
        assert text.count(f"127.0.0.1 '/follow/room:{number}'") == STREAMS // 3
    for client in clients[:5]:
        client.fin()
    wait_until(lambda: f"{STREAMS - 5} streams open" in look(server), "the departures")


@pytest.mark.long_except("gthread")
def test_a_terminal_shows_them_live_and_goes_on_over_a_restart(server: Server) -> None:
    pytest.importorskip("rich")
    clients = opened(server)
    ours, theirs = pty.openpty()
    shown = subprocess.Popen(
        command(server, *HEADER, "--interval", "0.2"),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    received = b""

    def shows(words: bytes) -> bool:
        """Whether *words* have come since the last call that found its own."""
        nonlocal received
        found = words in received
        if found:
            received = received.partition(words)[2]
        else:
            received += os.read(ours, 65536)
        return found

    try:
        wait_until(lambda: shows(f"{STREAMS} streams open".encode()), "all streams")
        wait_until(lambda: shows(b"room:1"), "the channels")
        wait_until(lambda: shows(b"/follow/room:2"), "the clients")
        for client in clients:
            client.fin()
        wait_until(lambda: shows(b"0 streams open"), "the departures")
        server.stop()
        wait_until(lambda: shows(b"does not answer"), "the end of the server")
        shown.send_signal(signal.SIGINT)
        wait_until(lambda: shows(b"\x1b[?1049l"), "the end of the screen")
        assert shown.wait(PATIENCE) == 130
    finally:
        shown.kill()
        shown.wait()
        os.close(ours)
