"""The plugin for pytest, in runs of pytest of their own, plain and patched by gevent."""

import configparser
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.servers import ROOT

PATCHED = "from gevent import monkey\nmonkey.patch_all()\n"

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

#: Plugins that are left out. anyio's imports ssl, and gevent warns if it patches ssl afterwards.
OTHERS = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio")

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run pytest over the text of a test file, and return what it prints."""
    # The plugin as its package declares it, whether or not the package is installed anew.
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (declared,) = setup["options.entry_points"]["pytest11"].split("\n")[1:]
    info = tmp_path / "path" / "declared-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{declared}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")

    def run(tests: str, conftest: str, passed: int, failed: int = 0, errors: int = 0) -> str:
        (tmp_path / "conftest.py").write_text(conftest)
        (tmp_path / "test_it.py").write_text(tests)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *OTHERS],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{info.parent}", "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            timeout=100,
        )
        words = {"passed": passed, "failed": failed, "error": errors}
        last = done.stdout.splitlines()[-1]
        for word, number in words.items():
            assert (f"{number} {word}" in last) == bool(number), done.stdout + done.stderr
        return done.stdout

    return run


# Each run of pytest takes seconds, so that few of them show much each.


@pytest.mark.parametrize("first", ["", PATCHED], ids=["plain", "patched"])
def test_the_fixtures_work_together_and_their_errors_say_what_is_wrong(
    run: Run, first: str
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
    said = run(tests, first + CONFTEST, passed=4, failed=1, errors=1)
    assert "LeftOpen: left open: 1" in said
    assert "a timer that calls" in said
    assert "set in the request of '/ticks' (endpoint 'ticks')" in said
    assert "an event did not come within 0.1 s. GET /ticks is open: events so far: 0" in said


def test_channels_without_an_app_are_new_for_each_test_and_an_own_fixture_comes_first(
    run: Run,
) -> None:
    tests = """
import pytest

@pytest.mark.parametrize("number", range(2))
def test_it_is_empty(channels, number):
    assert channels.history("news") == []
    channels.publish("news", {"data": "one"})
    assert len(channels.history("news")) == 1

class TestOwn:
    @pytest.fixture
    def channels(self):
        return "my own"

    def test_it_is_mine(self, channels):
        assert channels == "my own"
"""
    run(tests, "", passed=3)


def test_a_run_without_its_fixtures_does_not_import_the_package(run: Run) -> None:
    tests = """
import sys

def test_nothing_is_imported(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("ssestream")
    assert not {"ssestream", "gevent", "flask"} & sys.modules.keys()
"""
    run(tests, "", passed=1)
