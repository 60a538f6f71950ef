"""A stream ends when its ticket expires, and its client is told when to come back."""

import logging
import re
import time
from typing import Any

import flask
import pytest

from ssestream import ServerResponse, SseStream
from ssestream.stream import flow_of
from ssestream.testing import stopped_clock, stream
from ssestream.tickets import ending
from ssestream.tickets.ending import end_at
from tests.kit.following import Client
from tests.kit.states import forget_timers
from tests.kit.visit import on_threads_and_greenlets, until


class Ending(flask.Flask):
    """An app whose stream ends *seconds* after it came."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(__name__)
        self.config["SSESTREAM_RETRY_AFTER"] = (200, 300)
        self.streams: list[SseStream] = []

        @self.get("/")
        def page() -> ServerResponse:
            res = ServerResponse()
            sse_stream = SseStream(flask.request, **options)
            self.streams.append(sse_stream)
            sse_stream.pipe(res)
            end_at(sse_stream, time.time() + seconds)
            sse_stream.write({"data": "waits"})
            return res


@on_threads_and_greenlets
def test_all_that_waits_is_sent_before_a_retry_and_a_clean_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, began = Ending(0.2), time.time()
    with caplog.at_level(logging.INFO, "ssestream"), Client(app) as client:
        data, retry = client.all()
        assert time.time() - began >= 0.2
    assert data == {"data": "waits"}
    assert retry["event"] == "ssestream-retry"
    assert 200 <= retry["retry"] <= 300
    assert re.search("'/'.*: ended, as its ticket has expired", caplog.text)


@on_threads_and_greenlets
@pytest.mark.parametrize("half", ["data: half", "data: half\n"])
def test_half_an_event_that_is_written_by_hand_is_not_completed(half: str) -> None:
    app = Ending(0.2)
    with Client(app) as client:
        client.take(1)
        destination: Any = flow_of(app.streams[0]).pipes[0].destination
        destination.write(half)
        client.read_to_end()
        assert b"data: half\nevent: ssestream-retry\nretry: " in client.received
        assert client.all()[0] == {"data": "waits"}
        assert [each for each in client.all()[1:] if "data" in each] == []


@on_threads_and_greenlets
def test_a_ticket_that_has_expired_meanwhile_ends_the_stream_at_once() -> None:
    app = Ending(-1.0)
    with Client(app) as client:
        assert "retry" in client.all()[0]


@pytest.mark.parametrize("on_shutdown", ["finish", "cut"])
def test_a_client_that_takes_a_clean_end_for_the_last_word_is_cut(on_shutdown: Any) -> None:
    app = Ending(0.2, on_shutdown=on_shutdown)
    with Client(app) as client:
        assert client.all() in ([], [{"data": "waits"}])
        until(lambda: app.streams[0].destroyed, "the stream to be over")
        assert not app.streams[0].writable_ended


@on_threads_and_greenlets
def test_the_wall_clock_decides_and_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "LOOK_MS", 20.0)
    app, real, ahead = Ending(1000.0), time.time, [0.0]
    monkeypatch.setattr(ending.time, "time", lambda: real() + ahead[0])
    with Client(app) as client:
        client.take(1)
        assert not app.streams[0].destroyed
        ahead[0] = 2000.0
        assert "retry" in client.all()[1]


@on_threads_and_greenlets
def test_a_clock_that_is_set_back_does_not_prolong_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, real = Ending(0.3), time.time
    with Client(app) as client:
        client.take(1)
        monkeypatch.setattr(ending.time, "time", lambda: real() - 5000)
        assert "retry" in client.all()[1]


def test_a_clock_that_a_test_moves_by_hand_ends_the_stream() -> None:
    forget_timers()
    app = Ending(1000.0)
    with stopped_clock() as hand, stream(app, "/") as events:
        assert events.next().data == "waits"
        hand.advance(999)
        assert events.ended is None
        hand.advance(1.1)
        until(lambda: app.streams[0].destroyed, "the end of the stream")


@on_threads_and_greenlets
def test_a_stream_that_is_over_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Any] = []
    set_timeout = ending.set_timeout
    monkeypatch.setattr(
        ending,
        "set_timeout",
        lambda *args: timers.append(set_timeout(*args)) or timers[-1],
    )
    app = Ending(1000.0)
    with Client(app):
        until(lambda: timers, "the timer")
    until(lambda: timers[0].is_over, "the timer to be cleared")
    assert len(timers) == 1


@on_threads_and_greenlets
def test_a_stream_that_its_app_has_ended_gets_nothing_more() -> None:
    app = Ending(1000.0)
    with Client(app) as client:
        client.take(1)
        sse_stream = app.streams[0]
        sse_stream.end()
        assert client.all() == [{"data": "waits"}]
        end_at(sse_stream, time.time() - 1)
