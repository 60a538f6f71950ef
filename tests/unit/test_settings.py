"""The bounds and durations of streams: each value is checked."""

from typing import Any

import pytest
from flask import Flask

from ssestream import (
    SseStream,
)
from ssestream.settings import Options, Settings


def test_options_are_checked_by_name() -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"max_messages": 0}, ValueError, "max_messages"),
        ({"max_bytes": "1"}, TypeError, "max_bytes"),
        ({"overflow": "explode"}, ValueError, "overflow"),
        ({"send_timeout": -1}, ValueError, "send_timeout"),
        ({"max_age": float("nan")}, ValueError, "max_age"),
        ({"retry": (5, 1)}, ValueError, "retry"),
        ({"retry": 1.5}, TypeError, "retry"),
        ({"heartbeat": True}, TypeError, "heartbeat"),
        ({"on_shutdown": "explode"}, ValueError, "on_shutdown is one of"),
        ({"on_shutdown": True}, ValueError, "on_shutdown is one of"),
        ({"interrupted": "too late"}, TypeError, "interrupted is a message"),
        ({"interrupted": {"dada": 1}}, ValueError, "interrupted is a wrong message: unknown field"),
        ({"interrupted": {}}, ValueError, "interrupted is a wrong message"),
        ({"max_stream": 3}, TypeError, "max_stream"),
    ]
    for options, kind, word in cases:
        with pytest.raises(kind, match=word):
            SseStream(**options)
    with pytest.raises(ValueError, match="high_water_mark"):
        SseStream(high_water_mark=20, max_messages=10)
    with pytest.raises(ValueError, match="high_water_mark"):
        SseStream(high_water_mark=16, max_messages=10)
    assert set(Options.__annotations__) <= set(Settings.__dataclass_fields__)


def test_the_usual_mark_gives_way_to_a_smaller_bound() -> None:
    assert SseStream().writable_high_water_mark == 16
    assert SseStream(max_messages=10).writable_high_water_mark == 10
    app = Flask(__name__)
    app.config["SSESTREAM_MAX_MESSAGES"] = 1
    with app.app_context():
        stream = SseStream(max_bytes=100)
        assert stream.writable_high_water_mark == 1
        assert stream.write({"data": "x"}) is False
