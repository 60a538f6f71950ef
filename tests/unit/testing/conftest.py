"""An app with the views that the tests of the test kit read."""

import itertools
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask, request, session

from ssestream import (
    Channels,
    ServerResponse,
    SseStream,
    clear_interval,
    pipeline,
    set_interval,
)
from tests.kit.states import forget_timers


@pytest.fixture(autouse=True)
def no_timers_of_others() -> None:
    forget_timers()


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.testing = True
    app.secret_key = "of this test"
    Channels(app)

    @app.get("/ticks")
    def ticks() -> Any:
        res = ServerResponse()
        sse_stream = SseStream(request)
        sse_stream.pipe(res)
        numbers = itertools.count(int(sse_stream.last_event_id or -1) + 1)
        timer = set_interval(
            lambda: sse_stream.write({"id": next(numbers), "retry": 2000, "data": "tick"}), 1000
        )

        @res.on("close")
        def closed() -> None:
            clear_interval(timer)
            app.extensions["closed"] = app.extensions.get("closed", 0) + 1

        return res

    @app.get("/news")
    def news() -> Any:
        res = ServerResponse()
        sse_stream = SseStream(request)
        sse_stream.pipe(res)
        app.extensions["ssestream"].subscribe(sse_stream, "news")
        return res

    @app.route("/five", methods=["GET", "POST"])
    def five() -> Any:
        start = (request.get_json() if request.method == "POST" else request.args).get("start", 0)
        numbers = ({"data": number} for number in range(int(start), int(start) + 5))
        return pipeline(numbers, SseStream(request), ServerResponse())

    @app.get("/visits")
    def visits() -> Any:
        session["visits"] = session.get("visits", 0) + 1
        user = request.headers.get("X-User", "nobody")
        return pipeline(
            [{"data": f"{session['visits']} {user}"}], SseStream(request), ServerResponse()
        )

    @app.get("/cut")
    def cut() -> Any:
        res = ServerResponse()
        sse_stream = SseStream(request)
        sse_stream.pipe(res)
        sse_stream.write({"data": "half"})
        app.extensions["stream"] = sse_stream
        return res

    @app.get("/secret")
    def secret() -> Any:
        return {"error": "who are you?"}, 401

    @app.get("/elsewhere")
    def elsewhere() -> Any:
        return flask.redirect("/login")

    @app.get("/broken")
    def broken() -> Any:
        raise LookupError("the view is broken")

    return app


@pytest.fixture
def ticks(app: Flask) -> Callable[[], int]:
    """How many streams of ``/ticks`` have emitted ``"close"``."""
    return lambda: int(app.extensions.get("closed", 0))
