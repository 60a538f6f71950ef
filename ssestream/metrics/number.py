"""Number: one kind of count or level, with its samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

#: The values of the labels of a sample.
Labels = tuple[str, ...]

Kind = Literal["counter", "gauge", "maximum", "histogram"]


@dataclass(frozen=True)
class Number:
    """What is counted or measured, in one process or in several.

    :ivar name: in lower case, without the name of the package, such as ``"opened_streams"``.
    :ivar kind: a ``"counter"`` only grows; a ``"gauge"`` may fall. A ``"maximum"`` is a gauge, and
        the number of several processes is the greatest of theirs, and not their sum. The last label
        of a ``"histogram"`` is ``le``: how many durations were at most so many seconds. Its value
        ``"+Inf"`` is the number of all, and ``"sum"`` is their sum.
    :ivar text: what the number is, in one sentence.
    :ivar labels: the names of the labels; ``()`` for a number with one sample.
    :ivar samples: the value for the values of the labels.
    """

    name: str
    kind: Kind
    text: str
    labels: Labels
    samples: dict[Labels, float]

    @property
    def outlives(self) -> bool:
        """Whether the number of a process counts when the process is gone."""
        return self.kind in ("counter", "histogram")


def add_up(every: Iterable[list[Number]]) -> list[Number]:
    """The numbers of several processes as those of one."""
    sums: dict[str, Number] = {}
    for numbers in every:
        for number in numbers:
            samples = sums[number.name].samples if number.name in sums else {}
            for labels, value in number.samples.items():
                known = samples.get(labels, 0)
                samples[labels] = max(known, value) if number.kind == "maximum" else known + value
            sums[number.name] = Number(
                number.name, number.kind, number.text, number.labels, samples
            )
    return list(sums.values())
