"""Number: one kind of count or level, with its samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

#: The values of the labels of a sample.
Labels = tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """What is counted or measured, in one process or in several.

    :ivar name: in lower case, without the name of the package, such as ``"opened_streams"``.
    :ivar kind: a ``"counter"`` only grows; a ``"gauge"`` may fall.
    :ivar text: what the number is, in one sentence.
    :ivar labels: the names of the labels; ``()`` for a number with one sample.
    :ivar samples: the value for the values of the labels.
    """

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    labels: Labels
    samples: dict[Labels, float]


def add_up(every: Iterable[list[Number]]) -> list[Number]:
    """The sums of the numbers of several processes."""
    sums: dict[str, Number] = {}
    for numbers in every:
        for number in numbers:
            samples = sums[number.name].samples if number.name in sums else {}
            for labels, value in number.samples.items():
                samples[labels] = samples.get(labels, 0) + value
            sums[number.name] = Number(
                number.name, number.kind, number.text, number.labels, samples
            )
    return list(sums.values())
