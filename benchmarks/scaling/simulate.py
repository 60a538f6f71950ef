"""The storm of clients that come back after a host has died or was reloaded.

Run it as ``python -m benchmarks.scaling.simulate [--seed 1]``; it prints the tables of
``docs/scaling.rst``. With ``--write-docs`` it writes them into ``docs/scaling/``, and the
plots if there is matplotlib. That takes a minute or two. Nothing is measured here: the
measured figures are in `WORKERS` and `MEASURED`, and all others are computed from them.

One host that takes clients back is simulated; the other hosts are like it. The pauses of
the clients come from the project's own ``draw``, with its ``Settings``.

death
    The clients of a host are cut at once, without a ``retry``. Each waits for the pause
    that it got when its stream opened, or for its browser's own pause. The other hosts
    share the clients. They have only the CPU time that their own streams leave.
reload
    The clients of a host get a pause from ``retry_after``. All come back to that host,
    which has nothing else to do.

A host opens streams one after another. Waiting clients are in its listen queue. When the
queue is full, a SYN is dropped, and is sent again after 1, 3, 7 ... seconds. A client
without a stream after the timeout waits for its ``retry`` and tries again, as an
``EventSource`` does after any network error. If the client was in the queue by then, the
host serves it in vain. Each client that comes back also gets the events that it missed.
"""

import argparse
import contextlib
import dataclasses
import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssestream import settings
from ssestream.http.keepalive import EARLIEST, LOOKS, RARELY
from ssestream.settings import DEFAULTS, Retry, Settings
from ssestream.wire import HEARTBEAT


class Figure(NamedTuple):
    value: float
    unit: str
    what: str
    #: "measured", or the reason why the figure is assumed.
    how: str


MEASURED_HERE = "measured"
TAKEN_LOW = "measured, 1,800 to 2,900 with an empty view; an app's views do more"

#: The figures of each worker class, under the same names.
WORKERS = {
    "gevent": {
        "delivery": Figure(27, "µs", "CPU time of a delivery that leaves by itself",
                           MEASURED_HERE + " with 10,000 streams"),
        "memory": Figure(15.8, "KiB", "memory of the process for an idle stream", MEASURED_HERE),
        "connect": Figure(1000, "/s", "streams that a core opens", TAKEN_LOW),
        "beat": Figure(53, "µs", "CPU time of a heartbeat", MEASURED_HERE),
        "look": Figure(6, "µs", "CPU time of a look at whether a client is stalled", MEASURED_HERE),
    },
    "SseWorker": {
        "delivery": Figure(9.5, "µs", "CPU time of a delivery that leaves by itself",
                           MEASURED_HERE + " with 10,000 streams"),
        "memory": Figure(2.7, "KiB", "memory of the process for an idle stream", MEASURED_HERE),
        "connect": Figure(1000, "/s", "streams that a core opens", TAKEN_LOW),
        "beat": Figure(42, "µs", "CPU time of a heartbeat", MEASURED_HERE),
        "look": Figure(6, "µs", "CPU time of a look at whether a client is stalled", MEASURED_HERE),
    },
}  # fmt: skip

#: The figures that do not depend on the worker class.
MEASURED = {
    "kernel": Figure(4, "KiB", "memory of the kernel for an idle connection", MEASURED_HERE),
    "replay": Figure(5, "µs", "CPU time of an event among many that leave together", MEASURED_HERE),
    "message": Figure(134, "bytes", "an event with 100 bytes of data, its id and its chunk's frame",
                      MEASURED_HERE),
    "headers": Figure(90, "bytes", "Ethernet, IP and TCP around it, and the same for each answer",
                      "from the formats"),
    "publish": Figure(40, "µs", "Redis: an event is published", MEASURED_HERE),
    "listener": Figure(85, "µs", "Redis: one process is told of an event and reads it (over 4 KB)",
                       MEASURED_HERE),
    "listener_out": Figure(480, "bytes", "Redis: sent to one process for such an event",
                           MEASURED_HERE),
    "place": Figure(40, "µs", "Redis: a stream that opens is told where its channel is",
                    MEASURED_HERE),
    "read": Figure(60, "µs", "Redis: ten missed events are read", MEASURED_HERE),
    "event": Figure(165, "bytes", "Redis: memory of such an event in a log of 1,000",
                    MEASURED_HERE),
    "log": Figure(4.7, "KB", "Redis: memory of a channel with a single event", MEASURED_HERE),
}  # fmt: skip

#: A host, and the shares of it that may be used when another host is lost.
CORES, MEMORY_GIB, GBIT = 8, 32, 10
BUSY, FILLED = 0.7, 0.75
#: The share of its one core that Redis may use.
REDIS_BUSY = 0.6

#: All clients must be back so many seconds after a host has died.
RECOVERY = 60

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)

#: A process must have sent an event to all of its streams within so many seconds.
TURN = 1

#: A storm without jitter on one host is simulated for up to so many clients.
PATIENCE = 100_000

#: Messages a second for each stream.
PACES = {"silence": 0.0, "a message every 10 s": 0.1, "a message every second": 1.0}
PACE = 0.1

#: The pauses of browsers that got no ``retry``, in milliseconds: Chromium and Safari first,
#: then Firefox. And the share of browsers with the first pause.
BROWSERS = (3000, 5000)
FIRST_BROWSER = 0.8

#: Seconds from a client's timer until its SYN arrives, as timers and networks differ.
NETWORK = (0.02, 0.12)

#: If a SYN is dropped, it comes again at these seconds after the first.
SYNS = (0, 1, 3, 7, 15, 31, 63)

#: The advised range uses this share of a host's capacity to open streams.
USED = 0.8


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The project's own jitter, from a random generator with a seed.

    ``draw`` looks up `settings.chance` at each call. So another generator replaces it during
    the simulation. Apart from that, the project's own code is used unchanged.
    """
    real = settings.chance
    settings.chance = random.Random(seed)
    try:
        yield
    finally:
        settings.chance = real


# -- the simulation


@dataclasses.dataclass(frozen=True)
class Storm:
    """The load of one host in a storm. Durations are in seconds."""

    clients: int
    #: Streams that the host opens in a second.
    per_second: float
    #: The listen queue: gunicorn's default. The kernel bounds it with net.core.somaxconn.
    backlog: int = 2048
    #: nginx's timeout for opening a connection. Browsers alone wait longer.
    timeout: float = 60.0
    #: The host's time for a client's missed events, for each second that it was away.
    replay: float = 0.0


class Outcome(NamedTuple):
    #: For each client the seconds without a stream, sorted.
    away: list[float]
    #: The longest listen queue.
    queue: int
    #: The number of dropped SYNs.
    dropped: int
    #: How often a client waited for the whole timeout and got no stream.
    given_up: int

    def percentile(self, part: float) -> float:
        return self.away[min(len(self.away) - 1, int(len(self.away) * part))]


def wait_of(retry: Retry | None) -> float:
    """Draw the seconds that one client waits between two tries."""
    if retry is None:
        return BROWSERS[settings.chance.random() >= FIRST_BROWSER] / 1000
    return settings.draw(retry) / 1000


def simulate(storm: Storm, retry: Retry | None, seed: int) -> Outcome:
    """Run a storm: all clients lose their streams at time 0. *retry* is their setting or None."""
    with seeded(seed):
        return _simulate(storm, retry)


def _simulate(storm: Storm, retry: Retry | None) -> Outcome:
    waits = [wait_of(retry) for _ in range(storm.clients)]
    # Each SYN: its time, its client, and its index in `SYNS`.
    syns = [(wait + settings.chance.uniform(*NETWORK), n, 0) for n, wait in enumerate(waits)]
    heapq.heapify(syns)
    away: list[float] = []
    # For each client in the listen queue, the time when the host serves it.
    queue: deque[float] = deque()
    free_at, longest, dropped, given_up = 0.0, 0, 0, 0
    while syns:
        now, client, tried = heapq.heappop(syns)
        began = now - SYNS[tried]
        while queue and queue[0] <= now:
            queue.popleft()
        if len(queue) < storm.backlog:
            starts_at = max(now, free_at)
            queue.append(starts_at)
            longest = max(longest, len(queue))
            free_at = starts_at + 1 / storm.per_second + starts_at * storm.replay
            if free_at <= began + storm.timeout:
                away.append(free_at)
                continue
        else:
            dropped += 1
            if tried + 1 < len(SYNS) and SYNS[tried + 1] < storm.timeout:
                heapq.heappush(syns, (began + SYNS[tried + 1], client, tried + 1))
                continue
        given_up += 1
        again = began + storm.timeout + waits[client] + settings.chance.uniform(*NETWORK)
        heapq.heappush(syns, (again, client, 0))
    return Outcome(sorted(away), longest, dropped, given_up)


def after_death(streams: int, hosts: int) -> Storm:
    """The storm at each other host, when one of *hosts* with *streams* in all dies.

    The other hosts have the latest events. So Redis only gives the channel's position.
    """
    others = max(1, hosts - 1)
    return _storm(streams / hosts / others, CORES * (1 - BUSY), redis_opens(reads=1) / others)


def after_reload(streams: int, hosts: int) -> Storm:
    """The storm at one of *hosts* with *streams* in all, when that host is reloaded.

    Its processes are new and have no events. So each client's events are read from Redis.
    """
    return _storm(streams / hosts, CORES, redis_opens(reads=2))


def _storm(clients: float, free: float, redis: float) -> Storm:
    """The storm at a host with *free* cores, if Redis allows *redis* streams a second."""
    replay = PACE * MEASURED["replay"].value / 1e6 / free
    return Storm(math.ceil(clients), min(opens(free), redis), replay=replay)


def opens(cores: float) -> float:
    """The number of streams that *cores* open in a second."""
    return cores * min(worker["connect"].value for worker in WORKERS.values())


def redis_opens(reads: int) -> float:
    """The number of streams a second that one Redis serves, with *reads* reads for each."""
    us = MEASURED["place"].value + (reads - 1) * MEASURED["read"].value
    return REDIS_BUSY * 1e6 / us


def width(storm: Storm) -> float:
    """Seconds over which the clients must be spread, so that the host keeps up with them.

    To open the streams takes ``clients / per_second`` seconds of the host. To send the missed
    events takes up to ``clients * replay * (width + 1)`` seconds. Together these must be
    `USED` of the width. Raises ``ValueError`` if events are missed faster than they are sent.
    """
    left = USED - storm.clients * storm.replay
    if left <= 0:
        raise ValueError("no range is wide enough: what is missed grows faster than it is sent")
    return storm.clients * (1 / storm.per_second + storm.replay) / left


def advised(storm: Storm) -> tuple[int, int]:
    """A range for ``retry`` or ``retry_after``, from one second on, in whole seconds."""
    return 1000, 1000 + 1000 * max(1, math.ceil(width(storm)))


# -- the needs of each size


def look_seconds() -> float:
    """Seconds between two looks at a client without waiting messages."""
    timeouts = (DEFAULTS.send_timeout, DEFAULTS.tcp_user_timeout)
    return min(each for each in timeouts if each is not None) / LOOKS * RARELY


def beat_seconds() -> float:
    """Seconds between two heartbeats in silence, on average."""
    assert DEFAULTS.heartbeat is not None
    return DEFAULTS.heartbeat * (EARLIEST + 1) / 2


def upkeep_cores(streams: int, worker: str, pace: float) -> float:
    """The cores for looks, and for heartbeats if messages are rarer than heartbeats."""
    figures = WORKERS[worker]
    us = figures["look"].value / look_seconds()
    if pace * beat_seconds() < 1:
        us += figures["beat"].value / beat_seconds()
    return streams * us / 1e6


def cores(streams: int, worker: str, pace: float) -> float:
    delivery = streams * pace * WORKERS[worker]["delivery"].value / 1e6
    return delivery + upkeep_cores(streams, worker, pace)


def gib(streams: int, figure: Figure) -> float:
    return streams * figure.value / 1024**2


def gbit(streams: int, pace: float) -> float:
    """The network traffic to the clients in Gbit/s, with all headers."""
    if pace * beat_seconds() < 1:
        # An HTTP chunk adds its length and two line ends.
        size, pace = len(HEARTBEAT) + 5, 1 / beat_seconds()
    else:
        size = int(MEASURED["message"].value)
    return streams * pace * (size + MEASURED["headers"].value) * 8 / 1e9


def hosts_for(streams: int, worker: str) -> int:
    """The number of hosts such that all but one can carry all streams, and are quick enough."""
    memory = gib(streams, WORKERS[worker]["memory"]) + gib(streams, MEASURED["kernel"])
    carry = max(
        cores(streams, worker, PACE) / (CORES * BUSY),
        memory / (MEMORY_GIB * FILLED),
        gbit(streams, PACE) / (GBIT * BUSY),
        streams * WORKERS[worker]["delivery"].value / 1e6 / (CORES * TURN),
    )
    hosts = 1 + max(1, math.ceil(carry))
    while width(after_death(streams, hosts)) > RECOVERY:
        hosts += 1
    return hosts


def redis_us(processes: int) -> float:
    """Microseconds of Redis's core for one event that every process follows."""
    return MEASURED["publish"].value + processes * MEASURED["listener"].value


# -- tables


def number(value: float) -> str:
    """*value* with two significant digits."""
    if value == 0:
        return "0"
    places = max(0, 1 - math.floor(math.log10(abs(value))))
    whole = round(value, 1 - math.floor(math.log10(abs(value))))
    return f"{whole:,.{places}f}" if value < 100 else f"{whole:,.0f}"


def exact(value: float) -> str:
    return f"{value:,g}"


def time_of(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in reStructuredText."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule]) + "\n"


def figures() -> str:
    rows = [
        (f"{figure.what}, ``{worker}``", f"{exact(figure.value)} {figure.unit}", figure.how)
        for name in WORKERS["gevent"]
        for worker, known in WORKERS.items()
        for figure in [known[name]]
    ]
    rows += [
        (figure.what, f"{exact(figure.value)} {figure.unit}", figure.how)
        for figure in MEASURED.values()
    ]
    return table(("what", "figure", "where from"), rows)


def needs(worker: str) -> str:
    known = WORKERS[worker]
    hosts = [hosts_for(size, worker) for size in SIZES]
    both = list(zip(SIZES, hosts, strict=True))
    rows = [
        ("memory of the processes, GiB", *(number(gib(size, known["memory"])) for size in SIZES)),
        ("memory of the kernel, GiB", *(number(gib(size, MEASURED["kernel"])) for size in SIZES)),
        *(
            (f"cores, {name}", *(number(cores(size, worker, pace)) for size in SIZES))
            for name, pace in PACES.items()
        ),
        (
            "of these for heartbeats and looks, silence",
            *(number(upkeep_cores(size, worker, 0.0)) for size in SIZES),
        ),
        ("hosts, one of them to spare", *(str(count) for count in hosts)),
        ("worker processes", *(f"{count * CORES:,}" for count in hosts)),
        (
            "streams of a process, one host lost",
            *(f"{math.ceil(size / (count - 1) / CORES):,}" for size, count in both),
        ),
        (
            "seconds it takes for an event to all of them",
            *(
                number(size / (count - 1) / CORES * known["delivery"].value / 1e6)
                for size, count in both
            ),
        ),
        (
            "streams of a host, one host lost",
            *(f"{math.ceil(size / (count - 1)):,}" for size, count in both),
        ),
        (
            "Redis, ms of its core for an event to all",
            *(number(redis_us(count * CORES) / 1000) for count in hosts),
        ),
        (
            "such events a second that one Redis takes",
            *(number(REDIS_BUSY * 1e6 / redis_us(count * CORES)) for count in hosts),
        ),
        (
            "Redis, Mbit/s sent for ten such events a second",
            *(number(count * CORES * MEASURED["listener_out"].value * 80 / 1e6) for count in hosts),
        ),
        (
            "Redis servers for a hundred such events a second",
            *(str(math.ceil(100 * redis_us(count * CORES) / REDIS_BUSY / 1e6)) for count in hosts),
        ),
    ]
    return table((f"``{worker}``", *(f"{size:,}" for size in SIZES)), rows)


def network() -> str:
    rows = [
        *(
            (f"Gbit/s, {name}", *(number(gbit(size, pace)) for size in SIZES))
            for name, pace in PACES.items()
        ),
        *(
            (
                f"packets a second each way, {name}",
                *(number(size * (pace or 1 / beat_seconds())) for size in SIZES),
            )
            for name, pace in PACES.items()
        ),
    ]
    return table(("all hosts together", *(f"{size:,}" for size in SIZES)), rows)


Variant = tuple[str, Retry | None]


def variants(storm: Storm, told: bool) -> list[Variant]:
    """The values of ``retry`` to compare. *told* is for a reload: clients always get one."""
    default = Settings().retry_after
    assert isinstance(default, tuple)
    all_of_them: list[Variant] = [] if told else [("nothing", None)]
    if not told or storm.clients <= PATIENCE:
        all_of_them.append(("3000, no jitter", 3000))
    all_of_them.append((f"{default}, " + ("the default" if told else "as retry_after"), default))
    wider = [(1000, 30_000), advised(storm)]
    for each in wider:
        checked = Settings(retry=each).retry
        all_of_them.append((f"{checked}" + (", advised" if each is wider[-1] else ""), checked))
    return all_of_them


def storms(seed: int, told: bool) -> str:
    rows = []
    for size in SIZES:
        hosts = hosts_for(size, "SseWorker")
        storm = after_reload(size, hosts) if told else after_death(size, hosts)
        for name, retry in variants(storm, told):
            out = simulate(storm, retry, seed)
            rows.append(
                (
                    f"{size:,}",
                    str(hosts),
                    f"{storm.clients:,}",
                    number(storm.per_second),
                    name,
                    *(time_of(out.percentile(part)) for part in (0.5, 0.99, 1)),
                    f"{out.queue:,}",
                    f"{out.dropped:,}",
                    f"{out.given_up:,}",
                )
            )
    head = ("streams", "hosts", "come back", "opens/s", "``retry_after``" if told else "``retry``")
    return table((*head, "median", "p99", "all back", "queue", "SYNs dropped", "gave up"), rows)


#: The ranges of the comparison, as parts of the advised range.
PARTS = (0.25, 0.5, 0.8, 1.0, 1.5, 2.0)


def narrowed(retry: tuple[int, int], part: float) -> tuple[int, int]:
    return retry[0], retry[0] + round((retry[1] - retry[0]) * part)


def formula(seed: int) -> str:
    """The table that shows if the advised range is enough, and if less is enough."""
    rows = []
    for size in SIZES:
        storm = after_death(size, hosts_for(size, "SseWorker"))
        for part in PARTS:
            retry = narrowed(advised(storm), part)
            out = simulate(storm, retry, seed)
            last = out.away[-1] - retry[1] / 1000
            row = (f"{size:,}", exact(part), f"{retry}", time_of(max(0.0, last)))
            rows.append((*row, f"{out.queue:,}", f"{out.dropped:,}"))
    head = ("streams", "of the advised", "``retry``", "s behind its end", "queue", "SYNs dropped")
    return table(head, rows)


def tables(seed: int) -> dict[str, str]:
    return {
        "figures": figures(),
        **{f"needs-{worker.lower()}": needs(worker) for worker in WORKERS},
        "network": network(),
        "death": storms(seed, told=False),
        "reload": storms(seed, told=True),
        "formula": formula(seed),
    }


# -- plots

PLOTTED = 100_000


def plot(folder: Path, seed: int) -> bool:
    """Whether the plots could be drawn: they need matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            # Keep text as text, and give the same file for the same numbers.
            "svg.fonttype": "none",
            "svg.hashsalt": "ssestream",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    storm = after_death(PLOTTED, hosts_for(PLOTTED, "SseWorker"))
    _plot_back(matplotlib, folder / "back.svg", storm, seed)
    _plot_width(matplotlib, folder / "width.svg", storm, seed)
    return True


def _plot_back(matplotlib: Any, path: Path, storm: Storm, seed: int) -> None:
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(7, 4))
    axes = sheet.subplots()
    for name, retry in variants(storm, told=False):
        away = simulate(storm, retry, seed).away
        some = range(0, len(away), max(1, len(away) // 120))
        times = [0, *(away[n] for n in some), away[-1]]
        back = [0, *(100 * n / len(away) for n in some), 100]
        axes.step(times, back, where="post", label=name)
    axes.set_xlabel("seconds after the host died")
    axes.set_ylabel("% of its clients that are back")
    axes.set_title(f"{storm.clients:,} clients come to a host that opens {storm.per_second:,.0f}/s")
    axes.legend(title="retry", frameon=False)
    sheet.tight_layout()
    sheet.savefig(path, format="svg", metadata={"Date": None})


def _plot_width(matplotlib: Any, path: Path, storm: Storm, seed: int) -> None:
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(7, 4))
    axes = sheet.subplots()
    best = advised(storm)
    parts = [n / 10 for n in range(1, 21)]
    widths = [(narrowed(best, part)[1] - best[0]) / 1000 for part in parts]
    outs = [simulate(storm, narrowed(best, part), seed) for part in parts]
    axes.plot(widths, [out.away[-1] for out in outs], label="all are back")
    axes.plot(widths, [out.percentile(0.5) for out in outs], label="half are back")
    axes.axvline((best[1] - best[0]) / 1000, color="grey", linestyle=":", label="advised")
    axes.set_xlabel("width of the range, seconds")
    axes.set_ylabel("seconds after the host died")
    axes.set_ylim(bottom=0)
    dropped = axes.twinx()
    dropped.spines["right"].set_visible(True)
    dropped.plot(widths, [out.dropped for out in outs], color="C3", label="SYNs dropped")
    dropped.set_ylabel("SYNs dropped")
    dropped.set_ylim(bottom=0)
    lines = [*axes.get_lines(), *dropped.get_lines()]
    labels = [line.get_label() for line in lines]
    axes.legend(lines, labels, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    sheet.tight_layout()
    sheet.savefig(path, format="svg", metadata={"Date": None})


DOCS = Path(__file__).parents[2] / "docs" / "scaling"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write-docs", action="store_true", help="into docs/scaling")
    args = parser.parse_args()
    for name, text in tables(args.seed).items():
        print(f"{name}\n\n{text}")
        if args.write_docs:
            DOCS.mkdir(exist_ok=True)
            (DOCS / f"{name}.rst").write_text(text)
    if args.write_docs and not plot(DOCS, args.seed):
        print("there is no matplotlib here: the tables are written, the plots are not")


if __name__ == "__main__":
    main()
