"""The settings of an app's streams, right and wrong."""

import logging
from typing import Any

import flask
import pytest

from ssestream.doctor.finding import Finding
from ssestream.doctor.settings import examine_descriptors, examine_settings


def examine(**config: Any) -> list[Finding]:
    app = flask.Flask("app")
    app.config.update({f"SSESTREAM_{name.upper()}": value for name, value in config.items()})
    with app.app_context():
        return list(examine_settings())


def test_the_defaults_are_right() -> None:
    assert [str(each) for each in examine()] == ["ok      a heartbeat after 15 s of silence"]


@pytest.mark.parametrize(
    ("config", "level", "words"),
    [
        ({"heartbeat": None}, "fault", "SSESTREAM_HEARTBEAT is None"),
        ({"heartbeat": 60}, "fault", "SSESTREAM_HEARTBEAT is 60 s"),
        ({"heartbeat": 45}, "note", "SSESTREAM_HEARTBEAT is 45 s"),
        ({"heartbeat": "15"}, "fault", "SSESTREAM_HEARTBEAT is a number of seconds"),
        ({"max_messages": 0}, "fault", "SSESTREAM_MAX_MESSAGES must be at least 1"),
        ({"interrupted": {"id": "a\nb"}}, "fault", "SSESTREAM_INTERRUPTED"),
        ({"max_age": 5}, "note", "SSESTREAM_MAX_AGE is 5 s"),
        ({"retry_after": 1000}, "note", "SSESTREAM_RETRY_AFTER is 1000"),
        ({"retry_after": (1000, 1000)}, "note", "SSESTREAM_RETRY_AFTER is (1000, 1000)"),
        ({"send_timeout": None}, "note", "SSESTREAM_SEND_TIMEOUT is None"),
        ({"heart_beat": 15}, "note", "but SSESTREAM_HEARTBEAT is"),
        ({"max_streams_per_client": 5}, "note", "SSESTREAM_CLIENT_KEY"),
        ({"max_streams": 10**9}, "note", "SSESTREAM_MAX_STREAMS is 1000000000"),
    ],
)
def test_a_setting_that_is_wrong_or_may_be(config: dict[str, Any], level: str, words: str) -> None:
    (finding,) = [each for each in examine(**config) if each.level != "ok"]
    assert finding.level == level
    assert words in finding.seen
    assert finding.why
    assert finding.change


def test_a_warning_becomes_a_finding_and_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        examine(heart_beat=15)
    assert caplog.records == []


def test_descriptors() -> None:
    assert examine_descriptors("SSESTREAM_MAX_STREAMS", 1).level == "ok"
    finding = examine_descriptors("SSESTREAM_MAX_STREAMS", 10**9)
    assert "LimitNOFILE=1000001000" in finding.change
