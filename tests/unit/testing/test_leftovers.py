"""What a block leaves open is named, with its place."""

import re
import threading
from typing import Any

import pytest
from flask import Flask

from ssestream import Channels, SseStream, clear_interval, set_interval, set_timeout
from ssestream.testing import LeftOpen, leftovers, nothing_left_open, stream
from tests.kit.servers import PATIENCE
from tests.kit.visit import until


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "SOON", PATIENCE)


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch, patient: None) -> None:
    monkeypatch.setattr(leftovers, "SOON", 0.3)


def test_nothing_is_left_of_clients_that_have_left(app: Flask) -> None:
    with nothing_left_open():
        for path in ("/ticks", "/news", "/five", "/secret"):
            with stream(app, path):
                pass


def test_nothing_is_left_of_a_stream_that_an_app_without_flask_refuses() -> None:
    channels = Channels("memory://")

    def refusing(environ: dict[str, Any], start: Any) -> list[bytes]:
        channels.subscribe(SseStream(environ), "news")
        start("403 Forbidden", [])
        return [b"no stream"]

    with nothing_left_open(), stream(refusing, "/") as events:
        assert events.status == 403


@pytest.mark.usefixtures("in_haste")
def test_a_stream_a_subscription_and_a_timer_are_named(app: Flask) -> None:
    with pytest.raises(LeftOpen) as caught, nothing_left_open():
        events = [stream(app, "/ticks"), stream(app, "/news")]
    for each in events:
        each.close()
    text = str(caught.value)
    assert "the stream of '/ticks' (endpoint 'ticks')" in text
    assert "a subscription to 'news'" in text
    assert "conftest.py, line " in text
    assert "set in the request of '/ticks' (endpoint 'ticks')" in text


def tick() -> None:
    pass


@pytest.mark.usefixtures("in_haste")
def test_a_timer_outside_of_requests_is_named_by_its_function() -> None:
    timers = []
    with pytest.raises(LeftOpen) as caught, nothing_left_open():
        timers.append(set_interval(tick, 60_000))
    clear_interval(timers[0])
    first, second = str(caught.value).splitlines()
    assert first == "left open: 1"
    assert re.fullmatch(
        r"  a timer that calls [\w.]+\.tick \(.*test_leftovers.py, line \d+\)", second
    )


def test_what_was_open_before_does_not_count(app: Flask) -> None:
    timer = set_interval(print, 60_000)
    with stream(app, "/ticks"), nothing_left_open(), stream(app, "/news"):
        pass
    clear_interval(timer)


def test_nor_does_a_timer_whose_callback_ran_when_the_block_began() -> None:
    begun, on = threading.Event(), threading.Event()

    def tick() -> None:
        begun.set()
        on.wait(60)

    # The timer waits for its next tick when the block is over.
    timer = set_interval(tick, 500)
    until(begun.is_set, "the callback")
    with nothing_left_open():
        on.set()
    clear_interval(timer)


def test_what_ends_soon_is_waited_for() -> None:
    with nothing_left_open():
        set_timeout(lambda: None, 50)


def test_an_error_of_the_block_comes_first() -> None:
    timers = []
    with pytest.raises(ZeroDivisionError), nothing_left_open():
        timers.append(set_interval(print, 60_000 // len(timers)))
