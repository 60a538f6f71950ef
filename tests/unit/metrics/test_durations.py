"""Durations as a histogram."""

from collections.abc import Callable
from typing import Any

import pytest

from ssestream.metrics.durations import BOUNDS, Durations
from tests.kit.failing import RAISED, failing


def test_each_duration_is_in_its_bucket_and_in_those_above() -> None:
    durations = Durations("wait_seconds", "Waits.", ("group",))
    for seconds in (0.0, 0.001, 0.0011, 0.3, 60.0):
        durations.add(seconds, ("a",))
    number = durations.number()
    assert (number.name, number.kind, number.text) == ("wait_seconds", "histogram", "Waits.")
    assert number.labels == ("group", "le")
    samples = {le: value for (group, le), value in number.samples.items() if group == "a"}
    assert samples["0.001"] == 2
    assert samples["0.0025"] == samples["0.25"] == 3
    assert samples["0.5"] == samples["10.0"] == 4
    assert samples["+Inf"] == 5
    assert abs(samples["sum"] - 60.3021) < 1e-9
    assert len(samples) == len(BOUNDS) + 2


def test_those_without_labels_have_their_zeros_at_once() -> None:
    # A rate needs the zero before the first one.
    assert Durations("wait_seconds", "Waits.", ()).number().samples[("+Inf",)] == 0
    assert Durations("wait_seconds", "Waits.", ("group",)).number().samples == {}


def test_a_listener_hears_of_each_one() -> None:
    durations = Durations("wait_seconds", "Waits.", ("group",))
    heard: list[tuple[float, tuple[str, ...]]] = []
    durations.add(1.0, ("before",))
    durations.listen(lambda seconds, labels: heard.append((seconds, labels)))
    durations.add(0.5, ("a",))
    assert heard == [(0.5, ("a",))]


@pytest.mark.parametrize("raised", [KeyError, *RAISED])
def test_a_listener_that_fails_is_told_once_and_harms_nobody(
    raised: type[BaseException], log: Callable[[], Any]
) -> None:
    durations = Durations("wait_seconds", "Waits.", ())
    heard: list[float] = []
    durations.listen(failing(raised))
    durations.listen(lambda seconds, labels: heard.append(seconds))
    durations.add(0.5)
    durations.add(1.0)
    assert heard == [0.5, 1.0]
    assert log() == [raised]


def test_a_new_process_begins_with_none() -> None:
    durations = Durations("wait_seconds", "Waits.", ())
    durations.add(0.5)
    durations.begin()
    assert set(durations.number().samples.values()) == {0}
