"""The numbers of all processes of a host, each in a file of its own.

A request for the numbers reaches one process. So each process writes its numbers into a folder,
now and then, and the process that is asked adds all of them up. The counters of a process that is
gone stay in the sum, so that no counter ever falls.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..runtime.clock import clock
from .number import Number, add_up

#: The sum of the counters of all processes that are gone.
GONE = "gone.json"

#: Its lock is held while files are read and removed.
ALL = "all.lock"

#: Seconds to wait for a lock that another process holds, and between two looks.
PATIENCE, PAUSE = 2.0, 0.005


class Folder:
    """The files of the processes in *path*, which is made if it is not there.

    :raise OSError: if the folder cannot be made or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        # The descriptor that holds the lock of this process's file, and that process.
        self._lock: int | None = None
        self._process = 0
        self._name = ""
        # Held while this process writes, as a request and a timer may write at once.
        self._writing = threading.Lock()

    def write(self, numbers: list[Number]) -> None:
        """Write the *numbers* of this process."""
        with self._writing:
            if self._process != os.getpid():
                self._begin()
            _write(self._path / f"{self._name}.json", numbers)

    def read(self) -> list[Number]:
        """The sums over all processes: counters also of those that are gone."""
        self._path.mkdir(parents=True, exist_ok=True)
        with _locked(self._path / ALL):
            alive: list[list[Number]] = []
            gone = [_read(self._path / GONE)]
            dead: list[Path] = []
            for file in sorted(self._path.glob("*.json")):
                if file.name == GONE:
                    continue
                if file.stem == self._name or _is_locked(file.with_suffix(".lock")):
                    alive.append(_read(file))
                else:
                    gone.append([each for each in _read(file) if each.outlives])
                    dead.append(file)
            counters = add_up(gone)
            if dead:
                # On a full disk, the files of the dead stay, and the next reader adds them up.
                with contextlib.suppress(OSError):
                    self._keep(counters, dead)
            return add_up([*alive, counters])

    def _keep(self, counters: list[Number], dead: list[Path]) -> None:
        """Write *counters*, which count the files of the *dead*, and remove these files."""
        _write(self._path / GONE, counters)
        for file in dead:
            file.unlink()
            file.with_suffix(".lock").unlink(missing_ok=True)

    def _begin(self) -> None:
        """Take a file of its own for this process, and keep its lock until the process ends."""
        self._path.mkdir(parents=True, exist_ok=True)
        if self._lock is not None:
            # It came from the parent of this process by a fork, and holds the parent's lock.
            os.close(self._lock)
            self._lock = None
        self._name = str(os.getpid())
        with _locked(self._path / ALL):
            # A process of the same number may have left its file here.
            file = self._path / f"{self._name}.json"
            if file.exists():
                left = [each for each in _read(file) if each.outlives]
                _write(self._path / GONE, add_up([_read(self._path / GONE), left]))
                file.unlink()
            self._lock = os.open(self._path / f"{self._name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Only now: after an error, such as on a full disk, the next call tries again. Without the
        # lock, others would take this process for dead, and count its numbers twice.
        self._process = os.getpid()

    def after_fork(self) -> None:
        """Called in a child: let go of the parent's lock, which would outlive the parent."""
        self._writing = threading.Lock()
        if self._lock is not None:
            os.close(self._lock)
        self._lock, self._process, self._name = None, 0, ""


def _write(file: Path, numbers: list[Number]) -> None:
    """Replace *file* at once, so that no reader sees half of it."""
    written = [
        {
            **asdict(each),
            "samples": [[list(labels), value] for labels, value in each.samples.items()],
        }
        for each in numbers
    ]
    part = file.with_suffix(".part")
    try:
        part.write_text(json.dumps(written))
        part.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            # On a full disk, it is a part of what fills the disk.
            part.unlink()
        raise


def _read(file: Path) -> list[Number]:
    """The numbers in *file*; none if there is no file, or if a power cut has left half of it."""
    try:
        written: list[dict[str, Any]] = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return []
    return [
        Number(
            each["name"],
            each["kind"],
            each["text"],
            tuple(each["labels"]),
            {tuple(labels): value for labels, value in each["samples"]},
        )
        for each in written
    ]


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of *file*.

    :raise TimeoutError: if another process keeps the lock, as one that stands still would.
    """
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    deadline = clock.real() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.real() > deadline:
                    raise TimeoutError(f"another process keeps the lock of {file}") from None
            # Unlike a wait in flock(), this lets other greenlets run.
            time.sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)


def _is_locked(file: Path) -> bool:
    """Whether the process that owns *file* lives."""
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
