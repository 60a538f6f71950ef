"""How late events are, by the server's clock or by their pattern."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from ssestream.doctor.delays import examine_delays
from ssestream.doctor.finding import Finding
from ssestream.doctor.probing import EVENT, PADDINGS


def probed(*times: tuple[float, float]) -> list[Finding]:
    """Events of the probe: when the server wrote each, and when it came."""
    messages = [
        (came, {"event": EVENT, "data": json.dumps({"sent": sent, "padding": "x" * 100})})
        for sent, came in times
    ]
    visit: Any = SimpleNamespace(messages=messages)
    return list(examine_delays(visit))


def seen(*times: float) -> list[Finding]:
    visit: Any = SimpleNamespace(messages=[(came, {"data": "x"}) for came in times])
    return list(examine_delays(visit))


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 1e9])
def test_prompt_events_are_well_whatever_the_clocks_say(skew: float) -> None:
    (finding,) = probed(*((n / 4 + skew, n / 4 + 0.02) for n in range(20)))
    assert finding.level == "ok"
    assert f"20 of {len(PADDINGS)} events" in finding.seen


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 1e9])
def test_events_that_were_held_back_are_told_with_the_size_of_the_buffer(skew: float) -> None:
    (finding,) = probed(
        *((n / 4 + skew, 2.9) for n in range(12)), *((n / 4 + skew, n / 4) for n in range(12, 20))
    )
    assert finding.level == "fault"
    assert "up to 2.9 s late: the first 12 came together" in finding.seen
    assert "proxy_buffering off;" in finding.change


def test_one_late_event_is_enough() -> None:
    (finding,) = probed((0, 0.01), (1, 1.01), (2, 4.01))
    assert finding.level == "fault"


def test_without_the_probe_bursts_are_a_note() -> None:
    bursts = [at + n / 1000 for at in (0.0, 5.0, 10.0) for n in range(4)]
    (finding,) = seen(*bursts)
    assert finding.level == "note"
    assert "2 times" in finding.seen


@pytest.mark.parametrize(
    "times",
    [
        [],
        [1.0],
        [n / 1000 for n in range(100)],  # what a client missed comes together
        [float(n) for n in range(20)],
        [n + even / 1000 for n in range(10) for even in range(2)],  # two at a time
        [5.0, 5.001, 5.002, 5.003],  # once
    ],
)
def test_without_the_probe_other_patterns_say_nothing(times: list[float]) -> None:
    assert seen(*times) == []
