"""Writes the results of a run into ``docs/benchmarks.rst``, with plots."""

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .contenders import CONTENDERS
from .report import (
    Numbers,
    as_json,
    heading,
    measured_tables,
    names_in,
    promises_table,
    table,
)
from .servers import HERE

PAGE = HERE.parent / "docs" / "benchmarks.rst"
FOLDER = HERE.parent / "docs" / "benchmarks"

BEGIN = ".. What follows is written by ``python -m benchmarks --write-docs``.\n"
END = ".. So far.\n"

#: The plots show ratios to this contender.
REFERENCE = "generator"

#: People who are blind to red or green can tell these colours apart, too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MARKERS = "os^Dv*Px"

Series = Mapping[str, Mapping[str, Sequence[float]]]

FANOUT = {
    f"{clients:,} clients": ("fanout", clients, "rate") for clients in (100, 1000, 5000, 10_000)
}
RATES = {
    "bursts to 1,000 clients": ("burst", 1000, "rate"),
    "connections a second": ("connect", 0, "rate"),
    "one stream": ("stream", 1, "rate"),
}
COSTS = {
    "CPU time of a delivery, 1,000 clients": ("fanout", 1000, "cpu"),
    "latency, p99": ("latency", 1000, "p99"),
    "memory of an idle connection": ("memory", 10_000, "own"),
}

PRODUCERS = {
    "timers": ("timers", 1000, "cpu"),
    "generators": ("sources", 1000, "cpu"),
    "streams that end": ("tokens", 200, "stream"),
    "a loop of write": ("write", 1000, "cpu"),
    "one stream, write and drain": ("full", 1, "cpu"),
}
USERS = {
    f"{clients:,} channels, Redis": ("users-redis", clients, "cpu") for clients in (100, 1000, 5000)
} | {"opening 5,000 channels, Redis": ("fresh-redis", 5000, "cpu")}

PLOTS: dict[str, tuple[str, dict[str, tuple[str, int, str]]]] = {
    "fanout": ("Deliveries a second, one message at a time (more is better)", FANOUT),
    "rates": ("Bursts, connections, one stream (more is better)", RATES),
    "costs": ("CPU time, latency and memory (less is better)", COSTS),
    "producers": ("CPU time where each client has a producer (less is better)", PRODUCERS),
    "users": ("CPU time where each client has a channel (less is better)", USERS),
}


def write(results: dict[str, Any]) -> None:
    records = results["records"]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "results.json").write_text(as_json(results))
    drawn = draw(records)
    names = names_in(records)
    about = [[name, CONTENDERS[name].what] for name in names]
    versions = ", ".join(" ".join(pair) for pair in results["versions"].items())
    run = (
        f"Rounds: {results['rounds']}, in {results['minutes']:g} minutes, on "
        f"{results['machine']}; {versions}. Each number is the median of the rounds, and what "
        "is in brackets is the least and the most. A ratio is made within a round."
    )
    parts = [
        heading("The run", "~"),
        textwrap.fill(run, 88),
        table(["name", "what it is"], about),
        *(f"{name} was left out: {why}." for name, why in results["left_out"].items()),
        heading("What the project promises itself", "~"),
        promises_table(records),
        *(f".. image:: benchmarks/{name}.svg\n   :alt: {alt}" for name, alt in drawn.items()),
        *measured_tables(records, "~"),
        trust(records),
    ]
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    generated = "\n\n".join(part for part in parts if part)
    PAGE.write_text(f"{before}{BEGIN}\n{generated}\n\n{END}{after}")


def trust(records: list[dict[str, Any]]) -> str:
    checked = sum(
        each.get("deliveries", 0) for each in records if each["measure"] not in ("connect", "churn")
    )
    wrong = [each for each in records if each["wrong"]]
    doubtful = [each for each in records if each["doubts"]]
    parts = [
        heading("How far to trust it", "~"),
        f"Count and order of {checked:,.0f} deliveries were checked. Of {len(records)} "
        f"measurements {len(wrong)} had a fault, which leaves them out of the tables, and in "
        f"{len(doubtful)} others on the machine or the load client took a notable share.",
    ]
    faults = [
        [each["contender"], f"{each['measure']} {each['clients'] or ''}".strip(), in_words(each)]
        for each in wrong
    ]
    if faults:
        parts.append(table(["contender", "measure", "fault"], faults))
    return "\n\n".join(parts)


def in_words(record: dict[str, Any]) -> str:
    first = next(iter(record["wrong"].items()))
    return f"{first[0]} {first[1]}".splitlines()[0][:80].replace("*", "\\*")


def draw(records: list[dict[str, Any]]) -> dict[str, str]:
    """Draw the plots, and return the names of the files with their titles."""
    try:
        import matplotlib
    except ImportError:
        print("no plots were drawn: there is no matplotlib; tox installs it")
        return {}
    matplotlib.use("svg")
    # Keep text as text, and give the same file for the same numbers.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "0", "font.size": 9})
    numbers, names = Numbers(records), names_in(records)
    drawn = {}
    for name, (title, keys) in PLOTS.items():
        series = {
            label: {who: found for who in names if (found := numbers.ratios(key, who, REFERENCE))}
            for label, key in keys.items()
        }
        if any(series.values()):
            _save(name, title, lambda axes, series=series: _dots(axes, series, names))
            drawn[name] = f"{title}, as ratios to the generator written by hand"
    growth = {
        who: {
            clients: statistics.median(of_it) / statistics.median(at_first)
            for clients in numbers.sizes("fanout")
            if (of_it := numbers.of(("fanout", clients, "cpu"), who))
            and (at_first := numbers.of(("fanout", 100, "cpu"), who))
        }
        for who in names
    }
    if any(len(points) > 1 for points in growth.values()):
        title = "CPU time of a delivery, to that with 100 clients"
        _save("growth", title, lambda axes: _lines(axes, growth))
        drawn["growth"] = title
    return drawn


def _save(name: str, title: str, fill: Callable[[Any], None]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    fill(axes)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize=8, loc="best")
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


def _dots(axes: Any, series: Series, names: Sequence[str]) -> None:
    """Draw a row for each contender: a mark for the median, a line from least to greatest."""
    step = 0.7 / max(1, len(series))
    for number, (label, values) in enumerate(series.items()):
        rows = [names.index(who) + (number - (len(series) - 1) / 2) * step for who in values]
        middles = [statistics.median(found) for found in values.values()]
        reach = [
            [middle - min(found) for middle, found in zip(middles, values.values(), strict=True)],
            [max(found) - middle for middle, found in zip(middles, values.values(), strict=True)],
        ]
        style = {"fmt": MARKERS[number], "color": COLOURS[number], "markersize": 4}
        axes.errorbar(middles, rows, xerr=reach, label=label, linewidth=1, **style)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    _ratios(axes.xaxis, axes.set_xscale)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"ratio to {REFERENCE}, median and range of the rounds")


def _lines(axes: Any, growth: Mapping[str, Mapping[int, float]]) -> None:
    for number, (who, points) in enumerate(growth.items()):
        style = {"marker": MARKERS[number], "color": COLOURS[number], "markersize": 4}
        axes.plot(list(points), list(points.values()), label=who, linewidth=1, **style)
    sizes = sorted({clients for points in growth.values() for clients in points})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{clients:,}" for clients in sizes])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clients")
    axes.set_ylabel("ratio")


def _ratios(axis: Any, set_scale: Callable[[str], None]) -> None:
    """Scale the axis so that a ratio and its inverse are equally far from one."""
    set_scale("log")
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")
