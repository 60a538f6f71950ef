"""A full or read-only disk under the folder of the numbers and of the open streams."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssestream import Channels
from tests.kit.disk import Disk
from tests.kit.servers import Client, Server, wait_until

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system"),
]

TOP = "top: the folder cannot be written"
METRICS = "metrics: the numbers of this process are not written"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.remove()


@contextlib.contextmanager
def serving(app: str, disk: Disk, events: str) -> Iterator[Server]:
    server = Server(
        "SseWorker",
        f"tests.servers.apps.{app}:app",
        env={"NUMBERS": str(disk.path), "EVENTS": events},
        args=("-c", "python:ssestream.gunicorn"),
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def status(server: Server, path: str) -> int:
    client = Client(server.port).get(path, "Authorization: Bearer operator")
    return int(client.read_until(b"\r\n").split()[1])


@pytest.fixture
def events(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/events.db"


@pytest.mark.long
def test_a_full_disk_under_the_open_streams(disk: Disk, events: str) -> None:
    disk.fill()
    with serving("top", disk, events) as server:
        stream = Client(server.port).get("/follow/news")
        stream.read_until(b":ok\n\n")
        assert status(server, "/streams") == 200
        wait_until(lambda: TOP in server.log(), "the warning")
        assert "No space left on device" in server.log()
        for number in range(3):
            Channels(events).publish("news", {"data": f"event {number}"})
            stream.read_until(f"data: event {number}\n\n".encode())
            assert status(server, "/streams") == 200
        assert not list(disk.path.glob("open/*.part"))
        assert server.log().count(TOP) == 1
        disk.free()
        own = disk.path / "open" / f"{server.worker_pid()}.json"
        wait_until(lambda: own.exists() and status(server, "/streams") == 200, "the file")
        disk.fill()
        wait_until(lambda: server.log().count(TOP) == 2, "the next warning")
        assert "Traceback" not in server.log()


def test_a_read_only_disk_under_the_open_streams(disk: Disk, events: str) -> None:
    with serving("top", disk, events) as server:
        assert status(server, "/streams") == 200
        # It has gone, and is not removed on this disk.
        (disk.path / "open" / "1.json").write_text("{}")
        os.utime(disk.path / "open" / "1.json", (0, 0))
        disk.protect()
        stream = Client(server.port).get("/follow/news")
        stream.read_until(b":ok\n\n")
        for number in range(3):
            assert status(server, "/streams") == 200
            Channels(events).publish("news", {"data": f"event {number}"})
            stream.read_until(f"data: event {number}\n\n".encode())
        assert server.log().count(TOP) == 1
        assert "Read-only file system" in server.log()
        disk.protect("rw")
        assert status(server, "/streams") == 200
        assert not (disk.path / "open" / "1.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_under_the_numbers(kind: str, disk: Disk, events: str) -> None:
    disk.fill()
    if kind == "read-only":
        disk.protect()
    with serving("metrics", disk, events) as server:
        stream = Client(server.port).get("/follow")
        stream.read_until(b":ok\n\n")
        wait_until(lambda: METRICS in server.log(), "the message")
        assert status(server, "/publish") == 200
        stream.read_until(b"data: hello\n\n")
        # A scrape without the numbers of all is none: the system that watches must see it.
        assert status(server, "/metrics") == 500
        assert not list(disk.path.glob("*.part"))
        assert server.log().count(METRICS) == 1
        if kind == "read-only":
            disk.protect("rw")
        disk.free()
        wait_until(lambda: status(server, "/metrics") == 200, "the numbers")
        # The process holds the lock of its file, so that others do not take it for dead.
        assert (disk.path / f"{server.worker_pid()}.lock").exists()
