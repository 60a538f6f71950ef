"""Looks: one look after another at the streams of all processes, each small enough for a page."""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Any

from ..printable import escape
from ..top.open_streams import MOST, OpenStreams

#: The most rows of each table of the page. A page with more is slow, and nobody reads it.
STREAMS, CHANNELS, ENDS, PROCESSES = 100, 50, 50, 64

#: The most characters of a text that a client or a publisher has chosen, and the most names of
#: channels of one stream.
WIDEST, NAMES = 160, 4

#: Rates are those of the last so many looks: a process tells of itself once a second.
WINDOW = 5

#: The counts of a process that the page shows as rates.
_COUNTS = ("messages", "opened", "closed")


class Looks:
    """Looks at *streams*, of which each compares with those before it.

    *find* is a text. Streams, channels and ends without this text are left out.
    """

    def __init__(self, streams: OpenStreams, find: str = "") -> None:
        self._streams = streams
        self._find = find.strip().casefold()
        # The counts of each process, and the time of its counting.
        self._before: deque[dict[int, tuple[float, Counter[str]]]] = deque(maxlen=WINDOW)

    def next(self) -> dict[str, Any]:
        """One more look, as JSON."""
        processes = self._streams.of_all()
        counts = {each["process"]: (float(each["at"]), _counts_of(each)) for each in processes}
        self._before.append(counts)
        rates = _rates(self._before[0], counts)
        closed: Counter[str] = Counter()
        for each in processes:
            closed.update(each["closed"])
        return {
            "open": sum(each["open"] for each in processes),
            "waiting": sum(each["waiting"] for each in processes),
            "refused": sum(each["refused"] for each in processes),
            "rates": None if rates is None else {name: rates[name] for name in _COUNTS},
            "closed": dict(closed.most_common()),
            "processes": self._processes(processes),
            "channels": self._channels(processes, rates),
            "streams": self._open(processes),
            "ends": self._ends(processes),
        }

    def _processes(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        told = sorted(processes, key=lambda each: int(each["process"]))
        names = ("process", "open", "waiting", "draining")
        rows = [{name: each[name] for name in names} for each in told[:PROCESSES]]
        return {"rows": rows, "more": len(told) - len(rows)}

    def _channels(
        self, processes: list[dict[str, Any]], rates: dict[str, float] | None
    ) -> dict[str, Any] | None:
        if self._streams.channels is None:
            return None
        streams: Counter[str] = Counter()
        behind: Counter[str] = Counter()
        for each in processes:
            for name, numbers in each["channels"].items():
                if self._is_wanted([name]):
                    streams[name] += numbers["streams"]
                    behind[name] += numbers["behind"]
        rows = [
            {
                "name": name,
                "streams": number,
                "behind": behind[name],
                "rate": None if rates is None else rates[_of_channel(name)],
            }
            for name, number in streams.most_common(CHANNELS)
        ]
        # A process with so many may have more.
        some = any(len(each["channels"]) >= MOST for each in processes)
        return {"rows": rows, "more": len(streams) - len(rows), "at_least": some}

    def _open(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        told = [
            (each, one["process"])
            for one in processes
            for each in one["streams"]
            if self._is_wanted([each["client"], *each["channels"]])
        ]
        # The slow ones first, and then the old ones.
        first = heapq.nlargest(
            STREAMS, told, key=lambda pair: (pair[0]["waiting"], pair[0]["seconds"])
        )
        rows = [
            {
                "id": each["id"],
                "client": shown(each["client"]),
                "channels": sorted(each["channels"])[:NAMES],
                "more_channels": max(0, len(each["channels"]) - NAMES),
                "behind": sum(each["channels"].values()),
                "seconds": each["seconds"],
                "messages": each["messages"],
                "waiting": each["waiting"],
                "process": process,
            }
            for each, process in first
        ]
        number = sum(each["open"] for each in processes)
        untold = number - sum(len(each["streams"]) for each in processes)
        # Among streams that no process has told, nothing can be found.
        more = len(told) - len(rows) + (0 if self._find else untold)
        return {"rows": rows, "more": more, "at_least": bool(self._find) and untold > 0}

    def _ends(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        told = [
            {**each, "client": shown(each["client"]), "process": one["process"]}
            for one in processes
            for each in one["ends"]
            if self._is_wanted([each["client"], each["cause"]])
        ]
        return {"rows": heapq.nlargest(ENDS, told, key=lambda each: float(each["at"]))}

    def _is_wanted(self, texts: Iterable[str]) -> bool:
        return not self._find or any(self._find in each.casefold() for each in texts)


def shown(text: str) -> str:
    """*text* in one line, without characters that could make it look like another text."""
    text = escape(text[: WIDEST + 1])
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _of_channel(name: str) -> str:
    # No other count has a colon in front.
    return f":{name}"


def _counts_of(process: dict[str, Any]) -> Counter[str]:
    counts = {
        "messages": process["messages"],
        "opened": process["opened"],
        "closed": sum(process["closed"].values()),
    }
    for name, numbers in process["channels"].items():
        counts[_of_channel(name)] = numbers["delivered"]
    return Counter(counts)


def _rates(
    before: dict[int, tuple[float, Counter[str]]], now: dict[int, tuple[float, Counter[str]]]
) -> dict[str, float] | None:
    """How much each count of all processes grows in a second; None if that is not known yet."""
    rates: dict[str, float] = defaultdict(float)
    known = False
    for process, (at, counts) in now.items():
        then, earlier = before.get(process, (at, counts))
        if at > then:
            known = True
            for name, number in counts.items():
                # A channel that is followed anew begins anew, too. So does a process with the
                # number of another.
                if name in earlier and number > earlier[name]:
                    rates[name] += (number - earlier[name]) / (at - then)
    return rates if known else None
