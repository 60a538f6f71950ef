"""PostgreSQL is restarted while batches of appends are under way, from threads and greenlets."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssestream.brokers.postgresql import PostgresqlBroker
from tests.kit.brokers import all_closed, everything
from tests.kit.postgresql_server import PostgresqlServer
from tests.kit.servers import ROOT, wait_until

Open = Callable[..., PostgresqlBroker]
Start = Callable[..., PostgresqlServer]

NAMES = ("news", "sports", "weather")

WRITERS = 24

#: Each writer publishes one event after another, and tells what has become of each in a line.
PROGRAM = """
import itertools, json, os, sys
from gevent import monkey
KIND, URL, WRITERS, *NAMES = sys.argv[1:]
if KIND != "threads":
    monkey.patch_all()
import gevent, gevent.threadpool
from ssestream.brokers.postgresql import PostgresqlBroker
from ssestream.errors import BrokerError

start_thread = monkey.get_original("_thread", "start_new_thread")
now = monkey.get_original("time", "monotonic")
broker = PostgresqlBroker(URL, 10**6)
over = []

def tell(*words):
    # One call for a line: greenlets and threads share no lock here.
    os.write(1, json.dumps(words).encode() + b"\\n")

def write(writer):
    for n in itertools.count():
        if over:
            return tell("left", writer)
        name, frame, began = NAMES[(writer + n) % len(NAMES)], f"{writer} {n}", now()
        try:
            number, check = broker.append(name, frame.encode())[1:]
            tell("stored", writer, name, frame, number, check)
        except BrokerError as error:
            tell("raised", writer, name, frame, began, now(), str(error)[:500])

pool = gevent.threadpool.ThreadPool(int(WRITERS)) if KIND == "greenlets and pool" else None
for writer in range(int(WRITERS)):
    if KIND == "greenlets" or (KIND != "threads" and writer % 2):
        gevent.spawn(write, writer)
    elif pool is not None:
        pool.spawn(write, writer)
    else:
        start_thread(write, (writer,))
if KIND == "threads":
    sys.stdin.read()
else:
    gevent.os.tp_read(0, 1)
over.append(True)
# The process is killed when all writers have left.
monkey.get_original("time", "sleep")(600) if KIND == "threads" else gevent.sleep(600)
"""


class Writers:
    """A process that publishes all the time, and what it tells."""

    def __init__(self, kind: str, url: str) -> None:
        command = [sys.executable, "-c", PROGRAM, kind, url, str(WRITERS), *NAMES]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.stored: list[Any] = []
        self.raised: list[Any] = []
        self._left: list[Any] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        kinds = {"stored": self.stored, "raised": self.raised, "left": self._left}
        for line in self._process.stdout:
            kind, *words = json.loads(line)
            kinds[kind].append(words)

    def go_on(self) -> None:
        """Wait until each writer has stored two events from now on: one has begun by now."""
        count = len(self.stored)

        def all_have() -> bool:
            counts = Counter(words[0] for words in self.stored[count:])
            return all(counts[writer] > 1 for writer in range(WRITERS))

        wait_until(all_have, "each writer to go on")

    def fail(self) -> None:
        """Wait until each writer has failed once from now on."""
        count = len(self.raised)
        wait_until(
            lambda: len({words[0] for words in self.raised[count:]}) == WRITERS, "all to fail"
        )

    def leave(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        wait_until(lambda: len(self._left) == WRITERS, "all writers to end")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("greenlets", PostgresqlServer.stop),
        ("threads", PostgresqlServer.stop_at_once),
        ("greenlets and threads", PostgresqlServer.stop_at_once),
        ("greenlets and pool", PostgresqlServer.stop),
    ],
)
def test_batches_that_meet_a_restart_are_stored_once_or_raise(
    kind: str,
    end: Callable[[PostgresqlServer], None],
    start_postgresql: Start,
    opened: Open,
) -> None:
    # Most of the time, a transaction is being committed. A server that stops meanwhile commits it,
    # and gives no answer.
    server = start_postgresql("fsync=on", "commit_delay=20000", "commit_siblings=0")
    url = server.make_database()
    writers = Writers(kind, url)
    try:
        writers.go_on()
        end(server)
        server.start()
        writers.go_on()
        end(server)
        away = time.monotonic()
        # The second failure of a writer is one of an event that no server has ever got.
        writers.fail()
        writers.fail()
        back = time.monotonic()
        server.start()
        writers.go_on()
        writers.leave()
    finally:
        writers.stop()
    pieces = {name: everything(opened(url), name) for name in NAMES}
    found = {
        (name, entry.frame.decode()): [entry.number, entry.check]
        for name, piece in pieces.items()
        for entry in piece.entries
    }
    assert len(found) == sum(len(piece.entries) for piece in pieces.values())
    for _, name, frame, *place in writers.stored:
        assert found[name, frame] == place
    never = [words for words in writers.raised if away < words[3] and words[4] < back]
    assert len(never) >= WRITERS
    for _, name, frame, *_ in never:
        assert (name, frame) not in found
    told = {(name, frame) for _, name, frame, *_ in writers.stored + writers.raised}
    assert found.keys() <= told
    # Nobody is told that the server is busy.
    assert all("Connection refused" in words[5] or "closed" in words[5] for words in never)
