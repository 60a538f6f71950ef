"""What the tests of the metrics share."""

from collections.abc import Iterator
from typing import Any

import pytest

from ssestream import clear_interval, set_interval


@pytest.fixture(autouse=True)
def _no_timers_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process writes its numbers until it ends, and here it has other tests to run."""
    timers: list[Any] = []
    monkeypatch.setattr(
        "ssestream.metrics.metrics.set_interval",
        lambda *args: timers.append(set_interval(*args)),
    )
    yield
    for each in timers:
        clear_interval(each)
