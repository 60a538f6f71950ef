"""Whether the broker can be used, and what the log says of it."""

import logging

import pytest

from ssestream import BrokerError
from ssestream.channels import health
from ssestream.channels.health import Health
from tests.kit.visit import until


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_it_begins_idle_and_goes_back_to_it() -> None:
    made = Health()
    assert made.state == "idle"
    made.up()
    assert made.state == "listening"
    made.idle()
    assert made.state == "idle"


def test_a_broker_that_is_down_and_back_is_told_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Health()
    made.up()
    assert said(caplog) == []
    for _ in range(3):
        made.down(BrokerError("no route"))
    assert made.is_down
    made.up()
    made.up()
    assert said(caplog) == [
        "channels: no route; the streams stay open meanwhile",
        "channels: the broker is back",
    ]


def test_what_an_operator_must_mend_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    Health().down(BrokerError("wrong password", lasting=True))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "an operator must correct this" in record.getMessage()


def test_one_that_comes_and_goes_is_told_twice_and_back_when_it_is_steady(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STEADY", 1.5)
    made = Health()
    for _ in range(5):
        made.down(BrokerError("no route"))
        made.up()
    back = "channels: the broker is back"
    down = "channels: no route; the streams stay open meanwhile"
    assert said(caplog)[:3] == [down, back, down]
    assert made.is_unsteady
    until(lambda: not made.is_unsteady, "it to be steady")
    assert said(caplog) == [down, back, down, back]


def test_another_error_of_one_that_comes_and_goes_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Health()
    for words in ("one", "one", "two"):
        made.down(BrokerError(words))
        made.up()
    made.down(BrokerError("one"))
    told = [words.split(":")[1].split(";")[0].strip() for words in said(caplog)]
    assert [each for each in told if each in ("one", "two")] == ["one", "one", "two", "one"]
    made.idle()


def test_the_failure_of_a_reader_is_taken_once() -> None:
    made, failure = Health(), BrokerError("why")
    assert made.take_failure() is None
    made.note(failure)
    assert made.take_failure() is failure
    assert made.take_failure() is None
