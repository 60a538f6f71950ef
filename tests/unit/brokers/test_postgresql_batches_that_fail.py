"""Appends that come together, and their leader, connection or process is lost.

Each event is stored exactly once if its caller lives, and never twice.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from ssestream import BrokerError
from ssestream.brokers.postgresql import PostgresqlBroker, group_commit, logs
from tests.kit.batches import ALL_ENTRIES, gathering, holding, start_together, written_by
from tests.kit.brokers import Elsewhere, all_closed, everything, frames
from tests.kit.servers import ROOT, wait_until

Open = Callable[..., PostgresqlBroker]

FRAMES = [b"%d" % n for n in range(12)]


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


def results(waiters: list[Elsewhere], broker: PostgresqlBroker) -> None:
    """Check that each append tells the place where its frame is, and that no frame is twice."""
    piece = everything(broker, "news")
    stored = {entry.number: entry for entry in piece.entries}
    for each, frame in zip(waiters, FRAMES, strict=True):
        log, number, check = each.result()
        assert (piece.log, frame, check) == (log, *stored[number][1:])
    assert sorted(frames(piece)) == sorted([b"first", *FRAMES])


def appended_together(url: str, broker: PostgresqlBroker) -> list[Elsewhere]:
    """The appends of `FRAMES`, which came together and are over."""
    with gathering(url, broker):
        waiters = start_together(broker, [("news", frame) for frame in FRAMES])
    for each in waiters:
        each.result()
    return waiters


# -- the connection


def test_a_connection_that_is_cut_before_its_batch_is_committed(
    postgresql_url: str, opened: Open
) -> None:
    broker = opened(postgresql_url)
    broker.append("news", b"first")
    with gathering(postgresql_url, broker) as db:
        waiters = start_together(broker, [("news", frame) for frame in FRAMES])
        for _ in range(2):  # the first leader, and the one that has all others
            wait_until(lambda: written_by(postgresql_url, batch=True), "a batch")
            for pid in written_by(postgresql_url, batch=True):
                db.execute("SELECT pg_terminate_backend(%s)", (pid,))
    for each in waiters:
        each.result()
    results(waiters, broker)


def test_an_answer_that_is_lost_behind_the_commit(
    postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = opened(postgresql_url)
    broker.append("news", b"first")
    append_all = logs.append_all
    sizes: list[int] = []

    def lose(db: Any, wanted: Any, waits: bool) -> Any:
        append_all(db, wanted, waits)
        sizes.append(len(wanted))
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(logs, "append_all", lose)
    waiters = appended_together(postgresql_url, broker)
    assert sizes == [1, 12]
    results(waiters, broker)


def test_a_batch_that_comes_after_its_callers_have_gone_on(
    postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = opened(postgresql_url)
    broker.append("news", b"first")
    append_all = logs.append_all
    lost: list[Any] = []

    def lose(db: Any, wanted: Any, waits: bool) -> Any:
        if len(wanted) == 1:  # the leader until the others are there
            return append_all(db, wanted, waits)
        lost.append(wanted)
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(logs, "append_all", lose)
    waiters = appended_together(postgresql_url, broker)
    assert [len(each) for each in lost] == [12]
    with psycopg.connect(postgresql_url, autocommit=True) as db:
        for wanted in lost:
            assert append_all(db, wanted, False) == [logs.Outcome(None)] * len(wanted)
    results(waiters, broker)


def test_an_error_of_a_batch_is_told_by_each_append_itself(
    postgresql_url: str, opened: Open
) -> None:
    broker = opened(postgresql_url)
    for name in ("good", "bad"):
        broker.append(name, b"first")
    with psycopg.connect(postgresql_url) as db:
        db.execute(
            "ALTER TABLE ssestream.events ADD CONSTRAINT no_bad CHECK (frame <> 'bad') NOT VALID"
        )
    appends = [("bad", b"bad") if n % 3 == 0 else ("good", b"x") for n in range(12)]
    with gathering(postgresql_url, broker):
        waiters = start_together(broker, appends)
    for each, (name, _) in zip(waiters, appends, strict=True):
        if name == "bad":
            with pytest.raises(BrokerError, match="no_bad"):
                each.result()
        else:
            each.result()
    assert everything(broker, "good").last == 9
    assert everything(broker, "bad").last == 1


# -- the leader


def test_others_do_not_wait_for_a_leader_that_is_stuck(
    postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "STUCK", 0.05)
    broker = opened(f"{postgresql_url}?max_connections=20")
    for name in ("news", "other", "third"):
        broker.append(name, b"first")
    with holding(postgresql_url, ALL_ENTRIES):
        # The leader is the third. It locks its channel before it waits.
        stuck = start_together(broker, [("other", b"1"), ("third", b"2"), ("news", b"x")])
        wait_until(lambda: written_by(postgresql_url, batch=True), "the leader")
        (pid,) = written_by(postgresql_url, batch=True)
        os.kill(pid, signal.SIGSTOP)
    try:
        others = [Elsewhere(broker.append, "other", b"%d" % n) for n in range(5)]
        for each in (*others, *stuck[:2]):
            each.result()
        assert not stuck[2].over
    finally:
        os.kill(pid, signal.SIGCONT)
    stuck[2].result()
    assert frames(everything(broker, "news")) == [b"first", b"x"]


@pytest.mark.parametrize("closes", [1, 3])
def test_a_broker_that_is_closed_meanwhile_stores_what_waits(
    closes: int, postgresql_url: str, opened: Open
) -> None:
    broker = opened(postgresql_url)
    broker.append("news", b"first")
    with gathering(postgresql_url, broker):
        waiters = start_together(broker, [("news", frame) for frame in FRAMES])
        for _ in range(closes):
            broker.close()
    for each in waiters:
        each.result()
    results(waiters, broker)


# -- greenlets and forks

PROGRAM = """
import os, sys
from gevent import monkey
KIND, URL = sys.argv[1:]
if KIND == "greenlets":
    monkey.patch_all()
import threading, time
import gevent, psycopg
from ssestream.brokers import open_broker
from ssestream.brokers.postgresql import group_commit
from tests.kit.batches import ALL_ENTRIES, BUSY

broker = open_broker(URL)
for name in ["news", *BUSY]:
    broker.append(name, b"first")
holder = psycopg.connect(URL)
holder.execute(ALL_ENTRIES)

def begin(spawn, count):
    # They wait in the line behind three others.
    begun = []
    frames = [("news", b"%d" % n) for n in range(count)]
    for name, frame in [(each, b"x") for each in BUSY] + frames:
        begun.append(spawn(broker.append, name, frame))
        while broker.group.under_way < len(begun):
            time.sleep(0.001)
    return begun

def release():
    holder.rollback()
    holder.close()
"""


def run(program: str, kind: str, url: str) -> Counter[bytes]:
    """Run *program* behind `PROGRAM`, and give how often each frame is stored."""
    command = [sys.executable, "-c", PROGRAM + program, kind, url]
    subprocess.run(command, check=True, timeout=60, cwd=ROOT)
    broker = PostgresqlBroker(url)
    stored = Counter(frames(everything(broker, "news")))
    broker.close()
    assert set(stored.values()) == {1}
    return stored


def test_killed_greenlets_break_no_batch(postgresql_url: str) -> None:
    program = (
        "begun = begin(gevent.spawn, 12)\n"
        # One that waits; the first leader; the next one, which has the others in its batch.
        "begun[10].kill()\n"
        "begun[2].kill()\n"
        "time.sleep(0.1)\n"
        "begun[3].kill()\n"
        "assert isinstance(begun[3].value, gevent.GreenletExit)\n"
        "time.sleep(0.1)\n"
        "release()\n"
        "gevent.joinall(begun, raise_error=True)\n"
        "numbers = [begun[n].value.number for n in range(4, 15) if n != 10]\n"
        "assert len(set(numbers)) == 10, numbers\n"
        "assert broker.group.under_way == 0\n"
        "broker.append('news', b'last')\n"
        "broker.close()\n"
    )
    stored = run(program, "greenlets", postgresql_url)
    assert stored.keys() >= {b"first", b"last", *FRAMES} - {b"0", b"7"}
    assert b"7" not in stored


@pytest.mark.long
def test_greenlets_that_are_killed_all_the_time_leave_nothing_behind(postgresql_url: str) -> None:
    program = (
        "release()\n"
        "import random\n"
        "done = []\n"
        "def write(writer):\n"
        "    for n in range(30):\n"
        "        frame = b'%d %d' % (writer, n)\n"
        "        one = gevent.spawn(broker.append, random.choice(['news', 'b']), frame)\n"
        "        one.join(random.random() * 0.01)\n"
        "        one.kill()\n"
        "gevent.joinall([gevent.spawn(write, n) for n in range(20)], raise_error=True)\n"
        "assert broker.group.under_way == 0\n"
        "begun = [gevent.spawn(broker.append, 'news', b'last %d' % n) for n in range(20)]\n"
        "gevent.joinall(begun, raise_error=True)\n"
        "broker.close()\n"
    )
    stored = run(program, "greenlets", postgresql_url)
    assert stored.keys() >= {b"last %d" % n for n in range(20)}


@pytest.mark.long_except("threads")
@pytest.mark.parametrize("kind", ["greenlets", "threads"])
def test_a_child_does_not_store_what_waits_in_its_parent(kind: str, postgresql_url: str) -> None:
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "group_commit.STUCK = 0.05\n"
        "pool = ThreadPoolExecutor(15)\n"
        "begun = begin(pool.submit, 12)\n"
        "reader, writer = os.pipe()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.close(writer)\n"
        # The parent has released the table.
        "    os.read(reader, 1)\n"
        "    assert broker.group.under_way == 0\n"
        "    broker.append('news', b'child')\n"
        # Let the copies of the parent's greenlets run, as far as they do.
        "    time.sleep(0.5)\n"
        "    broker.close()\n"
        "    os._exit(0)\n"
        "time.sleep(0.2)\n"
        "release()\n"
        "numbers = {each.result().number for each in begun[3:]}\n"
        "assert len(numbers) == 12\n"
        "os.write(writer, b'x')\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "broker.close()\n"
    )
    stored = run(program, kind, postgresql_url)
    assert stored.keys() == {b"first", b"child", *FRAMES}


@pytest.mark.long_except("greenlets")
@pytest.mark.parametrize("kind", ["greenlets", "threads"])
def test_the_others_of_a_process_go_on_while_appends_wait(kind: str, postgresql_url: str) -> None:
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "begun = begin(ThreadPoolExecutor(15).submit, 12)\n"
        "for _ in range(50):\n"
        "    time.sleep(0.001)\n"
        "assert not any(each.done() for each in begun)\n"
        "release()\n"
        "assert {each.result().number for each in begun[3:]} == set(range(2, 14))\n"
        "broker.close()\n"
    )
    stored = run(program, kind, postgresql_url)
    assert stored.keys() == {b"first", *FRAMES}
