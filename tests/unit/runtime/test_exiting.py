"""What runs when the process ends: its order, and what still works then."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from ssestream.runtime import exiting
from ssestream.runtime.forking import process

PROGRAM = """
import atexit, sys, threading, time
if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
from concurrent.futures import ThreadPoolExecutor
from ssestream.runtime.exiting import at_exit, before_exit

atexit.register(print, "atexit")
at_exit(lambda: print("the loop"))
before_exit(lambda: print("the executor", pool.submit(lambda: "works").result()))

def fail():
    print("fails")
    raise ValueError("on purpose")

before_exit(fail)
before_exit(fail)
pool = ThreadPoolExecutor(1)
# From Python 3.12 on, no thread can be started any more when the process ends.
pool.submit(print, "a thread").result()
over = threading.Event()
threading.Thread(target=over.wait).start()
# Python waits for this thread, and only a function that runs before ends it.
at_exit(over.set)
"""


@pytest.mark.long_except("plain")
@pytest.mark.parametrize("patched", ["plain", "patched"])
def test_functions_run_while_everything_works_and_each_once(patched: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, patched], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "a thread",
        "the executor works",
        "fails",
        "the loop",
        "atexit",
    ]
    assert "ValueError: on purpose" in done.stderr


class Tmp:
    """The file that a worker of gunicorn touches."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def fileno(self) -> int:
        return self.file.fileno()


def is_open(path: Path) -> bool:
    """Whether this process has *path* open. Its threads may open and close other files."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            names.append(os.readlink(link))
    return str(path) in names


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    cfg = Config()
    cfg.set("graceful_timeout", 7)
    made = SimpleNamespace(tmp=Tmp(tmp_path / "tmp"), alive=True, cfg=cfg)
    monkeypatch.setattr(process, "workers", [object(), made])
    yield made
    made.tmp.file.close()


def test_a_worker_gives_signs_after_it_has_closed_its_file(worker: Any, tmp_path: Path) -> None:
    found = exiting.Worker()
    found.live()  # no worker is found
    assert not found.is_stopping
    assert found.grace is None
    found.find()
    found.find()
    assert found.grace == 7
    worker.alive = False
    assert found.is_stopping
    worker.tmp.file.close()
    os.utime(tmp_path / "tmp", (1, 1))
    found.live()
    assert (tmp_path / "tmp").stat().st_mtime > 1
    assert is_open(tmp_path / "tmp")
    found.forked()
    assert not is_open(tmp_path / "tmp")
    os.utime(tmp_path / "tmp", (1, 1))
    found.live()
    assert (tmp_path / "tmp").stat().st_mtime == 1


@pytest.mark.parametrize("hook", ["worker_int", "worker_abort"])
def test_a_worker_that_ends_at_once_has_no_grace(worker: Any, hook: str) -> None:
    called: list[Any] = []

    def own(worker: Any) -> None:
        called.append(worker)

    worker.cfg.set(hook, own)
    found = exiting.Worker()
    found.find()
    assert found.grace == 7
    getattr(worker.cfg, hook)(worker)
    assert found.grace == 0
    assert called == [worker]


def test_functions_run_already_when_the_worker_has_ended(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []

    def fail() -> None:
        raise ValueError("on purpose")

    def own(arbiter: Any, worker: Any) -> None:
        called.append((arbiter, worker))

    worker.cfg.set("worker_exit", own)
    exiting.Worker().find()
    functions = [lambda: called.append("first"), fail, lambda: called.append("last")]
    monkeypatch.setattr(exiting, "functions_before_exit", functions)
    with pytest.raises(ValueError, match="on purpose"):
        worker.cfg.worker_exit("the arbiter", worker)
    assert called == ["first", "last", ("the arbiter", worker)]
    # Each was called once, also if the process ends later.
    assert not functions


def test_a_worker_that_ends_is_none(worker: Any) -> None:
    worker.tmp.file.close()
    found = exiting.Worker()
    found.find()
    assert found.grace is None
