"""The Express program and its Python port, run side by side: what does a client receive?"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from tests.conftest import NODE_MODULES
from tests.kit.servers import ROOT, Client, Server, body_of, wait_until

pytestmark = [pytest.mark.server, pytest.mark.node]

PORT = ROOT / "examples" / "express_port"
EVENTS = 5
ENV = {"INTERVAL": "20"}


class Program(Protocol):
    port: int

    def log(self) -> str: ...


class Express:
    """``node app.js`` in a process of its own."""

    def __init__(self, node: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [node, "app.js", "0"],
            cwd=PORT,
            env={**os.environ, **ENV, "NODE_PATH": str(NODE_MODULES)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: self._process.poll() is not None or self._listening(), "Express")
        found = self._listening()
        assert found is not None, self.log()
        self.port = int(found[1])

    def _listening(self) -> re.Match[str] | None:
        return re.search(r"Listening at: http://127.0.0.1:(\d+)\n", self.log())

    def log(self) -> str:
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture
def express(node: str) -> Iterator[Express]:
    program = Express(node)
    yield program
    program.stop()


@pytest.fixture(params=["SseWorker", "gevent"])
def port(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Server:
    return serve(request.param, "examples.express_port.app:app", env=ENV)


def first_events(program: Program, path: str) -> tuple[dict[str, str], bytes]:
    """The headers of *path* and the bytes of its first events; the client then leaves."""
    client = Client(program.port).get(path)
    while body_of(client.received).count(b"data:") <= EVENTS:
        client.read_until(b"\r\n\r\n")
        client.received += client.sock.recv(65536)
    client.fin()
    head = client.received.partition(b"\r\n\r\n")[0].decode()
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    events = body_of(client.received).split(b"\n\n")
    start = 1 if events[0] == b":ok" else 0
    body = b"\n\n".join(events[: start + EVENTS]) + b"\n\n"
    # Midnight may come between the two programs.
    return headers, re.sub(rb"\d{4}-\d\d-\d\d", b"<date>", body)


@pytest.mark.parametrize(
    ("path", "opening", "event"),
    [
        ("/clock", b":ok\n\n", b"event: message\nid: %d\nretry: 20000\ndata: <date>\n\n"),
        ("/raw", b"", b"id:%d\nevent:message\ndata:<date>\n\n"),
    ],
)
def test_both_programs_send_the_same_bytes(
    express: Express, port: Server, path: str, opening: bytes, event: bytes
) -> None:
    theirs, their_body = first_events(express, path)
    ours, our_body = first_events(port, path)
    assert our_body == their_body
    assert our_body == opening + b"".join(event % n for n in range(1, EVENTS + 1))
    assert ours["content-type"] == theirs["content-type"] == "text/event-stream; charset=utf-8"

    # Whatever keeps caches off in Express does so here; more may.
    def directives(headers: dict[str, str]) -> set[str]:
        return set(filter(None, headers.get("cache-control", "").split(", ")))

    assert directives(ours) >= directives(theirs)
    assert directives(ours) == {"no-cache", "no-transform"}


@pytest.mark.parametrize("path", ["/clock", "/raw"])
def test_both_programs_say_that_the_client_has_left(
    express: Express, port: Server, path: str
) -> None:
    for program in (express, port):
        client = Client(program.port).get(path)
        client.read_until(b"data:")
        assert f"{path} closed" not in program.log()
        client.fin()
        wait_until(lambda program=program: f"{path} closed" in program.log(), f"{path} to close")
