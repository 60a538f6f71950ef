"""Measures three hosts for docs/scaling.rst: ``python -m tests.long.hosts.figures``.

It prints the tables. With ``--write-docs`` it writes them into ``docs/scaling/``. That takes ten
minutes, in which nothing else should run on the machine. See the package for what it needs.
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.scaling.simulate import DOCS, number, table
from tests.long.chaos.__main__ import BROKERS, WORKER_CLASSES
from tests.long.hosts.measuring import NEWS, Measuring
from tests.long.hosts.street import Street, enter

#: Hosts, and the workers of each.
STREETS = ((1, 1), (1, 2), (2, 2), (3, 2))

MOST = STREETS[-1]

#: Seconds for which a host is cut off, and after which its streams are counted again.
AWAY, LATER = 10.0, 15.0

#: How often the master is killed.
FAILOVERS = 3

NAMES = {"redis": "Redis", "postgresql": "PostgreSQL", "sentinel": "Redis, three sentinels"}

PARTS = ("workers", "nginx", "broker", "publishers", "clients")


class Figures:
    """The rows of each table, as they come."""

    def __init__(self, clients: int, seconds: float, worker_class: str) -> None:
        self._clients = clients
        self._seconds = seconds
        self._worker_class = worker_class
        self.rows: dict[str, list[tuple[str, ...]]] = {name: [] for name in HEADS}

    def measure(self, kind: str, hosts: int, workers: int) -> None:
        """All that one street shows."""
        measuring = Measuring(kind, hosts, workers, self._worker_class)
        try:
            if kind == "sentinel":
                self._gather(measuring)
                self._failover(measuring)
                return
            self._publishing(measuring, kind, hosts)
            self._delivery(measuring, kind, hosts)
            if (hosts, workers) == MOST:
                self._gather(measuring)
                self._fairness(measuring, kind)
                self._cut(measuring, kind)
                self._reload(measuring, kind)
        finally:
            measuring.stop()

    def tables(self) -> dict[str, str]:
        return {name: table(head, self.rows[name]) for name, head in HEADS.items()}

    def _add(self, name: str, *row: Any) -> None:
        self.rows[name].append(tuple(map(str, row)))
        print(f"{name}: {'  '.join(map(str, row))}", flush=True)

    def _gather(self, measuring: Measuring) -> None:
        measuring.gather([NEWS] * self._clients)

    # -- throughput

    def _publishing(self, measuring: Measuring, kind: str, hosts: int) -> None:
        for own in (False, True):
            found = measuring.publishing(self._seconds, own=own)
            self._add(
                "hosts-publishing",
                NAMES[kind],
                "one each" if own else "one",
                hosts,
                measuring.workers,
                number(found.per_second),
                number(found.broker),
            )

    def _delivery(self, measuring: Measuring, kind: str, hosts: int) -> None:
        for own in (False, True):
            found = measuring.delivery(self._seconds, self._clients, own=own)
            server = sum(found.cpu[name] for name in PARTS[:3])
            self._add(
                "hosts-delivery",
                NAMES[kind],
                "one each" if own else "one",
                hosts,
                measuring.workers,
                number(found.per_second),
                f"{found.per_second * sum(found.cpu.values()) / 1e6:.1f}",
                *(number(found.cpu[name]) for name in PARTS[:3]),
                number(server),
                number(found.cpu["publishers"] + found.cpu["clients"]),
                number(found.cpu["broker"] * (1 if own else self._clients)),
            )

    # -- fairness

    def _fairness(self, measuring: Measuring, kind: str) -> None:
        clients = measuring.audience.clients
        of_hosts = measuring.streams()
        of_workers = Counter(client.worker for client in clients)
        host_of = measuring.host_of()
        began = time.monotonic()
        measuring.during(lambda: measuring.audience.run_for(2 * self._seconds))
        delays: list[float] = []
        last: dict[tuple[str, int], float] = {}
        for client in clients:
            assert client.worker is not None
            host = host_of[client.worker].address
            for arrival in client.arrivals:
                if arrival.sent > began:
                    delay = (arrival.received - arrival.sent) * 1000
                    delays.append(delay)
                    key = host, arrival.number
                    last[key] = max(last.get(key, 0.0), delay)
        hosts = [[d for (of, _), d in last.items() if of == host] for host in sorted(of_hosts)]
        self._add(
            "hosts-fairness",
            NAMES[kind],
            least_and_most(of_hosts.values()),
            least_and_most(of_workers.values()),
            f"{number(percentile(delays, 0.5))}, {number(percentile(delays, 0.99))}",
            *(
                least_and_most([percentile(each, share) for each in hosts], number)
                for share in (0.5, 0.99)
            ),
        )

    # -- faults

    def _cut(self, measuring: Measuring, kind: str) -> None:
        audience = measuring.audience
        host = measuring.street.hosts[-1]
        owners = measuring.host_of()
        cut = [c for c in audience.clients if c.worker and owners[c.worker] is host]
        at, then = 0.0, 0

        def act() -> None:
            nonlocal at, then
            audience.run_for(1)
            at = time.monotonic()
            host.cut_off()
            audience.run_for(AWAY)
            host.come_back()
            audience.run_until(lambda: audience.is_whole, "the clients of the host")
            audience.run_for(LATER)
            then = measuring.streams()[host.address]

        last = measuring.during(act)
        times = [next(b.ended for b in client.breaks if b.ended > at) - at for client in cut]
        self._fault(
            "a host is cut off: to the new stream",
            kind,
            measuring,
            times,
            last,
            f"{then} streams on the host {LATER:g} s after its return, {len(cut)} before",
        )

    def _reload(self, measuring: Measuring, kind: str) -> None:
        audience = measuring.audience
        began = time.monotonic()

        def act() -> None:
            for host in measuring.street.hosts:
                old = {pid for pid, of in measuring.host_of().items() if of is host}
                measuring.do(host.reload)
                gone = {None, *old}
                audience.run_until(
                    lambda gone=gone: all(c.worker not in gone for c in audience.clients),
                    "the streams to leave the old workers",
                )

        last = measuring.during(act)
        breaks = [b for client in audience.clients for b in client.breaks if b.began > began]
        streams = measuring.streams()
        self._fault(
            "all hosts are reloaded in turn: without a stream",
            kind,
            measuring,
            [each.ended - each.began for each in breaks],
            last,
            f"{least_and_most(streams.values())} streams on a host",
        )

    def _failover(self, measuring: Measuring) -> None:
        audience = measuring.audience
        times: list[float] = []
        last = 0
        for _ in range(FAILOVERS):

            def act() -> None:
                audience.run_for(1)
                measuring.do(measuring.broker.fail_over)
                audience.run_for(1)

            last = measuring.during(act)
            at = measuring.broker.killed_at
            times += [
                next(a.received for a in client.arrivals if a.sent > at) - at
                for client in audience.clients
            ]
        gaps = sum(client.gaps for client in audience.clients)
        ends = sum(len(client.breaks) for client in audience.clients)
        self._fault(
            "Redis's master is killed: to the next message",
            "sentinel",
            measuring,
            times,
            last,
            f"{gaps} gaps told, {ends} streams ended",
        )

    def _fault(
        self,
        what: str,
        kind: str,
        measuring: Measuring,
        times: list[float],
        last: int,
        afterwards: str,
    ) -> None:
        clients = measuring.audience.clients
        lost = sum(client.missing(last) for client in clients)
        twice = sum(client.doubles for client in clients)
        disorder = sum(not client.is_in_order for client in clients)
        self._add(
            "hosts-faults",
            what,
            NAMES[kind],
            len(times),
            f"{statistics.median(times):.1f}",
            f"{max(times):.1f}",
            f"{lost}, {twice}, {disorder}",
            afterwards,
        )


HEADS = {
    "hosts-publishing": (
        "broker",
        "channels",
        "hosts",
        "publishers",
        "messages a second",
        "broker, µs for a message",
    ),
    "hosts-delivery": (
        "broker",
        "channels",
        "hosts",
        "workers",
        "deliveries a second",
        "busy cores",
        "workers, µs",
        "nginx, µs",
        "broker, µs",
        "these three, µs",
        "publishers and clients, µs",
        "broker, µs for a message",
    ),
    "hosts-fairness": (
        "broker",
        "streams of a host",
        "streams of a worker",
        "p50, p99 of a client, ms",
        "p50 of a host's last client, ms",
        "its p99, ms",
    ),
    "hosts-faults": (
        "what happens: what is measured",
        "broker",
        "clients",
        "median, s",
        "longest, s",
        "lost, twice, in disorder",
        "afterwards",
    ),
}


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def least_and_most(values: Any, show: Callable[[float], str] = str) -> str:
    return f"{show(min(values))} to {show(max(values))}"


def main() -> int:
    enter("tests.long.hosts.figures", sys.argv[1:])
    parser = argparse.ArgumentParser(prog="python -m tests.long.hosts.figures")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--worker-class", choices=WORKER_CLASSES, default="SseWorker")
    parser.add_argument("--broker", choices=(*BROKERS[1:], "sentinel"), action="append")
    parser.add_argument("--hosts", type=int, action="append", help="1, 2 and 3, unless given")
    parser.add_argument("--write-docs", action="store_true", help="into docs/scaling")
    given = parser.parse_args()
    Street.pave()
    figures = Figures(given.clients, given.seconds, given.worker_class)
    for kind in given.broker or ("redis", "postgresql", "sentinel"):
        for hosts, workers in [MOST] if kind == "sentinel" else STREETS:
            if hosts in (given.hosts or (hosts,)):
                figures.measure(kind, hosts, workers)
    for name, text in figures.tables().items():
        print(f"\n{name}\n\n{text}")
        if given.write_docs:
            (DOCS / f"{name}.rst").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
