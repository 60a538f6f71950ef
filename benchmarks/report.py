"""Tables of ratios in reStructuredText, from the measurements."""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from .contenders import BEFORE, CONTENDERS
from .measures import MEASURES, Record
from .promises import PROMISES
from .workloads import WORKLOADS

OURS = ("ours-gevent", "ours-worker")

#: The quantities of each measure: the key in a record, and the unit for a reader.
QUANTITIES = {
    "stream": {"rate": "messages a second", "cpu": "CPU microseconds a message"},
    "connect": {"rate": "connections a second", "p99": "milliseconds to the first byte, p99"},
    "churn": {"rate": "connections a second", "p99": "milliseconds to the first byte, p99"},
    "fanout": {"rate": "deliveries a second", "cpu": "CPU microseconds a delivery"},
    "burst": {"rate": "deliveries a second", "cpu": "CPU microseconds a delivery"},
    "latency": {"p50": "milliseconds, p50", "p99": "milliseconds, p99"},
    "memory": {"own": "KiB of a connection, the process's own"},
    "growth": {"growth": "of the CPU time of a delivery at 100"},
    "timers": {
        "cpu": "CPU microseconds a message",
        "delivered": "% of the messages asked for",
        "p50": "milliseconds late, p50",
        "p99": "milliseconds late, p99",
    },
    "sources": {
        "cpu": "CPU microseconds a message",
        "delivered": "% of the messages asked for",
        "p50": "milliseconds late, p50",
        "p99": "milliseconds late, p99",
    },
    "tokens": {
        "stream": "CPU milliseconds a stream",
        "cpu": "CPU microseconds a message",
        "p99": "milliseconds late, p99",
    },
    "write": {"rate": "deliveries a second", "cpu": "CPU microseconds a delivery"},
    "full": {"rate": "messages a second", "cpu": "CPU microseconds a message"},
    **{
        f"users-{broker}": {
            "cpu": "CPU microseconds an event",
            **({"redis": "CPU microseconds of Redis an event"} if broker == "redis" else {}),
            "growth": "of the CPU time of an event at 100",
            "p50": "milliseconds, p50",
            "p99": "milliseconds, p99",
        }
        for broker in ("memory", "sqlite", "redis")
    },
    **{
        f"fresh-{broker}": {
            "rate": "channels a second",
            "cpu": "CPU microseconds a channel",
            **({"redis": "CPU microseconds of Redis a channel"} if broker == "redis" else {}),
        }
        for broker in ("memory", "sqlite", "redis")
    },
}

MORE_IS_BETTER = ("rate", "delivered")

#: The quantities that records have.
RECORDED = ("rate", "cpu", "p50", "p99", "own", "kernel", "delivered", "stream", "redis")

Key = tuple[str, int, str]


class Numbers:
    """The values of each quantity, by contender and round."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._values: dict[Key, dict[str, dict[int, float]]] = {}
        for record in records:
            for quantity in RECORDED:
                if quantity in record and not record["wrong"]:
                    key = (record["measure"], record["clients"], quantity)
                    self._add(key, record["contender"], record["round"], record[quantity])
        self._grown("fanout", 10_000, "growth")
        for measure in WORKLOADS:
            if measure.startswith("users-"):
                for clients in self.sizes(measure):
                    self._grown(measure, clients, measure)

    def _grown(self, measure: str, clients: int, target: str) -> None:
        """Add the ratios of the CPU time with so many clients to that with 100."""
        few, many = (self._values.get((measure, count, "cpu"), {}) for count in (100, clients))
        for name in few.keys() & many.keys():
            for number in few[name].keys() & many[name].keys():
                ratio = many[name][number] / few[name][number]
                self._add((target, clients, "growth"), name, number, ratio)

    def _add(self, key: Key, name: str, number: int, value: float) -> None:
        self._values.setdefault(key, {}).setdefault(name, {})[number] = value

    def sizes(self, measure: str) -> list[int]:
        return sorted({clients for kind, clients, _ in self._values if kind == measure})

    def of(self, key: Key, name: str) -> list[float]:
        return list(self._values.get(key, {}).get(name, {}).values())

    def ratios(self, key: Key, name: str, reference: str) -> list[float]:
        """The ratios of *name* to *reference*, one for each round that has both."""
        these = self._values.get(key, {}).get(name, {})
        those = self._values.get(key, {}).get(reference, {})
        rounds = sorted(these.keys() & those.keys())
        # The floor takes almost no memory. A ratio to almost nothing means nothing.
        least = 0.05 if key[2] == "own" else 0
        pairs = [(these[number], those[number]) for number in rounds]
        return [this / that for this, that in pairs if min(this, that) > least]


def number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """The median, with the least and the greatest value."""
    if not values:
        return "\\-"
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))} to {number(max(values))})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A simple table in reStructuredText."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([rule, text[0], rule, *text[1:], rule])


def heading(text: str, under: str = "-") -> str:
    return f"{text}\n{under * len(text)}"


def titled(measure: str, clients: int) -> str:
    what = MEASURES[measure]
    for words in ("all clients", "the clients"):
        what = what.replace(words, f"{clients:,} clients")
    if measure == "tokens":
        what = what.replace("so many", f"{clients:,}")
    if measure == "memory":
        what += ", from 1,000 to 10,000 of them"
    return what[0].upper() + what[1:]


def names_in(records: Iterable[Record]) -> list[str]:
    present = {record["contender"] for record in records}
    return [name for name in (*CONTENDERS, *BEFORE) if name in present]


def measured_tables(records: list[Record], under: str = "-") -> list[str]:
    """For each measure a heading, its tables, and how busy server and client were."""
    numbers, names = Numbers(records), names_in(records)
    parts = []
    for measure in MEASURES:
        for clients in numbers.sizes(measure):
            parts.append(heading(titled(measure, clients), under))
            for quantity, unit in QUANTITIES[measure].items():
                key = (measure, clients, quantity)
                rows = [
                    [
                        name,
                        spread(numbers.of(key, name)),
                        *(spread(numbers.ratios(key, our, name)) for our in OURS if our in names),
                    ]
                    for name in names
                    if numbers.of(key, name)
                ]
                if not rows:
                    continue
                ours = [f"{our} to it" for our in OURS if our in names]
                parts.append(table(["contender", unit, *ours], rows))
            if measure == "memory":
                parts.append(kernel_in_words(numbers, names))
            else:
                parts.append(shares(records, measure, clients, names))
    return [part for part in parts if part]


def shares(records: list[Record], measure: str, clients: int, names: list[str]) -> str:
    """A line that says how busy server and client were, as median shares of their cores."""
    cells = []
    for name in names:
        found = [
            record
            for record in records
            if (record["measure"], record["clients"], record["contender"])
            == (measure, clients, name)
            and "server_share" in record
        ]
        if found:
            server, client = (
                statistics.median(record[f"{side}_share"] for record in found)
                for side in ("server", "client")
            )
            limit = " *" if any("client" in word for r in found for word in r["doubts"]) else ""
            cells.append(f"{name} {server:.0%}, {client:.0%}{limit}")
    if not cells:
        return ""
    star = ""
    if any(cell.endswith("*") for cell in cells):
        star = " In those with a star the client was the limit in a round or more."
        cells = [cell.replace(" *", " (\\*)") for cell in cells]
    return "Of their cores, server and client used: " + "; ".join(cells) + "." + star


def kernel_in_words(numbers: Numbers, names: list[str]) -> str:
    key = ("memory", 10_000, "kernel")
    parts = [f"{name} {spread(numbers.of(key, name))}" for name in names if numbers.of(key, name)]
    return (
        "The kernel's part comes on top, in KiB of a connection with both of its ends, "
        "from its slabs and socket buffers: " + "; ".join(parts) + "."
    )


def beside_table(records: list[Record]) -> str:
    """The ratios of this checkout to the other one; nothing if there was no other."""
    numbers = Numbers(records)
    rows = []
    for measure, quantities in QUANTITIES.items():
        for clients in numbers.sizes(measure):
            for quantity, unit in quantities.items():
                key = (measure, clients, quantity)
                ratios = [numbers.ratios(key, now, old) for old, now in BEFORE.items()]
                if any(ratios):
                    what = f"{measure} {clients:,}" if clients else measure
                    better = "more" if quantity in MORE_IS_BETTER else "less"
                    rows.append([what, unit, better, *map(spread, ratios)])
    if not rows:
        return ""
    heads = [f"{now} to {old}" for old, now in BEFORE.items()]
    return table(["what", "unit", "better", *heads], rows)


def promises_table(records: list[Record]) -> str:
    numbers = Numbers(records)
    rows = []
    for promise in PROMISES:
        key = (promise.measure, promise.clients, promise.quantity)
        unit = QUANTITIES[promise.measure][promise.quantity]
        what = promise.measure + (f" {promise.clients:,}" if promise.clients else "")
        if promise.reference is None:
            values = numbers.of(key, promise.contender)
        else:
            values = numbers.ratios(key, promise.contender, promise.reference)
        if values:
            kept = promise.kept_by(statistics.median(values))
            rows.append(
                [
                    f"{what}: {unit}",
                    promise.contender,
                    promise.reference or "\\-",
                    promise.bound,
                    spread(values),
                    "reached" if kept else "not reached",
                ]
            )
    if not rows:
        return ""
    return table(["what", "of", "to", "promised", "measured", ""], rows)


def faults(results: dict[str, Any]) -> str:
    """The measurements with faults, and the doubtful ones."""
    records = results["records"]
    lines = []
    for record in records:
        if record["wrong"]:
            lines.append(f"WRONG, and left out of the tables: {line(record)}")
    doubtful = [record for record in records if record["doubts"]]
    for record in doubtful[:20]:
        lines.append(f"in doubt: {line(record)}")
    if len(doubtful) > 20:
        lines.append(f"in doubt: {len(doubtful) - 20} more")
    checked = sum(
        record.get("deliveries", 0)
        for record in records
        if record["measure"] not in ("connect", "churn")
    )
    lines.append(f"{checked:,.0f} deliveries checked: count, order, gaps and doubles")
    return "\n".join(lines)


def line(record: Record) -> str:
    """One measurement in a line, as it is printed during a run."""
    parts = [f"{record['round'] + 1} {record['contender']:<14} {record['measure']:<8}"]
    if record["clients"]:
        parts.append(f"{record['clients']:>6,} clients")
    for quantity, unit in QUANTITIES.get(record["measure"], {}).items():
        if quantity in record:
            parts.append(f"{number(record[quantity])} {unit}")
    if "server_share" in record:
        parts.append(f"server {record['server_share']:.0%}, client {record['client_share']:.0%}")
    parts += [f"{name}: {value}" for name, value in record["wrong"].items()]
    return "  ".join([*parts, *record["doubts"]])


def text(results: dict[str, Any]) -> str:
    """All tables, for a terminal."""
    parts = [*measured_tables(results["records"])]
    if promised := promises_table(results["records"]):
        parts += [heading("What was promised"), promised]
    if compared := beside_table(results["records"]):
        parts += [heading("This checkout to the other one"), compared]
    parts += [heading("How far to trust it"), faults(results)]
    parts += [f"{name} was left out: {why}" for name, why in results["left_out"].items()]
    return "\n\n".join(parts).replace("\\-", "- ").replace("\\*", "*")


def machine_in_words() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, with Python {platform.python_version()}"


def as_json(results: dict[str, Any]) -> str:
    """The results as JSON: one record in a line, with significant digits only."""

    def short(record: Record) -> Record:
        return {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in record.items()
        }

    about = {name: value for name, value in results.items() if name != "records"}
    records = ",\n".join(json.dumps(short(record)) for record in results["records"])
    return json.dumps(about, indent=1)[:-2] + ',\n "records": [\n' + records + "\n]}\n"
