"""The disk of PostgreSQL is full while many publish."""

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssestream import BrokerError
from ssestream.brokers.postgresql import PostgresqlBroker
from tests.kit.brokers import Elsewhere, Follower, all_closed, everything
from tests.kit.disk import Disk
from tests.kit.postgresql_server import PostgresqlServer
from tests.kit.servers import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that has all temporary files, so that the user of the server can reach its own."""
    folder = Path(tempfile.mkdtemp(prefix="ssestream-disk-"))
    folder.chmod(0o755)
    try:
        disk = Disk(folder, "160m")
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield disk
        disk.remove()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
@pytest.mark.parametrize("has_crashed", [False, True])
def test_a_full_disk_is_told_and_costs_no_event(
    has_crashed: bool, disk: Disk, start_postgresql: Callable[..., PostgresqlServer]
) -> None:
    server = start_postgresql("max_wal_size=32MB", "min_wal_size=32MB")
    url = server.make_database()
    stored: dict[bytes, tuple[int, str]] = {}
    raised: list[tuple[bytes, BrokerError]] = []
    over = threading.Event()

    with all_closed(PostgresqlBroker) as opened:
        reader, writer = opened(url), opened(url, 10**6)
        follower = Follower(reader, "news")

        def write(number: int) -> None:
            for n in itertools.count():
                if over.is_set():
                    return
                # Random bytes: PostgreSQL compresses what it keeps.
                frame = b"%d %d " % (number, n) + os.urandom(4000)
                try:
                    stored[frame] = writer.append("news", frame)[1:]
                except BrokerError as error:
                    raised.append((frame, error))

        writers = [Elsewhere(write, number) for number in range(8)]
        wait_until(lambda: len(stored) > 50, "some events")
        disk.fill()
        wait_until(lambda: len(raised) > 16, "errors")
        for _, error in raised:
            assert "No space left on device" in str(error)
            assert "make room on its disk" in str(error)
            assert "CONTEXT" not in str(error)
            assert not error.lasting
        if has_crashed:
            # It needs room for its log, and cannot have it before there is room again.
            server.kill()
        disk.free()
        if has_crashed:
            server.start()
        count = len(stored)
        wait_until(lambda: len(stored) > count + 16, "some events")
        over.set()
        for each in writers:
            each.result()
        there = everything(writer, "news").entries
        wait_until(lambda: len(follower.frames) >= len(there), "all events")
        follower.stop()
    found = {frame: (number, check) for number, frame, check in there}
    assert len(found) == len(there)
    assert found.items() >= stored.items()
    assert found.keys() <= stored.keys() | {frame for frame, _ in raised}
    assert follower.frames == [entry.frame for entry in there]
