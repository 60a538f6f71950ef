"""Time stands until a test moves it, and then everything comes in order and once."""

import gc
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from flask import Flask, request

from ssestream import (
    Channels,
    ServerResponse,
    SseStream,
    clear_interval,
    clear_timeout,
    set_interval,
    set_timeout,
)
from ssestream.runtime.clock import clock as package_clock
from ssestream.testing import stopped_clock, stream
from tests.kit.visit import on_threads_and_greenlets, until


@on_threads_and_greenlets
def test_a_timer_is_called_once_for_each_of_its_times() -> None:
    said: list[str] = []
    with stopped_clock() as clock:
        interval = set_interval(said.append, 1000, "interval")
        timeout = set_timeout(said.append, 2500, "timeout")
        clock.advance(0.999)
        assert said == []
        clock.advance(0.001)
        assert said == ["interval"]
        clock.advance(2)
        assert said == ["interval", "interval", "timeout", "interval"]
        clear_interval(interval)
        clear_timeout(timeout)
        clock.advance(1000)
        assert len(said) == 4


@pytest.mark.long_except("greenlets")
@on_threads_and_greenlets
def test_small_steps_add_up() -> None:
    said: list[int] = []
    with stopped_clock() as clock:
        interval = set_interval(said.append, 300, 1)
        for _ in range(100):
            clock.advance(0.1)
        assert len(said) == 33
        clear_interval(interval)


def test_a_timer_that_a_callback_sets_comes_in_the_same_move() -> None:
    times: list[float] = []
    with stopped_clock() as clock:

        def again() -> None:
            times.append(clock.now)
            if len(times) < 4:
                set_timeout(again, 500)

        set_timeout(again, 500)
        clock.advance(10)
        assert times == [0.5, 1, 1.5, 2]


@pytest.mark.long_except("greenlets")
@on_threads_and_greenlets
def test_a_heartbeat_comes_after_the_silence(app: Flask) -> None:
    for _ in range(20):
        with stopped_clock() as clock, stream(app, "/ticks?quiet") as events:
            clock.advance(0.5)
            assert events.heartbeats == 0
    with stopped_clock() as clock, stream(app, "/news") as events:
        for number in range(1, 21):
            clock.advance(15)
            assert events.heartbeats >= number
        assert events.ended is None


@pytest.mark.parametrize("offset", [0.01, 0.2, 0.3, 0.7, 0.99])
def test_a_heartbeat_comes_at_the_end_of_the_silence_wherever_it_began(
    app: Flask, offset: float
) -> None:
    channels = app.extensions["ssestream"]
    with stopped_clock() as clock, stream(app, "/news") as events:
        clock.advance(offset)
        channels.publish("news", {"data": "x"})
        events.next()
        before = events.heartbeats
        clock.advance(15)
        assert events.heartbeats == before + 1


@pytest.mark.long
def test_a_stream_ends_at_its_age(app: Flask) -> None:
    app.config["SSESTREAM_MAX_AGE"] = 3600
    with stopped_clock() as clock, stream(app, "/news") as events:
        clock.advance(2000)
        assert events.ended is None
        clock.advance(1600)
        assert events.ended == "clean"
        assert events.retry is not None


def test_history_ages() -> None:
    channels = Channels("memory://", history_age=60)
    with stopped_clock() as clock:
        channels.publish("news", {"data": "old"})
        clock.advance(59)
        channels.publish("news", {"data": "new"})
        assert [each["data"] for each in channels.history("news")] == ["old", "new"]
        clock.advance(1)
        assert [each["data"] for each in channels.history("news")] == ["new"]
        clock.advance(59)
        assert channels.history("news") == []


def test_time_stands_by_itself() -> None:
    called: list[int] = []
    with stopped_clock() as clock:
        timer = set_timeout(called.append, 1, 1)
        before = package_clock.now()
        began = package_clock.real()
        until(lambda: package_clock.real() > began + 0.05, "real time to pass")
        assert (called, clock.now, package_clock.now()) == ([], 0, before)
        clear_timeout(timer)


@on_threads_and_greenlets
def test_time_goes_on_by_itself_afterwards() -> None:
    called: list[int] = []
    with stopped_clock() as clock:
        clock.advance(100)
        inside = package_clock.now()
        timer = set_interval(called.append, 5, 1)
    assert package_clock.now() >= inside
    until(lambda: called, "a tick of the real time")
    clear_interval(timer)
    with stopped_clock() as clock:
        assert clock.now == 0
        assert package_clock.now() >= inside
    assert not package_clock.stands


def test_a_timer_that_was_set_before_stands_too() -> None:
    called: list[int] = []
    timer = set_timeout(called.append, 60, 1)
    with stopped_clock() as clock:
        began = package_clock.real()
        until(lambda: package_clock.real() > began + 0.1, "real time to pass")
        assert called == []
        clock.advance(1.2)
        assert called == [1]
    clear_timeout(timer)


def test_a_callback_that_never_returns_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssestream.testing.clock.PATIENCE", 0.1)
    waits: list[bool] = [True]

    def waiting() -> None:
        until(lambda: not waits, "the end of the test")

    with stopped_clock() as clock:
        set_timeout(waiting, 10)
        with pytest.raises(AssertionError, match="waiting of a timer has not returned"):
            clock.advance(1)
        waits.clear()


def test_a_callback_that_raises_is_logged_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[int] = []
    with stopped_clock() as clock:
        broken = set_interval(lambda: 1 / 0, 10)
        whole = set_interval(said.append, 10, 1)
        clock.advance(0.03)
        clear_interval(broken)
        clear_interval(whole)
    assert len(said) == 3
    assert caplog.text.count("ZeroDivisionError") == 3


def test_one_block_at_a_time() -> None:
    with stopped_clock(), pytest.raises(RuntimeError, match="stands already"), stopped_clock():
        pass
    assert not package_clock.stands


@pytest.mark.parametrize(
    ("seconds", "error"),
    [(-1, ValueError), (float("inf"), ValueError), (float("nan"), ValueError), ("1", TypeError)],
)
def test_a_move_that_is_none_is_refused(seconds: Any, error: type[Exception]) -> None:
    with stopped_clock() as clock, pytest.raises(error):
        clock.advance(seconds)


def test_a_loop_that_nobody_runs_any_more_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssestream.testing.loops.PATIENCE", 0.5)
    hubs: list[Any] = []

    def leaves_a_timer() -> None:
        set_interval(print, 1000)
        hubs.append(gevent.get_hub())

    thread = gevent.get_hub().threadpool.spawn(lambda: gevent.spawn(leaves_a_timer).join())
    thread.get()
    said: list[int] = []
    with stopped_clock() as clock:
        timer = set_interval(said.append, 1000, 1)
        clock.advance(3)
        clear_interval(timer)
    assert len(said) == 3
    hubs.clear()
    gc.collect()


@pytest.mark.long
def test_a_source_that_never_waits_does_not_hold_up_the_clock(app: Flask) -> None:
    written: Callable[[], int] = lambda: app.extensions.get("written", 0)  # noqa: E731

    @app.get("/busy")
    def busy() -> Any:
        res = ServerResponse()
        sse_stream = SseStream(request)
        sse_stream.pipe(res)

        def write() -> None:
            app.extensions["written"] = written() + 1
            if not sse_stream.destroyed:
                sse_stream.write({"data": "x"}, callback=lambda error: write())

        write()
        return res

    with stopped_clock() as clock, stream(app, "/busy"):
        clock.advance(1)
        assert clock.now == 1
