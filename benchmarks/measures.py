"""The measurements of a server, and the signs that a measurement is wrong."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .servers import Failure, Load, Server, kernel_memory, machine
from .workloads import EVENTS, TICKS, WORKLOADS, Broker

#: One measurement: measure, contender, number of clients, results, faults and doubts.
Record = dict[str, Any]

MEASURES = {
    "stream": "one stream at full speed",
    "connect": "connections to their first byte, which stay open",
    "churn": "connections that are closed at their first byte",
    "fanout": "one message at a time to all clients",
    "burst": "64 messages at a time to all clients",
    "latency": "5 messages a second to all clients",
    "memory": "memory of connections that are idle",
    "growth": "cost of a delivery at 10,000 clients, to that at 100",
    **{name: workload.what for name, workload in WORKLOADS.items()},
}

#: The measures with one channel for all.
BROADCASTS = ("fanout", "burst", "latency", "growth")

#: The number of messages that are published together.
BURST = 64
STREAM_BATCH = 500
#: The number of connections that are made at the same time.
FLIGHT = 64
FEW, MANY = 1000, 10_000

#: The faults that the load client counts.
FAULTS = ("missing", "late", "doubles", "broken", "hung_up", "failed", "refused")


@dataclass(frozen=True)
class Plan:
    measures: frozenset[str]
    #: Numbers of clients; None means the usual ones of each measure.
    clients: tuple[int, ...] | None = None
    seconds: float = 1.5
    warm_up: float = 0.3
    paced: int = 20
    churn: int = 2000

    def clients_of(self, measure: str) -> set[int]:
        usual = {
            "fanout": {100, 1000, 5000},
            "growth": {100},
            "burst": {1000},
            "latency": {1000},
            **{name: set(workload.clients) for name, workload in WORKLOADS.items()},
        }
        if measure not in self.measures or measure not in usual:
            return set()
        if self.clients is not None and measure not in ("growth", "full"):
            return set(self.clients)
        return usual[measure]


class Measuring:
    """Measures one fresh server."""

    def __init__(
        self, server: Server, load: Load, plan: Plan, broker: Broker | None = None
    ) -> None:
        self.server, self.load, self.plan = server, load, plan
        self.broker = broker or Broker()

    def connect(self, total: int) -> dict[str, float]:
        result = self.load.do("connect", total, FLIGHT)
        if result["failed"] or result["streams"] != total:
            raise Failure(
                f"{result['streams']:.0f} of {total} clients could connect\n{self.server.log()}"
            )
        return result

    def measured(
        self,
        measure: str,
        clients: int,
        command: str,
        one: float,
        two: float,
        receivers: int | None = None,
    ) -> Record:
        """Run a command of the load client, and measure its cost to the server.

        Each message goes to *receivers*, or to all clients.
        """
        host, cpu, redis = machine(), self.server.cpu(), self.broker.cpu()
        result = self.load.do(command, one, two)
        cpu = self.server.cpu() - cpu
        redis = self.broker.cpu() - redis
        host = {name: seconds - host[name] for name, seconds in machine().items()}
        seconds = result["seconds"]
        record: Record = {
            "measure": measure,
            "clients": clients,
            "server_share": cpu / seconds,
            "client_share": result["busy"] / seconds,
            # The client reads on for a moment, to find late or double messages.
            "others_share": max(0.0, host["busy"] - cpu - redis - result["cpu"] - 0.03) / seconds,
            "steal_share": host["steal"] / seconds,
            **({"redis_share": redis / seconds} if self.broker.is_a_server else {}),
            "deliveries": result["deliveries"],
            "wrong": {name: result[name] for name in FAULTS if result[name]},
        }
        if result["deliveries"]:
            record["rate"] = result["deliveries"] / seconds
            record["cpu"] = cpu / result["deliveries"] * 1e6
            if self.broker.is_a_server:
                record["redis"] = redis / result["deliveries"] * 1e6
        expected = result["messages"] * (clients if receivers is None else receivers)
        if command in ("run", "paced") and result["deliveries"] != expected:
            record["wrong"].setdefault("missing", expected - result["deliveries"])
        if command != "run":
            record["p50"], record["p99"] = result["p50"] * 1000, result["p99"] * 1000
        return record

    def run(self, measure: str, clients: int, batch: int) -> Record:
        warm = self.load.do("run", self.plan.warm_up, batch)
        record = self.measured(measure, clients, "run", self.plan.seconds, batch)
        for name in FAULTS:
            if warm[name]:
                record["wrong"][name] = record["wrong"].get(name, 0) + warm[name]
        return record

    def own(self, measure: str) -> Iterator[Record]:
        """Streams with a producer or a channel of their own: see `workloads`."""
        workload = WORKLOADS[measure]
        seconds = self.plan.seconds * workload.longer
        for clients in sorted(self.plan.clients_of(measure)):
            if not workload.has_room(self.server.contender, clients):
                continue
            if measure.startswith("fresh-"):
                yield self.measured(measure, clients, "connect", clients, FLIGHT)
            elif workload.ends:
                # Each client comes twice, except the only one.
                total = clients * 2 if clients > 1 else 1
                record = self.measured(measure, clients, "turnover", total, clients, 0)
                if "cpu" in record:
                    record["stream"] = record["cpu"] * workload.count(self.plan.seconds) / 1000
                yield record
            else:
                self.connect(clients)
                if measure == "write":
                    yield self.run(measure, clients, 1)
                elif workload.broker:
                    self.load.do("paced", max(1, round(EVENTS * self.plan.warm_up)), EVENTS)
                    events = max(1, round(EVENTS * seconds))
                    yield self.measured(measure, clients, "paced", events, EVENTS, receivers=1)
                else:
                    self.load.do("listen", self.plan.warm_up, 0)
                    record = self.measured(measure, clients, "listen", seconds, 0)
                    record["delivered"] = record.get("rate", 0) / clients / TICKS * 100
                    yield record

    def broadcasts(self) -> Iterator[Record]:
        counts = {name: self.plan.clients_of(name) for name in BROADCASTS}
        for clients in sorted(set().union(*counts.values())):
            self.connect(clients)
            if clients in counts["fanout"] | counts["growth"]:
                yield self.run("fanout", clients, 1)
            if clients in counts["burst"]:
                yield self.run("burst", clients, BURST)
            if clients in counts["latency"]:
                yield self.measured("latency", clients, "paced", self.plan.paced, 5)

    def crowd(self) -> Iterator[Record]:
        sizes = []
        for clients in FEW, MANY:
            self.connect(clients)
            # Give the server time to free the memory that it used to connect.
            time.sleep(0.5)
            sizes.append((self.server.memory(), kernel_memory()))
        if "memory" in self.plan.measures:
            own, kernel = (
                (after - before) / 1024 / (MANY - FEW) for before, after in zip(*sizes, strict=True)
            )
            yield {
                "measure": "memory",
                "clients": MANY,
                "own": own,
                "kernel": kernel,
                "wrong": {},
            }
        if "growth" in self.plan.measures:
            yield self.run("fanout", MANY, 1)

    def arrivals(self) -> Iterator[Record]:
        self.load.do("churn", 20, FLIGHT)
        # First, as the generator does not notice clients that have left.
        if "connect" in self.plan.measures:
            yield self.measured("connect", 0, "connect", self.plan.churn, FLIGHT)
        if "churn" in self.plan.measures:
            yield self.measured("churn", 0, "churn", self.plan.churn, FLIGHT)

    def single(self) -> Iterator[Record]:
        self.connect(1)
        yield self.run("stream", 1, STREAM_BATCH)


def visits(plan: Plan) -> list[str]:
    """The visits of a round, in order. Each has a fresh server."""
    found = []
    if "stream" in plan.measures:
        found.append("single")
    if plan.measures & {"connect", "churn"}:
        found.append("arrivals")
    if any(plan.clients_of(name) for name in BROADCASTS):
        found.append("broadcasts")
    if plan.measures & {"memory", "growth"}:
        found.append("crowd")
    return [*found, *(name for name in WORKLOADS if name in plan.measures)]


def doubts(record: Record) -> list[str]:
    """The reasons why the numbers of a record may be misleading."""
    found: list[str] = []
    if "server_share" not in record:
        return found
    redis = record.get("redis_share", 0)
    if record["client_share"] + redis > 0.8 and record["server_share"] < 0.8:
        also = " with Redis on its core" if redis else ""
        found.append(f"the client{also} was the limit")
    if record["others_share"] > 0.15:
        found.append(f"others took {record['others_share']:.0%} of a core")
    if record["steal_share"] > 0.05:
        found.append(f"the host took {record['steal_share']:.0%} of a core")
    return found
