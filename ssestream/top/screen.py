"""What ``top`` shows, made of the answers of an app."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..printable import escape

#: The most characters of a name that are shown.
WIDEST = 60


@dataclass(frozen=True)
class Table:
    """Rows of text, with a heading for each column. All columns but the first are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Screen:
    """One look at an app.

    :ivar line: what is said in one line: the number of streams, of processes, of messages a second.
    :ivar messages: the messages that all streams got so far, for the next look.
    """

    line: str
    messages: int
    channels: Table
    streams: Table


def screen_of(answer: Any, earlier: Screen | None = None, seconds: float = 0.0) -> Screen:
    """The screen for the JSON *answer* of an app.

    *earlier* is the screen of *seconds* ago; without it, no rate is told.

    :raise ValueError: if *answer* is not that of `OpenStreams.view`.
    """
    try:
        processes = answer["processes"]
        messages = sum(int(each["messages"]) for each in processes)
        is_open = sum(int(each["open"]) for each in processes)
        draining = sum(bool(each["draining"]) for each in processes)
        line = f"{_of(is_open, 'stream')} open in {_of(len(processes), 'process', 'es')}"
        if earlier is not None and seconds > 0:
            # Less than before, if a process has gone.
            line += f", {max(0, messages - earlier.messages) / seconds:.1f} messages a second"
        if draining:
            line += f", {draining} draining"
        return Screen(line, messages, _channels(processes), _streams(processes))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("the answer is not that of OpenStreams.view()") from error


def text_of(screen: Screen) -> str:
    """*screen* as plain text."""
    parts = [screen.line]
    for table in (screen.channels, screen.streams):
        widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
        for row in (table.columns, *table.rows):
            first, *others = (
                text.rjust(width) if number else text.ljust(width)
                for number, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            parts.append("  ".join([first, *others]).rstrip())
    return "\n".join(parts)


def _channels(processes: list[Any]) -> Table:
    streams: Counter[str] = Counter()
    behind: Counter[str] = Counter()
    for each in processes:
        for name, numbers in each["channels"].items():
            streams[name] += int(numbers["streams"])
            behind[name] += int(numbers["behind"])
    rows = [
        (_shown(name), str(number), str(behind[name])) for name, number in streams.most_common()
    ]
    return Table("channels", ("CHANNEL", "STREAMS", "BEHIND"), rows)


def _streams(processes: list[Any]) -> Table:
    told = [(each, one["process"]) for one in processes for each in one["streams"]]
    # The slow ones first, and then the old ones.
    told.sort(key=lambda pair: (int(pair[0]["waiting"]), float(pair[0]["seconds"])), reverse=True)
    rows = [
        (
            _shown(each["client"]),
            _shown(" ".join(sorted(each["channels"]))),
            str(sum(map(int, each["channels"].values()))),
            _duration(float(each["seconds"])),
            str(int(each["messages"])),
            str(int(each["waiting"])),
            str(int(number)),
        )
        for each, number in told
    ]
    columns = ("CLIENT", "CHANNELS", "BEHIND", "OPEN", "MESSAGES", "WAITING", "PROCESS")
    return Table("streams", columns, rows)


def _shown(text: str) -> str:
    # A client may have chosen it.
    text = escape(text)
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _of(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def _duration(seconds: float) -> str:
    """Short, and with the unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
