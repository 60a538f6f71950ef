"""What is SQLite's own: one file, many processes, and all that can go wrong with it."""

import contextlib
import gc
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssestream.brokers.broker import BrokerError, Position, Slice, Terms
from ssestream.brokers.sqlite import SqliteBroker, database, logs, watch
from tests.kit.brokers import (
    LOTS,
    NEVER,
    Actor,
    Elsewhere,
    all_closed,
    everything,
    follow,
    frames,
    news,
    next_news,
    plainly,
    wait,
)
from tests.kit.no_memory import LARGE, WELL, without_memory
from tests.kit.programs import run_program
from tests.kit.promptness import at_best, in_one_try
from tests.kit.servers import ROOT
from tests.servers.apps.brokers import ENOUGH


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "events.db")


@pytest.fixture
def opened(path: str) -> Iterator[Callable[..., SqliteBroker]]:
    with all_closed(
        lambda where=path, history=None, age=None: SqliteBroker(where, history, age)
    ) as opened:
        yield opened


@pytest.fixture
def broker(opened: Callable[..., SqliteBroker]) -> SqliteBroker:
    return opened()


@pytest.fixture
def other(path: str) -> Iterator[sqlite3.Connection]:
    """What else uses the file."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    yield connection
    connection.close()


Open = Callable[..., SqliteBroker]


def connection_of(broker: SqliteBroker) -> sqlite3.Connection | None:
    return broker._database.connection


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])


# -- the file


def test_the_file_is_made_when_it_is_first_asked(path: str, broker: SqliteBroker) -> None:
    assert not os.path.exists(path)
    broker.read("news", 0, 1, 1)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    broker = opened("here.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    broker.append("news", b"x")
    assert (tmp_path / "here.db").exists()


def test_many_make_the_file_at_once(path: str, opened: Open) -> None:
    for n in range(10):
        where = f"{path}{n}"
        start = threading.Barrier(6)

        def begin(where: str = where, start: threading.Barrier = start) -> Position:
            broker = opened(where)
            start.wait()
            return broker.append("news", b"x")

        positions = [each.result() for each in [Elsewhere(begin) for _ in range(6)]]
        assert sorted(position.number for position in positions) == list(range(1, 7))
        assert len({position.log for position in positions}) == 1


def test_the_file_does_not_grow_with_what_is_forgotten(path: str, opened: Open) -> None:
    broker = opened(history=50)
    for _ in range(3000):
        broker.append("news", b"x" * 2000)
    # 6 MB went through it.
    assert os.path.getsize(path) < 500_000
    assert os.path.getsize(path + "-wal") < 8_000_000


def test_what_a_burst_made_of_the_wal_is_given_back(path: str, opened: Open) -> None:
    broker = opened(history=5)
    reader = sqlite3.connect(path + "x")
    reader.close()
    broker.append("news", b"x")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    count(reader)  # as long as it reads, nothing can be taken out of the log
    for _ in range(30):
        broker.append("news", b"x" * (1 << 20))
    assert os.path.getsize(path + "-wal") > 30_000_000
    reader.execute("COMMIT")
    reader.close()
    for _ in range(5):
        broker.append("news", b"x" * (1 << 20))
    assert os.path.getsize(path + "-wal") < 20_000_000


# -- trimming


def test_an_append_removes_a_few_at_most(opened: Open, other: sqlite3.Connection) -> None:
    many = opened(history=500)
    for n in range(1, 501):
        many.append("news", b"%d" % n)
    few = opened()
    # Not by `keep`, which removes at once what is no longer kept.
    other.execute("UPDATE channels SET history = 10")
    # What is no longer kept is no longer given, removed or not.
    assert everything(few, "news").first == 491
    left = count(other)
    assert left == 500
    for n in range(501, 600):
        few.append("news", b"%d" % n)
        left, before = count(other), left
        assert before + 1 - left <= logs.TRIMMED
        assert everything(few, "news").first == n - 9
        assert len(everything(few, "news").entries) == 10
    assert left == 10


def test_an_append_removes_what_is_old_in_other_channels(
    opened: Open, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = opened(age=60.0)
    for n in range(200):
        broker.append(f"user/{n % 40}", b"x")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 61)
    assert everything(broker, "user/39").entries == []
    left = count(other)
    assert left == 200
    user = "SELECT count(*) FROM events JOIN channels ON id = channel WHERE name LIKE 'user/%'"
    while other.execute(user).fetchone() != (0,):
        broker.append("news", b"x")
        left, before = count(other), left
        assert before + 1 - left <= logs.TRIMMED
    assert everything(broker, "user/7")[1:4] == (6, 5, [])


def test_a_clock_that_is_set_makes_no_hole(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = opened(age=60.0)
    real = time.time
    for n in range(300):
        ahead = (0, 3600, -3600, 90, -90)[n // 60]
        monkeypatch.setattr(time, "time", lambda ahead=ahead: real() + ahead)
        broker.append("news", b"%d" % (n + 1))
        broker.append("sports", b"%d" % (n + 1))
        for name in ("news", "sports"):
            piece = everything(broker, name)
            assert piece.last == n + 1
            numbers = [entry.number for entry in piece.entries]
            assert numbers == list(range(piece.first, n + 2))


# -- waiting


def test_whoever_waits_is_told_within_50_ms_where_there_is_no_inotify(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_libc", None)
    reader, writer = opened(), opened()
    at = NEVER

    def tell() -> float:
        nonlocal at
        waiter = Elsewhere(lambda at=at: (news(reader, {"news": at}), time.monotonic()))
        at = writer.append("news", b"x")
        begin = time.monotonic()
        found, heard = waiter.result()
        assert found["news"].last == at.number
        return float(heard - begin)

    # Most of a try, as a single wait may be short by chance.
    at_best(lambda: statistics.median(tell() for _ in range(9)), 0.05)
    # And so it is with a wake.
    waiter = Elsewhere(wait, reader, {"news": at})
    reader.wake()
    assert waiter.result() == {}


def test_what_was_appended_by_one_who_died_before_he_told_is_found(
    broker: SqliteBroker, other: sqlite3.Connection
) -> None:
    at = broker.append("news", b"1")
    waiter = Elsewhere(news, broker, {"news": at})
    other.execute("BEGIN IMMEDIATE")
    other.execute(
        "INSERT INTO events SELECT change + 1, channel, 2, at, x'32', '', 2, NULL FROM events"
    )
    other.execute("UPDATE channels SET last = 2, change = change + 1, token = 'abcdef'")
    other.execute("COMMIT")
    assert frames(waiter.result()["news"]) == [b"2"]


def test_an_idle_wait_costs_next_to_nothing(path: str, actor: Callable[..., Actor]) -> None:
    waiter = actor(f"sqlite:///{path}", "wait", *(f"user/{n}" for n in range(2000)))
    assert waiter.next("waits")
    process = psutil.Process(waiter.process.pid)

    def be_idle() -> tuple[bool, tuple[int, float]]:
        before, busy = process.num_ctx_switches(), process.cpu_times()
        time.sleep(1.5)
        switches = process.num_ctx_switches().voluntary - before.voluntary
        spent = sum(process.cpu_times()[:2]) - sum(busy[:2])
        return switches <= 10 and spent <= 0.05, (switches, spent)

    # A sleep that a busy machine makes long has more of both.
    in_one_try(be_idle)


def test_a_wake_up_does_not_ask_about_every_channel(opened: Open) -> None:
    reader, writer = opened(), opened()
    at = {f"user/{n}": NEVER for n in range(10_000)}
    follow(reader, at)
    settle(reader)
    asked: list[str] = []
    connection = connection_of(reader)
    assert connection is not None
    connection.set_trace_callback(asked.append)
    waiter = Elsewhere(next_news, reader)
    writer.append("user/77", b"x")
    assert waiter.result().keys() == {"user/77"}
    # Once before it slept, and once or twice for what woke it.
    assert 0 < len(asked) <= 20


def test_no_inotify_to_be_had_is_no_error(
    opened: Open, monkeypatch: pytest.MonkeyPatch, broker: SqliteBroker
) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    taken = []
    try:
        for _ in range(limit + 1):
            with contextlib.suppress(OSError):
                taken.append(watch.FileWatch())
        with pytest.raises(OSError, match="no inotify instance is free"):
            watch.FileWatch()
        waiter = Elsewhere(news, broker, {"news": NEVER})
        opened().append("news", b"x")
        assert waiter.result()["news"].last == 1
    finally:
        taken.clear()


# -- others who are busy with it


def test_an_append_waits_for_others_and_lets_the_process_go_on(
    broker: SqliteBroker, other: sqlite3.Connection
) -> None:
    broker.append("news", b"1")
    other.execute("BEGIN IMMEDIATE")
    writer = Elsewhere(broker.append, "news", b"2")
    # Reading needs no lock, and is not held up by the one who waits for it.
    for _ in range(100):
        assert everything(broker, "news").last == 1
    assert not writer.over
    other.execute("COMMIT")
    assert writer.result().number == 2


def test_a_lock_that_is_kept_too_long_is_an_error(
    broker: SqliteBroker, other: sqlite3.Connection, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.append("news", b"1")
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BrokerError, match=r"events\.db: database is locked"):
        broker.append("news", b"2")
    other.execute("COMMIT")
    assert broker.append("news", b"2").number == 2


def test_a_handler_of_signals_that_raises_leaves_no_lock(opened: Open) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*args: object) -> None:
        raise Interrupted

    broker, another = opened(), opened()
    before = signal.signal(signal.SIGVTALRM, interrupt)
    interrupted, took = 0, []
    try:
        for n in range(40):
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005 + n * 0.0001)
            try:
                while True:
                    broker.append("news", b"x")
            except Interrupted:
                interrupted += 1
            begin = time.monotonic()
            another.append("sports", b"%d" % n)
            took.append(time.monotonic() - begin)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert interrupted == 40
    # A lock that nobody gives back is an error after some seconds.
    assert statistics.median(took) < 1.0
    assert everything(another, "sports").last == 40
    piece = everything(another, "news")
    assert [entry.number for entry in piece.entries] == list(range(piece.first, piece.last + 1))


# -- death


@pytest.mark.long_except("1")
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_loses_nothing_and_holds_up_nobody(
    seed: int, path: str, opened: Open, actor: Callable[..., Actor]
) -> None:
    reader = opened(history=1 << 40)
    read: list[tuple[int, bytes]] = []
    over = threading.Event()

    def follow() -> None:
        reader.follow("news", NEVER)
        while not over.is_set() or everything(reader, "news").last > len(read):
            for piece in reader.wait().values():
                assert isinstance(piece, Slice)
                read.extend(piece.entries)

    follower = Elsewhere(follow)
    url = f"sqlite:///{path}"
    told = actor(url, "massacre", "news", str(seed), "40", "3", HISTORY=str(1 << 40)).tells()
    # Nobody is left who could clear up; whoever comes next does it. A lock that nobody gives back
    # is an error after some seconds.
    opened(history=1 << 40).append("news", b"0 0")
    over.set()
    reader.wake()
    follower.result()
    returned = [tuple(line.split()) for each in told for line in each["returned"]]
    assert len(returned) > ENOUGH
    kept = {
        number: frame.rstrip(b".").split()
        for number, frame, _ in everything(reader, "news").entries
    }
    assert list(kept) == list(range(1, len(kept) + 1))
    for number, mark, at in returned:
        assert kept[int(number)] == [mark.encode(), at.encode()]
    assert len({tuple(words) for words in kept.values()}) == len(kept)
    # Each could tell of all its appends but the last.
    assert len(kept) - len(returned) - 1 <= len(told)
    assert [(number, frame.rstrip(b".").split()) for number, frame, _ in read] == list(kept.items())
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


# -- what can be wrong with a file


def test_a_directory_that_is_not_there_is_an_error_until_it_is(
    tmp_path: Path, opened: Open
) -> None:
    broker = opened(str(tmp_path / "not" / "there.db"))
    for use in (
        lambda: broker.append("news", b"x"),
        lambda: broker.read("news", 0, 1, 1),
        lambda: wait(broker, {"news": NEVER}),
    ):
        with pytest.raises(BrokerError, match=r"there\.db: .*no directory .*/not\)"):
            use()
    (tmp_path / "not").mkdir()
    assert broker.append("news", b"x").number == 1


@pytest.mark.parametrize("where", ["file/below.db", "folder"])
def test_a_path_on_which_no_file_can_be_is_an_error(
    where: str, tmp_path: Path, opened: Open
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BrokerError, match=f"{where}: unable to open database file"):
        opened(str(tmp_path / where)).append("news", b"x")


def test_a_file_of_something_else_is_left_alone(path: str, broker: SqliteBroker) -> None:
    Path(path).write_bytes(b"dear diary" * 1000)
    with pytest.raises(
        BrokerError, match=r"events\.db: file is not a database .move the file away"
    ):
        broker.append("news", b"x")
    assert Path(path).read_bytes() == b"dear diary" * 1000
    os.rename(path, path + ".old")
    assert broker.append("news", b"x").number == 1


def test_a_database_of_something_else_is_left_alone(path: str, broker: SqliteBroker) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE channels (mine TEXT)")
    connection.close()
    with pytest.raises(BrokerError, match=r"events\.db: the file is a database of another program"):
        broker.append("news", b"x")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("channels",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_damaged_file_is_an_error_until_it_is_moved_away(path: str, opened: Open) -> None:
    before = opened()
    for _ in range(200):
        before.append("news", b"x" * 1000)
    before.close()
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(os.path.getsize(path) - 4096))
    broker = opened()
    with pytest.raises(BrokerError, match=r"events\.db: database disk image is malformed .move"):
        broker.append("news", b"x")
    with pytest.raises(BrokerError, match=r"events\.db: database disk image is malformed .move"):
        broker.read("news", 0, LOTS, LOTS)
    for name in (path, path + "-wal", path + "-shm"):
        if os.path.exists(name):
            os.rename(name, name + ".old")
    assert broker.append("news", b"x").number == 1


def test_a_file_that_was_removed_is_begun_anew_and_everybody_hears_of_it(
    path: str, opened: Open
) -> None:
    reader, writer = opened(), opened()
    at = writer.append("news", b"old")

    def follow() -> Any:
        # An error while it is being removed is fair, and a listener tries again.
        while True:
            try:
                return news(reader, {"news": at})
            except BrokerError:
                pass

    waiter = Elsewhere(follow)
    for name in (path, path + "-wal", path + "-shm"):
        os.unlink(name)
    assert plainly(waiter.result()) == {"news": ("", 1, 0, [])}
    waiter = Elsewhere(news, reader, {"news": NEVER})
    position = writer.append("news", b"new")
    assert position.log != at.log
    assert plainly(waiter.result()) == {"news": (position.log, 1, 1, [(1, b"new")])}


def run(script: str, *args: str, before: tuple[str, ...] = ()) -> list[Any]:
    """What a script in a process of its own says."""
    done = subprocess.run(
        [*before, sys.executable, "-c", PRELUDE + script, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


PRELUDE = """
import json, os, resource, sys, threading
from ssestream.brokers.broker import BrokerError, Position
from ssestream.brokers.sqlite import SqliteBroker
from tests.kit.brokers import news

def say(what):
    print(json.dumps(what), flush=True)

def fill(broker):
    appended = 0
    try:
        while appended < 5000:
            broker.append("news", b"x" * 5000)
            appended += 1
    except BrokerError as error:
        say(str(error))
    return appended

path = sys.argv[1]
broker = SqliteBroker(path, 100000, None)
reader = SqliteBroker(path, 100000, None)
"""

FULL = """
first = broker.append("news", b"x")
with open(os.path.join(os.path.dirname(path), "ballast"), "wb") as ballast:
    ballast.write(bytes(1000000))
appended = fill(broker)
say(appended > 10)
# Not a hair of the one that failed, and whoever reads goes on.
piece = reader.read("news", 0, 1 << 30, 1 << 30)
say([piece.last - 1 - appended, len(piece.entries) - 1 - appended])
say(news(reader, {"news": first})["news"].last == piece.last)
fill(broker)
os.unlink(ballast.name)
say(broker.append("news", b"y").number - piece.last)
say(news(reader, {"news": Position(first.log, piece.last)})["news"].last - piece.last)
"""


@pytest.fixture
def unshare() -> tuple[str, ...]:
    command = ("unshare", "--mount", "--map-root-user")
    try:
        subprocess.run([*command, "mount", "-t", "tmpfs", "x", "/mnt"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("left out, as this user may not mount anything, not even for itself")
    return command


def test_a_full_disk_is_an_error_that_harms_nobody_who_reads(
    tmp_path: Path, unshare: tuple[str, ...]
) -> None:
    mount = f'mount -t tmpfs -o size=2m tmpfs {tmp_path} && exec "$@"'
    before = (*unshare, "sh", "-c", mount, "sh")
    words, enough, apart, waited, again, more, heard = run(
        FULL, f"{tmp_path}/events.db", before=before
    )
    assert words.endswith("events.db: database or disk is full (make room on its disk)")
    assert again == words
    assert (enough, apart, waited, more, heard) == (True, [0, 0], True, 1, 1)


LIMITED = """
first = broker.append("news", b"x")
resource.setrlimit(resource.RLIMIT_FSIZE, (500000, resource.RLIM_INFINITY))
appended = fill(broker)
piece = reader.read("news", 0, 1 << 30, 1 << 30)
say([appended > 10, piece.last - 1 - appended, len(piece.entries) - 1 - appended])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
say(broker.append("news", b"y").number - piece.last)
say(news(reader, {"news": Position(first.log, piece.last)})["news"].last - piece.last)
"""


def test_a_disk_that_fails_is_an_error_until_it_does_not(path: str) -> None:
    words, apart, more, heard = run(LIMITED, path)
    assert words.endswith("events.db: disk I/O error")
    assert (apart, more, heard) == ([True, 0, 0], 1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its size so")
def test_a_lack_of_memory_is_an_error_that_loses_nothing(path: str, broker: SqliteBroker) -> None:
    broker.append("large", b"x" * LARGE)
    assert without_memory(SqliteBroker, path) == WELL


READ_ONLY = """
folder = os.path.dirname(path)
first = broker.append("news", b"x")
broker.close()
os.chmod(path, 0o444)
fill(broker)
say(broker.read("news", 0, 9, 9).last)
for name in os.listdir(folder):
    os.chmod(os.path.join(folder, name), 0o644)
say(broker.append("news", b"y").number)
broker.close()
os.chmod(folder, 0o555)
fill(broker)
os.chmod(folder, 0o755)
say(broker.append("news", b"z").number)
"""


def test_what_may_not_be_written_is_an_error_until_it_may(
    path: str, unprivileged: tuple[str, ...]
) -> None:
    # Modes are nothing to root, unless it is told otherwise.
    file, read, more, folder, again = run(READ_ONLY, path, before=unprivileged)
    assert file.endswith(
        "events.db: attempt to write a readonly database"
        " (this process must be allowed to write the file, its -wal and -shm,"
        " and the directory)"
    )
    assert (read, more, again) == (1, 2, 3)
    assert "(this process must be allowed to write" in folder


def test_who_may_not_write_harms_nobody_who_reads(
    path: str, opened: Open, actor: Callable[..., Actor], unprivileged: tuple[str, ...]
) -> None:
    reader = opened()
    at = opened().append("news", b"x")
    waiter = Elsewhere(news, reader, {"news": at})
    os.chmod(path, 0o444)
    (words,) = run("fill(broker)", path, before=unprivileged)
    assert "events.db: attempt to write a readonly database" in words
    assert everything(reader, "news").last == 1
    os.chmod(path, 0o644)
    assert run('say(broker.append("news", b"y").number)', path, before=unprivileged) == [2]
    assert frames(waiter.result()["news"]) == [b"y"]


FORK = """
broker.append("news", b"before")
(to_child, of_parent), (to_parent, of_child) = os.pipe(), os.pipe()
if os.fork():
    # What the parent does with its connection is no matter of the child's.
    os.read(to_parent, 1)
    broker.close()
    broker.append("news", b"parent")
    broker.close()
    os.write(of_parent, b"x")
    say(os.wait()[1])
    say([entry.frame.decode() for entry in broker.read("news", 0, 9, 1 << 20).entries])
else:
    broker.append("news", b"child")
    os.write(of_child, b"x")
    os.read(to_child, 1)
    broker.append("news", b"child again")
    os._exit(0)
"""


def test_a_child_does_not_use_what_its_parent_has_open(path: str) -> None:
    status, kept = run(FORK, path)
    assert status == 0
    assert kept == ["before", "child", "parent", "child again"]


# -- what nobody closes


def test_a_connection_is_closed_when_its_broker_is_dropped(path: str) -> None:
    """And not by the collector, of which Python 3.13 warns."""
    dropped = SqliteBroker(path, 10, None)
    dropped.append("news", b"one")
    db = connection_of(dropped)
    assert db is not None
    del dropped
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        db.execute("SELECT 1")


LEAVING = """
import sys
from ssestream import Channels, SseStream
channels = Channels(sys.argv[1])
channels.publish("news", {"data": "x"})
stream = SseStream()
channels.subscribe(stream, "news")
"""


def test_a_process_that_ends_leaves_nothing_to_the_collector(path: str) -> None:
    done = run_program(LEAVING, f"sqlite:///{path}", options=("-X", "dev", "-W", "always"))
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_told_of_the_file_is_in_one_line(tmp_path: Path) -> None:
    broker = SqliteBroker(f"{tmp_path}/a\nb\x1b[2J/events.db", 10, None)
    with pytest.raises(BrokerError) as caught:
        broker.append("news", b"one")
    assert str(caught.value).isprintable()


THREADS_FORK = """
import os, sys, threading
from ssestream.brokers.sqlite import SqliteBroker
brokers = [SqliteBroker(f"{sys.argv[1]}.{n}", 100, None) for n in range(4)]
for broker in brokers:
    broker.append("news", b"x")
start = threading.Barrier(3)

def fork_often():
    start.wait()
    for _ in range(6):
        child = os.fork()
        if not child:
            os._exit(brokers[0].append("news", b"child").number == 0)
        assert os.waitpid(child, 0)[1] == 0

threads = [threading.Thread(target=fork_often) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
done = threading.Thread(target=lambda: [b.append("news", b"y") for b in brokers], daemon=True)
done.start()
done.join(60)
say([done.is_alive(), brokers[0].read("news", 0, 0, 0).last])
"""


def test_threads_that_fork_at_once_leave_no_lock_behind(path: str) -> None:
    assert run(THREADS_FORK, path) == [[False, 20]]


def test_threads_that_fork_at_the_same_time_leave_no_lock_taken(tmp_path: Path) -> None:
    # In a process of its own, as a lock that stays taken would hold up every other test.
    words = f"""
import os, threading
import logging
from ssestream import Channels
logging.getLogger('ssestream').setLevel('ERROR')
urls = ["sqlite:///{tmp_path}/events.db", "memory://"]
all_channels = [Channels(url) for url in urls]
def append(channels):
    return channels.publish("news", {{"data": "x"}})
def fork():
    for _ in range(25):
        pid = os.fork()
        if not pid:
            for channels in all_channels:
                append(channels)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
threads = [threading.Thread(target=fork) for _ in range(6)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    for channels in all_channels:
        append(channels)
free = threading.Event()
def last():
    for channels in all_channels:
        append(channels)
    free.set()
threading.Thread(target=last, daemon=True).start()
assert free.wait(60)
assert len(all_channels[0].history("news")) >= 150
print("free")
"""
    done = run_program(words, options=("-W", "ignore"))
    assert done.stdout == "free\n", done.stderr
    assert done.stderr == ""


def test_a_file_of_version_2_goes_on(path: str, opened: Callable[..., SqliteBroker]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            """
            PRAGMA journal_mode = WAL;
            CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
                log TEXT NOT NULL, last INTEGER NOT NULL, change INTEGER NOT NULL,
                token TEXT NOT NULL DEFAULT '', messages INTEGER NOT NULL DEFAULT 0,
                at REAL NOT NULL DEFAULT 0, history INTEGER, age REAL);
            CREATE INDEX changes ON channels (change);
            CREATE TABLE events (change INTEGER PRIMARY KEY, channel INTEGER NOT NULL,
                number INTEGER NOT NULL, at REAL NOT NULL, frame BLOB NOT NULL,
                token TEXT NOT NULL DEFAULT '', message INTEGER NOT NULL DEFAULT 0, expires REAL);
            CREATE UNIQUE INDEX numbers ON events (channel, number);
            CREATE INDEX expiry ON events (expires) WHERE expires IS NOT NULL;
            INSERT INTO channels VALUES (1, 'news', 'abcd', 2, 2, 'bbbbbb', 2, 1.0, 1000, NULL);
            INSERT INTO events VALUES (1, 1, 1, 1.0, x'31', 'aaaaaa', 1, NULL);
            INSERT INTO events VALUES (2, 1, 2, 1.0, x'32', 'bbbbbb', 2, NULL);
            PRAGMA application_id = 1397966082;
            """
        )
    broker = opened()
    assert frames(everything(broker, "news")) == [b"1", b"2"]
    assert broker.append("news", b"3", Terms(end=True))[:2] == ("abcd", 3)
    broker.delete("news")
    assert everything(broker, "news").last == 0


# -- which channels have changed


def settle(reader: SqliteBroker) -> None:
    """Let *reader* look at all channels that it follows, in which there is nothing new."""
    for _ in range(100):  # a few hundred channels at a time
        reader.wake()
        assert reader.wait() == {}


def looks_at(reader: SqliteBroker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many channels each later look of *reader* at its logs is about."""
    counts: list[int] = []
    ends = logs.Logs.ends

    def counting(self: logs.Logs, db: sqlite3.Connection, channels: list[str]) -> Any:
        counts.append(len(channels))
        return ends(self, db, channels)

    monkeypatch.setattr(logs.Logs, "ends", counting)
    return counts


@pytest.mark.parametrize("history", [1, 1000])
@pytest.mark.parametrize("others", [0, 3, 300])
def test_an_event_is_looked_for_in_its_channel_alone(
    history: int, others: int, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if each event removes the one before it from the file."""
    reader, writer = opened(history=history), opened(history=history)
    for n in range(others):
        writer.append(f"user/{n}", b"x")
    at = {f"user/{n}": reader.read(f"user/{n}", 0, 0, 0).end for n in range(500)}
    follow(reader, at)
    reader.follow("news", writer.append("news", b"0"))
    settle(reader)
    counts = looks_at(reader, monkeypatch)
    for n in range(1, 40):
        for _ in range(3):  # of which the look sees the last one
            writer.append("news", b"%d" % n)
        assert frames(next_news(reader)["news"])[-1] == b"%d" % n
    assert counts == [1] * len(counts)


def test_a_restored_backup_is_seen_though_what_was_seen_last_is_trimmed(
    path: str, opened: Open
) -> None:
    reader, writer = opened(history=1), opened(history=1)
    for name in ("news", "sports", "weather", "quiet"):
        writer.append(name, b"old")
    copy = sqlite3.connect(path + "-copy")
    with sqlite3.connect(path) as source:
        source.backup(copy)
    source.close()
    follow(reader, {name: reader.read(name, 0, 0, 0).end for name in ("news", "sports", "quiet")})
    ends = {}
    for name in ("sports", "weather", "news", "news"):
        ends[name] = writer.append(name, b"lost")
        assert name == "weather" or next_news(reader)[name].read_to == ends[name]
    with sqlite3.connect(path) as target:
        copy.backup(target)
    target.close()
    copy.close()
    # The numbers of what is lost are given to others.
    for name in ("weather", "news", "news", "news", "news"):
        last = writer.append(name, b"new")
    found: dict[str, Slice] = {}
    while found.keys() != {"news", "sports"}:
        found |= next_news(reader)
    assert found["news"].last_check == last.check
    assert found["news"].misses(ends["news"])
    assert found["sports"].misses(ends["sports"])
    reader.wake()
    assert reader.wait() == {}
