"""A response that was made for a request and never sent ends with the request."""

from typing import Any

import flask
import pytest
from flask import Flask, Response, has_app_context, has_request_context

from ssestream import ServerResponse, SseStream, clear_interval, set_interval
from tests.kit.insides import is_armed
from tests.kit.responses import Closes, ended
from tests.kit.visit import Visit, on_threads_and_greenlets, until


@pytest.fixture
def app() -> Flask:
    return Flask(__name__)


@pytest.fixture
def closes() -> Closes:
    return Closes()


@pytest.mark.parametrize("where", ["after_request", "view"])
def test_one_that_another_response_replaces_is_closed(
    app: Flask, closes: Closes, where: str
) -> None:
    @app.get("/")
    def view() -> Any:
        res = closes.of(ended())
        return "instead" if where == "view" else res

    @app.after_request
    def replace(response: Response) -> Response:
        return Response("instead") if where == "after_request" else response

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.body == b"instead"
    closes.once()


@on_threads_and_greenlets
def test_a_view_that_raises_leaves_no_timer(app: Flask, closes: Closes) -> None:
    kept: list[Any] = []

    @app.get("/")
    def view() -> Response:
        res = closes.of(ServerResponse())
        SseStream(flask.request).pipe(res)
        timer = set_interval(lambda: None, 1)
        kept.append(timer)
        res.on("close", lambda: clear_interval(timer))
        # It comes while the request is on its way out, and still outside of it.
        res.on("close", lambda: kept.append((has_request_context(), has_app_context())))
        raise RuntimeError

    with Visit(app) as visit:
        visit.read_to_end()
    assert visit.head.startswith("HTTP/1.0 500")
    closes.once()
    until(lambda: kept[1:], "the last handler")
    assert kept[1] == (False, False)
    until(lambda: not is_armed(kept[0]), "the timer's end")
