"""The heartbeat: a comment on streams that are silent, and one timer for all of them."""

import gc
import time
import weakref
from typing import Any

import gevent
import pytest
from flask import Flask, Response, request

from ssestream import ServerResponse, SseStream
from ssestream.heartbeat import EARLIEST, INTERVAL, SWEEP, Heart, heart_of
from ssestream.hub import Home, current_home
from ssestream.outgoing import OutgoingMessage
from tests.visit import Visit, on_threads_and_greenlets, until

#: Seconds of silence in these tests.
SHORT = 0.02


class Silent:
    """What counts its beats; a busy one was always written to just now."""

    def __init__(self, busy: bool = False) -> None:
        self.busy = busy
        self.beats: list[float] = []
        self._written = time.monotonic()

    @property
    def _last_write(self) -> float:
        return time.monotonic() if self.busy else self._written

    @_last_write.setter
    def _last_write(self, value: float) -> None:
        self._written = value

    def _beat(self) -> None:
        self.beats.append(time.monotonic())


class CountingLoop:
    """A real loop, and the timers of it that were made and are not closed."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.timers: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def timer(self, after: float) -> Any:
        timer = self._loop.timer(after)
        self.timers = [each for each in self.timers if each.loop is not None]
        self.timers.append(timer)
        return timer


@pytest.fixture
def home() -> Home:
    home = Home(gevent.get_hub())
    home.loop = CountingLoop(home.loop)
    return home


def others_beat(heart: Heart, count: int = 3) -> None:
    """Wait for some beats of another stream of this heart."""
    other = Silent()
    entry = heart.add(other, SHORT)
    until(lambda: len(other.beats) >= count, "another's beats")
    entry.stop()


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
        others_beat(heart_of(kept[0][1]._lane.home))
        kept[0][1].write("the second\n\n")
        visit.read_until(b"data: the first half, the second\n\n:\n")


@on_threads_and_greenlets
@pytest.mark.parametrize("options", [{}, {"heartbeat": None}, {"heartbeat": 1000}])
def test_none_is_off_and_a_longer_one_is_longer(options: dict[str, Any]) -> None:
    app, kept = app_of(**options)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n")
        others_beat(heart_of(kept[0][1]._lane.home))
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
        while sse_stream.write({"data": "x" * 1000}):
            gevent.sleep(0)
        until(lambda: res.writable_need_drain, "a full buffer")
        waiting = res.writable_length
        others_beat(heart_of(res._lane.home))
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
        others_beat(heart_of(kept[0]._lane.home))
        kept[0].end()
        visit.read_to_end()
    assert visit.body == b"plain\n"


@on_threads_and_greenlets
def test_a_beat_finds_out_that_a_client_without_a_socket_has_left() -> None:
    """As under waitress: only a write tells."""
    app, kept = app_of(heartbeat=SHORT)
    with Visit(app, reachable=False) as visit:
        visit.read_until(b":ok\n\n")
        assert not kept[0][1]._reachable
    until(lambda: kept[0][0].destroyed, "the departure")


# -- the setting


def test_the_default_is_15_seconds() -> None:
    assert SseStream()._heartbeat == INTERVAL == 15.0
    with Flask(__name__).app_context():
        assert SseStream()._heartbeat == INTERVAL


@pytest.mark.parametrize("seconds", [1, 0.5, 60.0, None])
def test_an_app_may_set_it_and_a_stream_may_set_its_own(seconds: float | None) -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_HEARTBEAT"] = seconds
    with app.app_context():
        assert SseStream()._heartbeat == seconds
        assert SseStream(heartbeat=7)._heartbeat == 7
        assert SseStream(heartbeat=None)._heartbeat is None


def test_the_apps_setting_reaches_the_wire() -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_HEARTBEAT"] = SHORT
    app.get("/")(lambda: SseStream(request).pipe(ServerResponse()))
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n:\n:\n")


# -- one heart for all


@on_threads_and_greenlets
def test_a_home_has_one_heart() -> None:
    assert heart_of(current_home()) is heart_of(current_home())


def test_a_busy_stream_gets_no_beat(home: Home) -> None:
    heart = Heart(home)
    busy, silent = Silent(busy=True), Silent()
    entries = [heart.add(busy, SHORT), heart.add(silent, SHORT)]
    until(lambda: len(silent.beats) >= 5, "the silent one's beats")
    assert busy.beats == []
    busy.busy = False
    until(lambda: busy.beats, "the other's beat, now that it is silent")
    for entry in entries:
        entry.stop()


def test_no_beat_comes_early(home: Home) -> None:
    heart = Heart(home)
    silent = Silent()
    began = silent._last_write
    entry = heart.add(silent, 0.05)
    until(lambda: len(silent.beats) >= 3, "some beats")
    entry.stop()
    times = [began, *silent.beats]
    for before, after in zip(times, silent.beats, strict=False):
        assert after - before >= 0.05 * EARLIEST - 0.001


def test_ten_thousand_streams_share_one_timer(home: Home) -> None:
    heart = Heart(home)
    made = len(home.loop.timers)
    assert made == 1
    streams = [OutgoingMessage() for _ in range(10_000)]
    for stream in streams:
        stream._last_write = time.monotonic()
    entries = [heart.add(stream, 15.0) for stream in streams]
    until(lambda: len(heart._entries) == 10_000, "all of them")
    alive = [timer for timer in home.loop.timers if timer.active]
    assert len(alive) == 1
    assert alive == [heart._timer]
    for entry in entries:
        entry.stop()


def test_beats_of_streams_that_fell_silent_together_are_spread(home: Home) -> None:
    heart = Heart(home)
    streams = [Silent() for _ in range(1000)]
    now = time.monotonic()
    for stream in streams:
        stream._last_write = now
    entries = [heart.add(stream, 10.0) for stream in streams]
    until(lambda: len(heart._entries) == 1000, "all of them")
    due = sorted(entry.due - now for entry in heart._entries)
    assert due[0] >= 10.0 * EARLIEST
    assert due[-1] <= 10.0
    # Over all of the time that there is: not one tenth of it is empty.
    tenths = {int((each - 8.0) / 0.2) for each in due}
    assert tenths >= set(range(10))
    for entry in entries:
        entry.stop()


def test_a_stopped_entry_holds_no_stream_and_never_beats(home: Home) -> None:
    heart = Heart(home)
    streams = [Silent() for _ in range(10)]
    entries = [heart.add(stream, SHORT) for stream in streams]
    until(lambda: len(heart._entries) == 10, "all of them")
    refs = [weakref.ref(stream) for stream in streams]
    stream = streams.pop()
    for entry in entries:
        entry.stop()
    beats = len(stream.beats)
    del streams
    gc.collect()
    assert [ref() for ref in refs] == [None] * 9 + [stream]
    others_beat(heart)
    assert len(stream.beats) == beats
    # Those that were due are gone from the heap, too.
    until(lambda: len(heart._entries) <= 1, "an empty heap")


def test_one_that_is_stopped_before_it_has_entered_never_does(home: Home) -> None:
    heart = Heart(home)
    entry = heart.add(Silent(), SHORT)
    entry.stop()
    others_beat(heart)
    assert entry not in heart._entries


def test_stopped_entries_are_swept_once_there_are_many(home: Home) -> None:
    """Long before they are due."""
    heart = Heart(home)
    staying = heart.add(Silent(), 1000.0)
    for _ in range(5):
        entries = [heart.add(Silent(), 1000.0) for _ in range(SWEEP)]
        until(lambda entries=entries: all(e.due for e in entries), "all of them")
        for entry in entries:
            entry.stop()
        assert len(heart._entries) <= 3 * SWEEP
    last = heart.add(Silent(), 1000.0)
    until(lambda: last in heart._entries, "the last one")
    left = [entry for entry in heart._entries if entry.stream is not None]
    assert set(left) == {staying, last}
    assert heart._entries[0].due == min(entry.due for entry in heart._entries)


def test_an_empty_heart_rests_and_beats_again(home: Home) -> None:
    heart = Heart(home)
    others_beat(heart)
    until(lambda: not heart._entries, "an empty heap")
    until(lambda: not heart._timer.active, "its rest")
    others_beat(heart)


@on_threads_and_greenlets
def test_a_stream_that_is_over_beats_no_more_and_is_let_go() -> None:
    app, kept = app_of(heartbeat=SHORT)
    with Visit(app) as visit:
        visit.read_until(b":ok\n\n:\n")
        heart = heart_of(kept[0][1]._lane.home)
        ref = weakref.ref(kept[0][1])
    until(lambda: kept[0][0].destroyed, "the departure")
    assert all(entry.stream is not ref() for entry in heart._entries)
    visit.environ.clear()
    kept.clear()

    def collected() -> bool:
        gc.collect()
        return ref() is None

    until(collected, "the response to be let go", 5)
