"""``python -m tests.long.soak``: see the package."""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from typing import Any

import gevent
from gevent.pool import Pool

from ssestream.runtime.threads import IDLE
from tests.kit.servers import Server
from tests.long.soak.audit import Audit
from tests.long.soak.behaviours import Visit, come
from tests.long.soak.client import ask

#: Clients at a time. A threaded server has a thread for each stream, and some
#: clients have two.
AT_A_TIME = {"SseWorker": 300, "gevent": 300, "pywsgi": 300, "gthread": 150}
THREADS = 200

#: The run is in so many parts, and after each all must be gone.
PARTS = 4

#: Bytes by which memory may grow over the second half of the run, however long.
GROWTH = 3 * 1024 * 1024

#: Of these nothing may be left.
NONE_LEFT = ("SseStream", "ServerResponse", "Connection", "timers", "watched", "looked_after")

#: Of these no more than there were at first.
NO_MORE = ("greenlets", "descriptors", "threads", "tasks")

#: Seconds in which all must be gone. A threaded server keeps its threads for ten.
SETTLE = 30.0


class Soak:
    def __init__(self, server: Server, seed: int, at_a_time: int) -> None:
        self.server = server
        self.audit = Audit()
        self.connections = 0
        self._seed = seed
        self._at_a_time = at_a_time
        self._number = 0

    def ask(self, path: str, method: str = "GET") -> Any:
        return json.loads(ask(self.server.port, path, method))

    def fill_the_house(self) -> None:
        """So many at once that a threaded server has made all the threads that it will."""
        visits = []
        for _ in range(max(THREADS, self._at_a_time)):
            visit = self._next_visit()
            line = visit.connect()
            answer = visit.get(line, "/paced", may_be={"client"})
            line.read(answer, lambda seen: seen.ok)
            visits.append(visit)
        for visit in visits:
            self._over(visit, "fill the house")

    def go_on(self, connections: int) -> None:
        """So many connections more, and whatever was begun with them."""
        pool = Pool(self._at_a_time)
        collector = gevent.spawn(self._collect)
        planned = 0
        while planned < connections:
            visit = self._next_visit()
            planned += visit.behaviour.connections
            pool.spawn(self._act, visit)
        pool.join()
        collector.kill()

    def _next_visit(self) -> Visit:
        self._number += 1
        return come(self.server.port, self._seed, self._number)

    def _act(self, visit: Visit) -> None:
        try:
            visit.behaviour.act(visit)
        except Exception as error:
            who = visit.answers[-1].key if visit.answers else "?"
            name = visit.behaviour.name
            self.audit.mismatches.append(f"stream {who} ({name}): its client gave up: {error!r}")
        self._over(visit, visit.behaviour.name)

    def _over(self, visit: Visit, name: str) -> None:
        for line in visit.lines:
            line.fin()
        self.connections += len(visit.lines)
        self.audit.saw(name, len(visit.lines), visit.answers)

    def _collect(self) -> None:
        while True:
            gevent.sleep(0.5)
            self.audit.told(self.ask("/ledger", "POST"))

    def settle(self, most: dict[str, int] | None = None) -> dict[str, int]:
        """What is alive in the server when everybody has gone and it has come to rest."""
        deadline = time.monotonic() + SETTLE
        while True:
            self.audit.told(self.ask("/ledger", "POST"))
            counts = self.ask("/statistics")
            inside: dict[str, int] = self.ask("/inside")
            left = not_gone(inside, most)
            if counts["open"] or counts["pages"]:
                left.append("open streams")
            if not left or time.monotonic() > deadline:
                return inside
            gevent.sleep(0.1)


def not_gone(inside: dict[str, int], most: dict[str, int] | None) -> list[str]:
    left = [name for name in NONE_LEFT if inside[name]]
    if most is not None:
        left += [name for name in NO_MORE if inside[name] > most[name]]
    return left


def run(kind: str, connections: int, seed: int) -> list[str]:
    """Everything; the sentences that say what is wrong."""
    started = time.monotonic()
    # With an arena for each thread malloc would hold on to much more than is used.
    env = {"MALLOC_ARENA_MAX": "1"}
    server = Server(kind, "tests.servers.apps.soak:application", threads=THREADS, env=env).start()
    try:
        soak = Soak(server, seed, AT_A_TIME[kind])
        soak.fill_the_house()
        soak.go_on(max(100, connections // 20))
        # With the threads that a threaded server had needed for the crowd gone too.
        gevent.sleep(IDLE + 1 if kind == "gthread" else 0)
        first = soak.settle()
        states = [first]
        print(f"{'connections':>12} {'seconds':>8} {'resident':>10}  what is alive", flush=True)
        show(soak.connections, started, first)
        for part in range(1, PARTS + 1):
            soak.go_on(-(-connections // PARTS))
            # A threaded server's spare threads are waited for in the end only.
            states.append(soak.settle(first if part == PARTS else None))
            show(soak.connections, started, states[-1])
        soak.audit.conclude()
        counts = soak.ask("/statistics")
    finally:
        server.stop()
    soak.audit.total(counts)
    wrong = soak.audit.mismatches
    for part, state in enumerate(states):
        for name in not_gone(state, first if part == PARTS else None):
            wrong.append(f"left after part {part}: {state[name]} {name}, at first {first[name]}")
    growth = states[-1]["resident"] - states[PARTS // 2]["resident"]
    if growth > GROWTH:
        wrong.append(f"memory grew by {growth:,} bytes in the second half, and {GROWTH:,} may be")
    # A server reports in its own way who leaves while it reads or refuses a request.
    for trace in re.findall(r"^Traceback.*(?:\n .*)*\n.*", server.log(), re.MULTILINE):
        if "/ssestream/" in trace:
            wrong.append("in the server's log:\n" + trace)
    report(soak, counts, growth, time.monotonic() - started)
    return wrong


def show(connections: int, started: float, state: dict[str, int]) -> None:
    alive = ", ".join(f"{value} {name}" for name, value in state.items() if name != "resident")
    seconds = time.monotonic() - started
    print(
        f"{connections:12,} {seconds:8.1f} {state['resident'] / 1e6:7.1f} MB  {alive}", flush=True
    )


def report(soak: Soak, counts: dict[str, Any], growth: int, seconds: float) -> None:
    audit = soak.audit
    columns = ("visits", "connections", "streams", "answered", "clean", "messages", "beats")
    print(
        "\n"
        + f"{'what clients did':32}"
        + "".join(f"{name:>12}" for name in columns)
        + "  ended as"
    )
    for name, row in sorted(audit.by_behaviour.items()):
        ends = ", ".join(f"{n} {cause}" for cause, n in sorted(row.items()) if cause not in columns)
        print(f"{name:32}" + "".join(f"{row[column]:12,}" for column in columns) + f"  {ends}")
    print("\n" + f"{'statistics()':32}{'counted':>16}  from what clients saw")
    for cause in sorted(counts["closed"]):
        least, most = audit.bounds(cause)
        span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        print(f"{'closed, ' + cause:32}{counts['closed'][cause]:16,}  {span}")
    totals: Counter[str] = audit.totals
    unanswered = totals["opened unanswered"]
    answered = f"{totals['answered'] + unanswered:,}, of which {unanswered:,} left before the head"
    print(f"{'opened and refused':32}{counts['opened'] + counts['refused']:16,}  {answered}")
    print(f"{'refused':32}{counts['refused']:16,}  {audit.bounds('refused')[0]:,}")
    print(f"{'messages':32}{counts['messages']:16,}  {totals['received']:,} read whole")
    print(f"{'bytes':32}{counts['bytes']:16,}")
    print(f"{'heartbeats':32}{counts['heartbeats']:16,}  {totals['beats']:,}")
    print(f"{'dropped':32}{counts['dropped']:16,}  {totals['missed']:,}")
    print(
        f"\n{soak.connections:,} connections in {seconds:.0f} s; memory grew by {growth:,} bytes"
        f" in the second half"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.long.soak")
    parser.add_argument("--server", choices=sorted(AT_A_TIME), action="append")
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=None, help="one at random, unless given")
    arguments = parser.parse_args()
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    result = 0
    for kind in arguments.server or ["SseWorker", "gevent", "pywsgi", "gthread"]:
        print(f"== {kind}: {arguments.connections:,} connections, seed {seed}", flush=True)
        wrong = run(kind, arguments.connections, seed)
        for sentence in wrong[:30]:
            print(f"WRONG: {sentence}")
        if wrong:
            print(f"== {kind}: FAILED with {len(wrong)} mismatches, seed {seed}\n", flush=True)
            result = 1
        else:
            print(f"== {kind}: nothing is left, and the registry balance\n", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
