"""Durations: how long something took each time, as a histogram."""

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

from ..runtime.loop import logger
from ..runtime.threads import new_lock
from .number import Labels, Number

#: The upper bounds of the buckets in seconds. A broker of this host answers in the first ones, and
#: one that is tried for two seconds before it counts as down in the last ones.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Called with each duration and its labels.
Listener = Callable[[float, Labels], object]


class Durations:
    """How long something took each time. Any thread may add.

    :param labels: the names of the labels of each duration.
    """

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self._text, self._labels = name, text, labels
        self._listeners: tuple[Listener, ...] = ()
        self._has_failed = False
        self.begin()

    def begin(self) -> None:
        """Begin with no durations, as a new process does."""
        self._lock = new_lock()
        # For the values of the labels: how many durations are in each bucket, and their sum.
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        if not self._labels:
            self._begin_labels(())

    def listen(self, listener: Listener) -> None:
        """Call *listener* after each `add`."""
        self._listeners = (*self._listeners, listener)

    def add(self, seconds: float, labels: Labels = ()) -> None:
        """Count one duration."""
        with self._lock:
            if labels not in self._counts:
                self._begin_labels(labels)
            self._counts[labels][bisect_left(BOUNDS, seconds)] += 1
            self._sums[labels] += seconds
        for listener in self._listeners:
            try:
                listener(seconds, labels)
            except BaseException:  # code of the app's exporter; the work is done, and must not fail
                if not self._has_failed:
                    self._has_failed = True
                    logger.exception("metrics: %s was not recorded", self.name)

    def number(self) -> Number:
        """All durations so far."""
        bounds = [*map(str, BOUNDS), "+Inf"]
        samples: dict[Labels, float] = {}
        with self._lock:
            for labels, counts in self._counts.items():
                for bound, count in zip(bounds, accumulate(counts), strict=True):
                    samples[(*labels, bound)] = count
                samples[(*labels, "sum")] = self._sums[labels]
        return Number(self.name, "histogram", self._text, (*self._labels, "le"), samples)

    def _begin_labels(self, labels: Labels) -> None:
        self._counts[labels] = [0] * (len(BOUNDS) + 1)
        self._sums[labels] = 0.0
