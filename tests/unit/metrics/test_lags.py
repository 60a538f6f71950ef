"""For how long streams have been behind."""

from types import SimpleNamespace

import pytest

from ssestream.brokers.broker import Position
from ssestream.channels.lag import Lag
from ssestream.metrics.lags import REMEMBERED, Lags


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    # Not the clock of the process: its timers would go wrong.
    clock = SimpleNamespace(now=lambda: time.now)
    monkeypatch.setattr("ssestream.metrics.lags.clock", clock)
    return time


def lag(at: int, end: int, seconds: float = 0.0, log: str = "a") -> dict[str, Lag]:
    return {"news": Lag(end - at, Position(log, at), Position(log, end), seconds)}


def test_the_end_of_an_earlier_reading_tells_that_an_entry_was_there(time: Time) -> None:
    lags = Lags()
    assert lags.seconds(lag(5, 10)) == {"news": 0}
    time.now += 5
    assert lags.seconds(lag(5, 20)) == {"news": 5}
    time.now += 5
    # At the second reading the log had entry 13, and at the first it had not.
    assert lags.seconds(lag(12, 30)) == {"news": 5}
    time.now += 5
    assert lags.seconds(lag(29, 30)) == {"news": 5}


def test_what_the_process_knows_itself_counts_if_it_is_more(time: Time) -> None:
    lags = Lags()
    assert lags.seconds(lag(5, 10, seconds=7.0)) == {"news": 7}
    time.now += 3
    assert lags.seconds(lag(5, 10, seconds=2.0)) == {"news": 3}


def test_another_log_and_a_stream_that_has_caught_up_begin_anew(time: Time) -> None:
    lags = Lags()
    lags.seconds(lag(5, 10))
    time.now += 5
    assert lags.seconds(lag(5, 10, log="b")) == {"news": 0}
    assert lags.seconds({}) == {}
    time.now += 5
    assert lags.seconds(lag(5, 10, log="b")) == {"news": 0}


def test_a_stream_that_never_catches_up_has_its_lag_after_any_number_of_readings(
    time: Time,
) -> None:
    lags = Lags()
    for reading in range(20 * REMEMBERED):
        # It is always 100 entries behind, which is ten seconds.
        found = lags.seconds(lag(10 * reading, 10 * reading + 100))["news"]
        if reading > 10:
            assert 8 <= found <= 10
        time.now += 1
