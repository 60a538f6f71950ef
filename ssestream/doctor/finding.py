"""What the doctor has found: what was seen, why that matters, and what to change."""

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..printable import escape

#: The columns of a terminal, and those before the text.
WIDTH, MARGIN = 88, 8


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor has looked at.

    :ivar level: ``"fault"`` if streams break, hang or lose events by this; ``"note"`` if they may
        under some conditions; ``"ok"`` if all is well. Only a fault makes the command fail.
    :ivar seen: the observation, with its figures.
    :ivar why: the consequence for a stream; ``""`` for ``"ok"``.
    :ivar change: the line to change, and where it stands; ``""`` for ``"ok"``.
    """

    level: Literal["fault", "note", "ok"]
    seen: str
    why: str = ""
    change: str = ""

    def __str__(self) -> str:
        parts = [self.seen]
        if self.why:
            parts.append(f"why: {self.why}")
        if self.change:
            parts.append(f"change: {self.change}")
        text = "\n".join(
            textwrap.fill(
                escape(part),
                WIDTH - MARGIN,
                initial_indent="" if number == 0 else "  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
                break_long_words=False,
            )
            for number, part in enumerate(parts)
        )
        return f"{self.level:<{MARGIN}}" + text.replace("\n", "\n" + " " * MARGIN)


def fault(seen: str, why: str, change: str) -> Finding:
    return Finding("fault", seen, why, change)


def note(seen: str, why: str, change: str) -> Finding:
    return Finding("note", seen, why, change)


def ok(seen: str) -> Finding:
    return Finding("ok", seen)


def with_names(found: Sequence[tuple[str, Finding]], of_all: str) -> list[Finding]:
    """Each finding with the names of all that it was found at, such as the nodes of a cluster.

    :param found: pairs of a name and a finding, name after name.
    :param of_all: stands for the names if there are several, and all have the finding.
    """
    names = dict.fromkeys(name for name, _ in found)
    at: dict[Finding, dict[str, None]] = {}
    for name, each in found:
        at.setdefault(each, {})[name] = None
    return [
        dataclasses.replace(
            each,
            seen=f"{of_all if 1 < len(names) == len(mine) else ', '.join(mine)}: {each.seen}",
        )
        for each, mine in at.items()
    ]
