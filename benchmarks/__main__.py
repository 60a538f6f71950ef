"""``python -m benchmarks``: build the programs, measure all contenders in turns, report."""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import pages, report
from .beside import package_in
from .contenders import BEFORE, CONTENDERS, before, build, missing, versions
from .measures import MEASURES, Measuring, Plan, Record, doubts, visits
from .servers import Contender, Failure, cores, running
from .workloads import WORKLOADS, broker_of


def listed(known: dict[str, object]) -> object:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return names

    return parse


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to try it")
    parser.add_argument("--rounds", type=int, help="5 if not given")
    parser.add_argument("--seconds", type=float, help="of a measurement; 1.5 if not given")
    parser.add_argument(
        "--contenders",
        type=listed(dict(CONTENDERS)),
        help=f"of {','.join(CONTENDERS)}; all, or with --beside the first two, if not given",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        help="another checkout of this project, to compare its package with this one's",
    )
    parser.add_argument(
        "--measure",
        type=listed(dict(MEASURES)),
        default=list(MEASURES),
        help=f"of {','.join(MEASURES)}",
    )
    parser.add_argument(
        "--clients",
        type=lambda text: tuple(int(word) for word in text.split(",")),
        help="how many, for each measure that has a number of them: 1000 or 100,1000",
    )
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    parser.add_argument("--read", type=Path, help="measure nothing, report what is in this file")
    parser.add_argument("--write-docs", action="store_true", help="rewrite docs/benchmarks.rst")
    options = parser.parse_args(words)
    if options.contenders is None:
        options.contenders = list(BEFORE.values()) if options.beside else list(CONTENDERS)
    if options.beside:
        try:
            package_in(options.beside)
        except ValueError as error:
            parser.error(str(error))
        if options.write_docs:
            parser.error("--write-docs is for a run without --beside")
    return options


def visit_of(visit: str, contender: Contender, plan: Plan, patience: float) -> Iterator[Record]:
    """The records of one visit to one contender, with fresh processes."""
    workload = WORKLOADS.get(visit)
    if workload is None:
        with running(contender, patience) as (server, load):
            yield from getattr(Measuring(server, load, plan), visit)()
        return
    with_its_app = workload.contender(contender)
    if with_its_app is None:
        return
    options = workload.options(plan.seconds)
    with (
        broker_of(workload) as broker,
        # Redis needs time on the clients' core.
        running(with_its_app, patience, not broker.is_a_server, options, broker.environment) as (
            server,
            load,
        ),
    ):
        yield from Measuring(server, load, plan, broker).own(visit)


def measure(
    contenders: list[Contender], plan: Plan, rounds: int, patience: float = 10, quiet: bool = False
) -> list[Record]:
    """Measure all contenders in each round, each time in another order, with fresh servers."""
    records: list[Record] = []
    for number in range(rounds):
        order = contenders[:]
        random.Random(number).shuffle(order)
        for visit in visits(plan):
            for contender in order:
                name = contender.name
                try:
                    for record in visit_of(visit, contender, plan, patience):
                        record = {"round": number, "contender": name, **record}
                        record["doubts"] = doubts(record)
                        records.append(record)
                        if not quiet:
                            print(report.line(record), flush=True)
                except Failure as failure:
                    records.append(
                        {
                            "round": number,
                            "contender": name,
                            "measure": visit,
                            "clients": 0,
                            "wrong": {"failure": str(failure)},
                            "doubts": [],
                        }
                    )
                    print(f"{name}: {failure}", file=sys.stderr, flush=True)
    return records


def main() -> int:
    options = arguments()
    # Exit as on Ctrl-C, so that the servers are ended.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if options.read:
        results = json.loads(options.read.read_text())
    else:
        build()
        asked = {name: CONTENDERS[name] for name in options.contenders}
        if options.beside:
            asked |= before(options.beside)
        contenders, left_out = [], {}
        for name, workload in WORKLOADS.items():
            if name in options.measure and (why := workload.missing):
                options.measure.remove(name)
                left_out[name] = why
                print(f"{name} is left out: {why}")
        for name, contender in asked.items():
            if why := missing(contender):
                left_out[name] = why
                print(f"{name} is left out: {why}")
            else:
                contenders.append(contender)
        shape = {"seconds": 0.5, "warm_up": 0.1, "paced": 8, "churn": 500} if options.quick else {}
        if options.seconds:
            shape["seconds"] = options.seconds
        plan = Plan(frozenset(options.measure), options.clients, **shape)
        rounds = options.rounds or (1 if options.quick else 5)
        one, other = cores()
        print(f"servers on core {one}, clients on core {other}, rounds: {rounds}", flush=True)
        if one == other:
            print("there is only one core: the clients and the server take it from each other")
        started = time.monotonic()
        records = measure(contenders, plan, rounds)
        results = {
            "records": records,
            "rounds": rounds,
            "left_out": left_out,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "machine": report.machine_in_words(),
            "versions": versions(),
        }
    if options.json:
        options.json.write_text(report.as_json(results))
    print("\n" + report.text(results))
    if options.write_docs:
        pages.write(results)
    return 1 if any(record["wrong"] for record in results["records"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
