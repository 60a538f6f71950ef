"""Logs in the memory of one process."""

import logging
import os
from collections.abc import Callable

import flask
import pytest

from ssestream import Channels
from ssestream.brokers.broker import CONTROL
from ssestream.brokers.memory import MemoryBroker
from ssestream.runtime.forking import process
from tests.kit.brokers import everything, frames
from tests.kit.following import Client, Following, data_of, publish

Make = Callable[..., Channels]


def test_clear_empties_the_memory(local: Make) -> None:
    channels = local()
    app = Following(channels, "news", on_gap=lambda name: f"all of {name}")
    with Client(app) as client:
        publish(channels, "news", 2)
        client.take(2)
        channels.clear()
        assert channels.history("news") == []
        publish(channels, "news", 2, 3)
        assert data_of(client.take(4))[2:] == ["all of news", "2"]
    assert app.gaps == ["news"]


def test_clear_is_for_memory_alone(sqlite_url: str) -> None:
    with pytest.raises(RuntimeError, match="memory://"):
        Channels(sqlite_url).clear()


def test_memory_with_several_workers_is_warned_of_once(
    local: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, unsaid: None
) -> None:
    monkeypatch.setattr(process, "is_one_of_several", False)
    app = flask.Flask(__name__)
    for several in (False, True):
        channels = local()
        environ = {"wsgi.multiprocess": several}
        for _ in range(3):
            with app.test_request_context("/", environ_overrides=environ):
                channels.publish("news", {"data": "x"})
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "sqlite:///" in warning.getMessage()


def test_all_logs_of_a_process_have_one_identity_and_a_child_another() -> None:
    broker = MemoryBroker()
    logs = {broker.append(name, b"x").log for name in ("news", "sports")}
    logs.add(everything(broker, "never written").log)
    assert len(logs) == 1
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if broker.append("news", b"y").log not in logs else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert broker.append("news", b"z").log in logs


def test_clearing_begins_other_logs() -> None:
    broker = MemoryBroker()
    before = broker.append("news", b"one")
    broker.clear()
    piece = everything(broker, "news")
    assert frames(piece) == []
    assert piece.misses(before)
    assert broker.append("news", b"two").number == 1


def test_control_frames_leave_with_the_message_after_them_and_count_as_none() -> None:
    broker = MemoryBroker(history=2)
    control = CONTROL + b"close"
    for frame in (b"1", control, b"2", b"3"):
        broker.append("news", frame)
    assert frames(everything(broker, "news")) == [control, b"2", b"3"]
    broker.append("news", b"4")
    assert frames(everything(broker, "news")) == [b"3", b"4"]
    assert broker.read("news", 4, 10, 10**6).end[:2] == (broker.append("x", b"").log, 5)
