"""The file of an SQLite broker: may processes share it? The file is neither made nor changed."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..brokers.sqlite.database import ALLOW, CURES
from ..brokers.sqlite.schema import FORM, FORM_1, FORM_2
from .finding import Finding, fault, note, ok

#: Bytes of room below which the broker cannot work for long. Its write-ahead log may have 16 MiB.
LEAST_ROOM, LITTLE_ROOM = 32 << 20, 256 << 20

#: File systems of other hosts. Their locks and their shared memory are not those of one host.
OF_NETWORK = {
    "9p",
    "afs",
    "ceph",
    "cifs",
    "glusterfs",
    "lustre",
    "ncpfs",
    "smb3",
    "smbfs",
    "vboxsf",
}

#: The first bytes of each file of SQLite, and the length of the header.
MAGIC, HEADER = b"SQLite format 3\0", 100


def examine_sqlite(path: str) -> list[Finding]:
    """Look at the SQLite file at *path*, its folder and its file system."""
    file = Path(path).absolute()
    if not file.parent.is_dir():
        return [
            fault(
                f"there is no directory {file.parent}",
                "every publish and every subscription fails",
                f"mkdir -p {file.parent}, for the account of the server",
            )
        ]
    return [*_rights(file), *_file_system(file), *_room(file.parent), *_content(file)]


def _rights(file: Path) -> Iterator[Finding]:
    """Whether this account may write all that SQLite writes."""
    parts = [Path(f"{file}{end}") for end in ("", "-wal", "-shm")]
    wrong = [each for each in parts if each.exists() and not os.access(each, os.R_OK | os.W_OK)]
    if not os.access(file.parent, os.R_OK | os.W_OK | os.X_OK):
        # SQLite makes the -wal and -shm beside the file.
        wrong.append(file.parent)
    if wrong:
        yield fault(
            f"this account may not write {', '.join(map(str, wrong))}",
            "publishing fails, and streams may follow nothing",
            f"chown to the account of the server: {ALLOW}",
        )
    else:
        yield ok(f"this account may write {file} and its directory")


def _file_system(file: Path) -> Iterator[Finding]:
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace")
    except OSError:
        return  # not Linux
    kind = file_system_of(file.resolve(), mounts)
    if kind.startswith("nfs") or kind in OF_NETWORK:
        yield fault(
            f"{file} is on the network file system {kind}",
            "a write-ahead log needs the shared memory of one host: events are lost, or the file"
            " is damaged",
            "a path on a disk of this host, or redis:// for several hosts",
        )
    elif kind.startswith("fuse"):
        yield note(
            f"{file} is on the file system {kind}",
            "such a file system may be on another host, or may lock nothing",
            "a path on a disk of this host",
        )
    elif kind in ("tmpfs", "overlay"):
        yield note(
            f"{file} is on {kind}",
            "a restart of the machine or of the container loses the events, and the containers of"
            " one host do not share them",
            "a path on a disk, or a volume of the container",
        )
    elif kind:
        yield ok(f"{file} is on {kind}")


def file_system_of(file: Path, mounts: str) -> str:
    """The type of the file system of *file*, by the text of ``/proc/self/mounts``; "" if none."""
    found, kind = "", ""
    for line in mounts.splitlines():
        _, folder, its_kind, *_ = line.split(" ")
        # The kernel writes a space as \040, for example.
        folder = folder.encode("latin-1", "replace").decode("unicode_escape")
        # Of two mounts at one place, the later one counts.
        if file.is_relative_to(folder) and len(folder) >= len(found):
            found, kind = folder, its_kind
    return kind


def _room(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    if free < LITTLE_ROOM:
        say = fault if free < LEAST_ROOM else note
        yield say(
            f"{free >> 20} MiB are free in {folder}",
            "without room, publishing fails",
            CURES["database or disk is full"],
        )
    else:
        yield ok(f"{free >> 20} MiB are free in {folder}")


def _content(file: Path) -> Iterator[Finding]:
    """Read the header only: a connection of SQLite could make files beside this one."""
    try:
        # In a process that has a connection to the file, closing it would release SQLite's locks.
        with file.open("rb") as opened:
            header = opened.read(HEADER)
    except FileNotFoundError:
        yield note(
            f"there is no file {file} yet",
            "the first use of the channels makes it; if the app runs already, it uses another path",
            "an absolute path, sqlite:////var/lib/app/events.db, for all processes",
        )
        return
    except OSError as error:
        yield fault(f"{file} cannot be read: {error.strerror}", "no stream gets an event", ALLOW)
        return
    if not header:
        yield ok(f"{file} is empty, and the first use makes its tables")
        return
    if not header.startswith(MAGIC) or len(header) < HEADER:
        yield fault(
            f"{file} is no SQLite database",
            "every publish and every subscription fails",
            CURES["file is not a database"],
        )
        return
    # https://www.sqlite.org/fileformat.html, section 1.3
    form = int.from_bytes(header[68:72], "big")
    has_tables = any(header[40:44])
    if form not in (FORM, FORM_1, FORM_2) and has_tables:
        yield fault(
            f"{file} is a database of another program",
            "every publish and every subscription fails",
            "a file of its own for the channels",
        )
    elif header[18:20] != b"\2\2":
        yield note(
            f"{file} has no write-ahead log",
            "another program has changed its journal_mode: the next use sets it back, and fails"
            " while that program has the file open",
            "PRAGMA journal_mode = WAL in that program, or a file of its own for the channels",
        )
    else:
        yield ok(f"{file} has channels and a write-ahead log")
