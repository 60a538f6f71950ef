"""The heartbeat: a comment on streams that are silent."""

import gc
import socket
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, request
from werkzeug.test import EnvironBuilder

from ssestream import ServerResponse, SseStream, statistics
from ssestream.http.connection import Connection
from ssestream.http.keepalive import EARLIEST
from ssestream.http.outgoing import HIGH_WATER_MARK, OutgoingMessage, body_of
from ssestream.http.output import CHUNK, OutputBuffer
from ssestream.runtime.clock import clock
from ssestream.runtime.wheel import SLOT, wheel_of
from ssestream.settings import Settings
from ssestream.testing import stopped_clock, stream
from ssestream.wire import HEARTBEAT
from tests.kit.insides import (
    call_queue_of,
    check_of,
    entered_in,
    keepalive_of,
    settings_of,
    slots_of,
)
from tests.kit.states import entered, forget_timers
from tests.kit.visit import Visit, on_threads_and_greenlets, until
from tests.unit.runtime.test_wheel import others_are_kept

#: Seconds of silence in these tests.
SHORT = 0.02

#: Seconds that no test lasts.
LONG = 1000.0


class WatchedBuffer(OutputBuffer):
    """What tells when it was asked to beat; a busy one was always written to just now."""

    busy = False
    _written_at = 0.0

    @property
    def written_at(self) -> float:
        return clock.now() if self.busy else self._written_at

    @written_at.setter
    def written_at(self, when: float) -> None:
        self._written_at = when

    def __init__(self) -> None:
        super().__init__(HIGH_WATER_MARK)
        self.beats: list[float] = []

    def put_into_silence(self, frame: bytes) -> bool:
        self.beats.append(clock.now())
        return super().put_into_silence(frame)


class Watched(OutgoingMessage):
    def __init__(self, busy: bool) -> None:
        super().__init__()
        self.buffer = body_of(self).buffer = WatchedBuffer()
        self.buffer.busy = busy
        self.buffer.written_at = clock.now()

    @property
    def beats(self) -> list[float]:
        return self.buffer.beats


class Opened:
    """Messages that a server sends, and what it was given of them."""

    def __init__(self) -> None:
        self.messages: list[Watched] = []

    def __call__(self, heartbeat: float, busy: bool = False) -> Watched:
        message = Watched(busy)
        settings = Settings(heartbeat=heartbeat, send_timeout=None, tcp_user_timeout=None)
        body_of(message).open(Connection(), settings)
        self.messages.append(message)
        return message

    def close(self) -> None:
        for message in self.messages:
            body_of(message).close()


@pytest.fixture
def opened() -> Iterator[Opened]:
    opened = Opened()
    yield opened
    opened.close()


def app_of(**options: Any) -> Any:
    """A WSGI app of one open stream, which is put into the list beside it."""
    kept: list[tuple[SseStream, ServerResponse]] = []

    def app(environ: Any, start_response: Any) -> Any:
        res = ServerResponse()
        sse_stream = SseStream(environ, **options)
        sse_stream.pipe(res)
        kept.append((sse_stream, res))
        return res(environ, start_response)

    return app, kept


# -- on the wire


@on_threads_and_greenlets
def test_a_silent_stream_is_sent_a_comment_again_and_again() -> None:
    app, _ = app_of(heartbeat=SHORT)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n:\n:\n:\n")


@on_threads_and_greenlets
def test_it_parts_no_message() -> None:
    app, kept = app_of(heartbeat=SHORT)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n:\n")
        kept[0][0].write({"id": 1, "data": "one"})
        visit.read_until(b"data: one\n\n:\n")
        kept[0][0].end({"data": "last"})
        visit.read_to_end()
    body = visit.body.replace(b":\n", b"").replace(b":ok\n\n", b"")
    assert body == b"id: 1\ndata: one\n\ndata: last\n\n"


@on_threads_and_greenlets
def test_the_middle_of_a_raw_line_is_left_alone() -> None:
    """The article's first example writes what it likes."""
    app, kept = app_of(heartbeat=SHORT)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n:\n")
        kept[0][1].write("data: the first half, ")
        visit.read_until(b"half, ")
        others_are_kept(wheel_of(call_queue_of(kept[0][1]).loop), SHORT)
        kept[0][1].write("the second\n\n")
        visit.read_until(b"data: the first half, the second\n\n:\n")


@on_threads_and_greenlets
@pytest.mark.parametrize("options", [{}, {"heartbeat": None}, {"heartbeat": 1000}])
def test_none_is_off_and_a_longer_one_is_longer(options: dict[str, Any]) -> None:
    app, kept = app_of(**options)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        others_are_kept(wheel_of(call_queue_of(kept[0][1]).loop), SHORT)
        kept[0][0].end()
        visit.read_to_end()
    assert visit.body == b":ok\n\n"


@on_threads_and_greenlets
def test_what_still_waits_is_not_added_to() -> None:
    """A client that takes nothing is not silent for want of a beat."""
    app, kept = app_of(heartbeat=SHORT)
    with Visit(app, send_buffer=4096) as visit:
        visit.read_until(b":ok\n\n")
        sse_stream, res = kept[0]
        sse_stream.write({"data": "x" * 1_000_000})
        until(
            lambda: body_of(res).buffer._taken == CHUNK,
            "more in the server's hands than it can send",
        )
        waiting = res.writable_length
        others_are_kept(wheel_of(call_queue_of(res).loop), SHORT)
        assert res.writable_length == waiting


@pytest.mark.parametrize("content_type", ["text/event-stream", "text/event-stream; charset=utf-8"])
def test_a_raw_event_stream_beats_by_the_apps_setting(content_type: str) -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_HEARTBEAT"] = SHORT

    @app.get("/")
    def view() -> Response:
        res = ServerResponse()
        res.header("Content-Type", content_type)
        res.write("data: raw\n\n")
        return res

    with Visit(app) as visit:
        visit.read_until(b"data: raw\n\n:\n:\n")


def test_what_is_no_event_stream_does_not_beat() -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_HEARTBEAT"] = SHORT
    kept: list[ServerResponse] = []

    @app.get("/")
    def view() -> Response:
        kept.append(ServerResponse(200, {"Content-Type": "text/plain"}))
        kept[0].write("plain\n")
        return kept[0]

    with Visit(app) as visit:
        visit.read_until(b"plain\n")
        others_are_kept(wheel_of(call_queue_of(kept[0]).loop), SHORT)
        kept[0].end()
        visit.read_to_end()
    assert visit.body == b"plain\n"


@on_threads_and_greenlets
def test_a_beat_finds_out_that_a_client_without_a_socket_has_left() -> None:
    """As over HTTP/2 of gunicorn: only a write tells."""
    app, kept = app_of(heartbeat=SHORT)
    with Visit(app, reachable=False) as visit:
        visit.read_until(b":ok\n\n")
        assert not body_of(kept[0][1]).reachable
    until(lambda: kept[0][0].destroyed, "the departure")


# -- the setting


def test_looks_that_a_busy_moment_has_brought_together_are_spread_again(opened: Opened) -> None:
    for _ in range(1000):
        message = opened(LONG)
        keepalive_of(message)._settings = Settings(heartbeat=None, tcp_user_timeout=None)
        body_of(message).buffer.mark_sent()
    now = clock.now()
    dues = [keepalive_of(each).look(now) for each in opened.messages]
    every = 15.0 / 8
    assert all(now + 2 * every * EARLIEST <= due <= now + 2 * every for due in dues)
    assert max(Counter(int(due / 0.1) for due in dues).values()) < 1000 / 3


def test_the_default_is_15_seconds() -> None:
    assert settings_of(SseStream()).heartbeat == Settings().heartbeat == 15.0
    with Flask(__name__).app_context():
        assert settings_of(SseStream()).heartbeat == 15.0


@pytest.mark.parametrize("seconds", [1, 0.5, 60.0, None])
def test_an_app_may_set_it_and_a_stream_may_set_its_own(seconds: float | None) -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_HEARTBEAT"] = seconds
    with app.app_context():
        assert settings_of(SseStream()).heartbeat == seconds
        assert settings_of(SseStream(heartbeat=7)).heartbeat == 7
        assert settings_of(SseStream(heartbeat=None)).heartbeat is None


def test_the_apps_setting_reaches_the_wire() -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_HEARTBEAT"] = SHORT
    app.get("/")(lambda: SseStream(request).pipe(ServerResponse()))
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n:\n:\n")


# -- when it comes


@on_threads_and_greenlets
def test_a_busy_stream_gets_no_beat(opened: Opened) -> None:
    busy, silent = opened(SHORT, busy=True), opened(SHORT)
    until(lambda: len(silent.beats) >= 5, "the silent one's beats")
    assert busy.beats == []
    assert busy.writable_length == 0
    body_of(busy).buffer.busy = False
    until(lambda: busy.beats, "the other's beat, now that it is silent")
    assert busy.writable_length == len(HEARTBEAT)


@on_threads_and_greenlets
def test_a_write_puts_the_beat_off(opened: Opened) -> None:
    message = opened(LONG)
    body = body_of(message)
    began = body_of(message).buffer.written_at
    message.write("data: later\n\n")
    assert next(body) == b"data: later\n\n"
    body_of(message).buffer.mark_sent()
    written = body_of(message).buffer.written_at
    assert written > began
    # Looked at when silence since the beginning would have been too long.
    silent_at = began + LONG * EARLIEST
    due = keepalive_of(message).look(silent_at)
    assert due is not None
    assert written + LONG * EARLIEST <= due <= written + LONG
    assert (message.beats, message.writable_length) == ([], 0)
    keepalive_of(message).look(due)
    assert (len(message.beats), message.writable_length) == (1, len(HEARTBEAT))


@on_threads_and_greenlets
def test_no_beat_comes_early(opened: Opened) -> None:
    message = opened(0.05)
    began = body_of(message).buffer.written_at
    until(lambda: len(message.beats) >= 3, "some beats")
    beats = message.beats[:3]
    for before, after in zip([began, *beats], beats, strict=False):
        assert after - before >= 0.05 * EARLIEST


@pytest.mark.long
def test_beats_of_ten_thousand_that_fell_silent_together_are_spread(opened: Opened) -> None:
    for _ in range(10_000):
        opened(LONG)
    now = [keepalive_of(each)._began for each in opened.messages]
    wheel = wheel_of(call_queue_of(opened.messages[0]).loop)
    entered(wheel, *(check_of(keepalive_of(each)) for each in opened.messages))
    slots = slots_of(wheel).items()
    ends = {each: number * SLOT for number, slot in slots for each in slot}
    due = [ends[check_of(keepalive_of(each))] for each in opened.messages]
    for _ in range(3):
        waits = sorted(then - before for then, before in zip(due, now, strict=True))
        assert waits[0] >= LONG * EARLIEST
        assert waits[-1] <= LONG + SLOT
        # Each tenth of the time that there is gets about its share: a uniform draw
        # misses these bounds less than once in a million runs.
        width = LONG * (1 - EARLIEST) / 10
        tenths = Counter(int((wait - LONG * EARLIEST) / width) for wait in waits)
        assert all(800 < tenths[tenth] < 1200 for tenth in range(10)), tenths
        # And so after each beat.
        now, due = (
            due,
            [
                keepalive_of(each).look(then)
                for each, then in zip(opened.messages, due, strict=True)
            ],
        )
        for each in opened.messages:
            each.buffer.take()
            each.buffer.mark_sent()


def test_a_beat_is_counted_and_is_no_message(opened: Opened) -> None:
    before = statistics()
    message = opened(SHORT)
    body = body_of(message)
    assert [next(body), next(body), next(body)] == [HEARTBEAT, HEARTBEAT, HEARTBEAT]
    # The thread of the wheel counts a beat when it has handed it on.
    until(lambda: statistics().heartbeats - before.heartbeats >= 3, "the count")
    assert statistics().messages == before.messages


# -- its end


@on_threads_and_greenlets
@pytest.mark.parametrize("options", [{}, {"heartbeat": None}, {"send_timeout": None}])
def test_a_stream_ends_when_it_is_old_whether_it_beats_or_not(options: dict[str, Any]) -> None:
    # Those of other tests, which a clock that moves by minutes would run very often.
    forget_timers()
    app, _ = app_of(max_age=100, **options)
    with stopped_clock() as clock, stream(app) as events:
        clock.advance(100 * EARLIEST - 1)
        assert (events.ended, events.retry) == (None, None)
        clock.advance(100 * (1 - EARLIEST) + 1)
        assert events.ended == "clean"
        assert events.retry is not None
        assert (events.pending(), events.comments) == ([], ["ok"])


def test_a_stream_with_nothing_but_an_age_ends_when_it_is_old() -> None:
    app, kept = app_of(max_age=SHORT, heartbeat=None, send_timeout=None)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        until(lambda: kept[0][0].destroyed, "its end")
        visit.read_to_end()
    assert visit.body.startswith(b":ok\n\nevent: ssestream-retry\nretry: ")


@on_threads_and_greenlets
@pytest.mark.parametrize("options", [{"send_timeout": None}, {"heartbeat": None}])
def test_a_stream_ends_whose_server_has_closed_its_socket_and_not_its_body(
    options: dict[str, Any],
) -> None:
    """As where a middleware fails that hands no close() on."""
    client, theirs = socket.socketpair()
    environ = {**EnvironBuilder().get_environ(), "gunicorn.socket": theirs}
    app, kept = app_of(**{"heartbeat": SHORT, "send_timeout": 10 * SHORT, **options})
    body = app(environ, lambda *args: None)
    theirs.close()
    until(lambda: kept[0][0].destroyed, "its end")
    assert next(iter(body), None) is None
    client.close()


@on_threads_and_greenlets
def test_a_stream_that_is_over_beats_no_more_and_is_let_go() -> None:
    app, kept = app_of(heartbeat=SHORT)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n:\n")
        wheel = wheel_of(call_queue_of(kept[0][1]).loop)
        ref = weakref.ref(kept[0][1])
    until(lambda: kept[0][0].destroyed, "the departure")
    checks = [each.check for each in entered_in(wheel) if each.check is not None]
    assert all(getattr(check, "_stream", None) is not ref() for check in checks)
    del checks
    visit.environ.clear()
    kept.clear()

    def collected() -> bool:
        gc.collect()
        return ref() is None

    until(collected, "the response to be let go")
