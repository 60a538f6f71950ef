"""The file of an SQLite broker, right or wrong, which the doctor leaves as it is."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ssestream import Channels
from ssestream.doctor.finding import Finding
from ssestream.doctor.sqlite import examine_sqlite, file_system_of
from tests.kit.servers import ROOT


def seen(found: list[Finding], level: str = "fault") -> list[str]:
    return [each.seen for each in found if each.level == level]


def own(found: list[Finding]) -> list[Finding]:
    """*found* without what the machine of the test has: the kind of its disk, and the room."""
    return [each for each in found if " is on " not in each.seen and " free in " not in each.seen]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in which a channel has an event."""
    path = tmp_path / "events.db"
    channels = Channels(f"sqlite:///{path}")
    channels.publish("news", {"data": 1})
    return path


def examine_as(before: tuple[str, ...], path: Path) -> str:
    """The findings of a process that may write only what its user may."""
    code = (
        "from ssestream.doctor.sqlite import examine_sqlite; import sys\n"
        "for each in examine_sqlite(sys.argv[1]): print(each.level, each.seen)"
    )
    done = subprocess.run(
        [*before, sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_a_right_file_has_no_fault_and_stays_as_it_is(file: Path) -> None:
    before = {each.name: each.stat() for each in file.parent.iterdir()}
    found = examine_sqlite(str(file))
    assert seen(found) == []
    assert [each.level for each in own(found)] == ["ok", "ok"]
    after = {each.name: each.stat() for each in file.parent.iterdir()}
    assert {name: (each.st_mtime_ns, each.st_size) for name, each in before.items()} == {
        name: (each.st_mtime_ns, each.st_size) for name, each in after.items()
    }


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = examine_sqlite(str(tmp_path / "events.db"))
    assert seen(found) == []
    assert any("there is no file" in each for each in seen(found, "note"))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    (finding,) = examine_sqlite(str(tmp_path / "no" / "events.db"))
    assert finding.seen == f"there is no directory {tmp_path}/no"
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_directory_that_may_not_be_written(
    file: Path, unprivileged: tuple[str, ...]
) -> None:
    os.chmod(file, 0o444)
    assert f"fault this account may not write {file}\n" in examine_as(unprivileged, file)
    os.chmod(file, 0o644)
    os.chmod(file.parent, 0o555)
    try:
        words = f"fault this account may not write {file.parent}\n"
        assert words in examine_as(unprivileged, file)
    finally:
        os.chmod(file.parent, 0o755)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_text("events\n" * 100)
    assert seen(examine_sqlite(str(path))) == [f"{path} is no SQLite database"]
    path.write_text("")
    assert seen(examine_sqlite(str(path))) == []


def test_a_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    db.close()
    assert seen(examine_sqlite(str(path))) == [f"{path} is a database of another program"]


def test_a_file_without_its_write_ahead_log(file: Path) -> None:
    db = sqlite3.connect(file)
    # The connection of the channels is idle; this one needs the file for itself.
    (mode,) = db.execute("PRAGMA journal_mode = DELETE").fetchone()
    db.close()
    assert mode == "delete"
    assert f"{file} has no write-ahead log" in seen(examine_sqlite(str(file)), "note")


MOUNTS = """\
overlay / overlay rw,relatime 0 0
/dev/sda1 /srv ext4 rw 0 0
host:/export /srv/shared nfs4 rw,vers=4.2 0 0
//host/share /mnt/my\\040files cifs rw 0 0
/dev/sdb1 /srv/shared/disk xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/events.db", "overlay"),
        ("/srv/events.db", "ext4"),
        ("/srv/shared/events.db", "nfs4"),
        ("/srv/sharedness/events.db", "ext4"),
        ("/srv/shared/disk/events.db", "xfs"),
        ("/mnt/my files/events.db", "cifs"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


def test_the_kernels_own_mounts_can_be_read() -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm")
    mounts = Path("/proc/self/mounts").read_text()
    assert file_system_of(Path("/dev/shm/events.db"), mounts) == "tmpfs"
