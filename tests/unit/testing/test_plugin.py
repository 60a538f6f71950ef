"""The plugin for pytest, in runs of pytest of their own, plain and patched by gevent."""

from pathlib import Path

import pytest

from tests.kit.pytest_run import PATCHED, check, run_pytest

CONFTEST = """
import flask
import pytest
from flask import request
from ssestream import Channels, ServerResponse, SseStream, clear_interval, set_interval

@pytest.fixture
def app():
    app = flask.Flask(__name__)
    app.testing = True
    channels = Channels("sqlite:////nowhere/events.db")
    channels.init_app(app)

    @app.get("/news")
    def news():
        res = ServerResponse()
        sse_stream = SseStream(request)
        sse_stream.pipe(res)
        channels.subscribe(sse_stream, "news")
        return res

    @app.get("/ticks")
    def ticks():
        res = ServerResponse()
        sse_stream = SseStream(request)
        sse_stream.pipe(res)
        timer = set_interval(sse_stream.write, 1000, {"data": "tick"})
        if "forget" not in request.args:
            res.on("close", lambda: clear_interval(timer))
        return res

    return app
"""

# Each run of pytest takes seconds, so that few of them show much each.


@pytest.mark.long
@pytest.mark.parametrize("first", ["", PATCHED], ids=["plain", "patched"])
def test_the_fixtures_work_together_and_their_errors_say_what_is_wrong(
    tmp_path: Path, first: str
) -> None:
    tests = """
def test_a_channel_of_the_app_is_kept_in_memory(sse, channels, app):
    events = sse(app, "/news")
    channels.publish("news", {"data": "hello"})
    assert events.next().data == "hello"

def test_another_begins_empty(sse, channels, app):
    assert channels.history("news") == []
    assert app.extensions["ssestream"] is channels

def test_the_clock_is_moved(sse, sse_clock, app):
    with sse(app, "/ticks") as events:
        sse_clock.advance(15)
        assert [event.data for event in events.take(15)] == ["tick"] * 15

def test_it_forgets_a_timer(sse, app):
    sse(app, "/ticks?forget")

def test_it_waits(sse, app):
    sse(app, "/ticks").next(timeout=0.1)
"""
    said = run_pytest(tmp_path, tests, first + CONFTEST)
    check(said, passed=4, failed=1, errors=1)
    assert "LeftOpen: left open: 1" in said
    assert "a timer that calls" in said
    assert "set in the request of '/ticks' (endpoint 'ticks')" in said
    assert "an event did not come within 0.1 s. GET /ticks is open: events so far: 0" in said


@pytest.mark.long
def test_channels_without_an_app_are_new_for_each_test_and_an_own_fixture_comes_first(
    tmp_path: Path,
) -> None:
    tests = """
import pytest

@pytest.mark.parametrize("number", range(2))
def test_it_is_empty(channels, number):
    assert channels.history("news") == []
    channels.publish("news", {"data": "one"})
    assert len(channels.history("news")) == 1

class TestOther:
    @pytest.fixture
    def app(self):
        return "no app of Flask's"

    def test_it_is_new(self, channels):
        assert channels.history("news") == []

class TestBroken:
    @pytest.fixture
    def app(self, missing):
        return missing

    def test_it_has_no_app(self, channels):
        pass

class TestOwn:
    @pytest.fixture
    def channels(self):
        return "my own"

    def test_it_is_mine(self, channels):
        assert channels == "my own"
"""
    said = run_pytest(tmp_path, tests)
    check(said, passed=4, errors=1)
    assert "fixture 'missing' not found" in said


def test_a_run_without_its_fixtures_does_not_import_the_package(tmp_path: Path) -> None:
    tests = """
import sys

def test_nothing_is_imported(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("ssestream")
    assert not {"ssestream", "gevent", "flask"} & sys.modules.keys()
"""
    check(run_pytest(tmp_path, tests), passed=1)
