"""The numbers of several processes in one folder."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssestream.metrics.folder import Folder
from ssestream.metrics.number import Number
from tests.kit.servers import PATIENCE, ROOT

PROGRAM = """
import os, sys
from ssestream.metrics.folder import Folder
from ssestream.metrics.number import Number

folder = Folder(sys.argv[1])
for line in sys.stdin:
    command, *values = line.split()
    if command == "write":
        opened, is_open = map(float, values)
        folder.write([
            Number("opened", "counter", "Opened.", (), {(): opened}),
            Number("open", "gauge", "Open.", (), {(): is_open}),
        ])
    elif command == "fork" and os.fork() == 0:
        folder.after_fork()
        print("child", os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    if command != "fork":
        print("done", flush=True)
"""


class Process:
    """Another process that writes into the folder *path*."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self, opened: int, is_open: int) -> None:
        assert self.do(f"write {opened} {is_open}") == "done\n"

    def do(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    pair = Process(tmp_path), Process(tmp_path)
    yield pair
    for each in pair:
        each.close()


def sums(folder: Folder) -> dict[str, float]:
    return {number.name: number.samples[()] for number in folder.read()}


def test_the_numbers_of_all_are_added(pair: tuple[Process, Process], tmp_path: Path) -> None:
    pair[0].write(10, 3)
    pair[1].write(20, 4)
    assert sums(Folder(tmp_path)) == {"opened": 30, "open": 7}
    pair[0].write(15, 5)
    assert sums(Folder(tmp_path)) == {"opened": 35, "open": 9}


def test_the_counters_of_one_that_is_killed_stay_and_its_levels_go(
    pair: tuple[Process, Process], tmp_path: Path
) -> None:
    pair[0].write(10, 3)
    pair[1].write(20, 4)
    pair[0].kill()
    for _ in range(2):
        assert sums(Folder(tmp_path)) == {"opened": 30, "open": 4}
    pair[1].kill()
    assert sums(Folder(tmp_path)) == {"opened": 30}
    assert not list(tmp_path.glob("[0-9]*"))


def test_a_child_keeps_no_dead_parent_alive(pair: tuple[Process, Process], tmp_path: Path) -> None:
    pair[0].write(10, 3)
    child = int(pair[0].do("fork").split()[1])
    pair[0].kill()
    assert sums(Folder(tmp_path)) == {"opened": 10}
    os.kill(child, 9)


def test_a_process_of_the_number_of_a_dead_one_loses_nothing(tmp_path: Path) -> None:
    earlier = Number("opened", "counter", "Opened.", (), {(): 5})
    level = Number("open", "gauge", "Open.", (), {(): 5})
    first = Folder(tmp_path)
    first.write([earlier, level])
    first.after_fork()  # lets go of the lock, as its death would
    folder = Folder(tmp_path)
    folder.write([Number("opened", "counter", "Opened.", (), {(): 1})])
    assert sums(folder) == {"opened": 6}


def test_one_that_writes_nothing_reads_too_and_makes_the_folder(tmp_path: Path) -> None:
    assert Folder(tmp_path / "new" / "folder").read() == []


def test_labels_are_kept(tmp_path: Path) -> None:
    number = Number("closed", "counter", "Over.", ("cause",), {("client",): 2, ("a/b",): 1})
    folder = Folder(tmp_path)
    folder.write([number])
    assert folder.read() == [number]


def test_threads_of_a_process_write_at_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    start = threading.Barrier(8)
    errors: list[Exception] = []

    def write() -> None:
        start.wait()
        try:
            for number in range(50):
                folder.write([Number("opened", "counter", "Opened.", (), {(): number})])
                folder.read()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert errors == []
    assert sums(folder) == {"opened": 49}


def test_a_process_that_stands_still_with_the_lock_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssestream.metrics.folder.PATIENCE", 0.05)
    with (tmp_path / "all.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another process keeps the lock"):
            Folder(tmp_path).read()
    assert Folder(tmp_path).read() == []


def test_a_process_that_could_not_begin_begins_at_its_next_write(tmp_path: Path) -> None:
    (tmp_path / "all.lock").mkdir()
    folder = Folder(tmp_path)
    opened = Number("opened", "counter", "Opened.", (), {(): 5})
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            folder.write([opened])
    (tmp_path / "all.lock").rmdir()
    folder.write([opened])
    # Without its lock, the first reader would take the process for dead, and the second would count
    # its numbers twice.
    for _ in range(2):
        assert sums(Folder(tmp_path)) == {"opened": 5}
        folder.write([opened])


def test_the_dead_are_counted_where_their_sum_cannot_be_kept(
    pair: tuple[Process, Process], tmp_path: Path
) -> None:
    pair[0].write(10, 3)
    pair[0].kill()
    (tmp_path / "gone.part").mkdir()
    for _ in range(2):
        assert sums(Folder(tmp_path)) == {"opened": 10}
    (tmp_path / "gone.part").rmdir()
    for _ in range(2):
        assert sums(Folder(tmp_path)) == {"opened": 10}
    assert not list(tmp_path.glob("[0-9]*"))


def test_half_a_file_hides_no_other(pair: tuple[Process, Process], tmp_path: Path) -> None:
    pair[0].write(10, 3)
    (tmp_path / "gone.json").write_text('[{"name": "ope')
    assert sums(Folder(tmp_path)) == {"opened": 10, "open": 3}
