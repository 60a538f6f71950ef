"""The views of health checks, in this process."""

from typing import Any

import pytest
from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream, health
from ssestream.http import registry as room
from tests.kit.visit import Visit, until


def app_with(channels: Channels | None, **config: Any) -> Flask:
    app = Flask("app")
    app.config.update(config)
    app.add_url_rule("/live", view_func=health.alive)
    app.add_url_rule("/ready", endpoint="ready", view_func=lambda: health.ready(channels))

    @app.get("/")
    def view() -> ServerResponse:
        sse_stream = SseStream(request)
        if channels is not None:
            channels.subscribe(sse_stream, "news")
        return sse_stream.pipe(ServerResponse())

    return app


def test_a_process_is_alive_and_ready() -> None:
    client = app_with(Channels()).test_client()
    for path in ("/live", "/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.data) == (204, b"")
    assert client.get("/ready").headers["Cache-Control"] == "no-store"


def test_one_that_drains_is_alive_and_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = type(room.registry)()
    for module in (room, health):
        monkeypatch.setattr(module, "registry", registry)
    client = app_with(None).test_client()
    assert client.get("/ready").status_code == 204
    registry.begin_draining()
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (503, {"not_ready": ["draining"]})
    assert client.get("/live").status_code == 204


def test_one_is_full_a_little_before_its_bound() -> None:
    app = app_with(None, SSESTREAM_MAX_STREAMS=3)
    client = app.test_client()
    with Visit(app) as one, Visit(app) as two:
        for visit in (one, two):
            visit.read_until(b":ok")
        assert client.get("/ready").status_code == 204
        with Visit(app) as three:
            three.read_until(b":ok")
            answer = client.get("/ready")
            assert (answer.status_code, answer.json) == (503, {"not_ready": ["full"]})


@pytest.mark.parametrize("follows", [False, True], ids=["idle", "followed"])
def test_one_without_its_broker_is_not_ready(follows: bool) -> None:
    channels = Channels("sqlite:////nowhere/at/all/events.db")
    app = app_with(channels)
    lost = {"not_ready": ["broker"]}
    if not follows:
        assert app.test_client().get("/ready").json == lost
        return
    with Visit(app) as visit:
        visit.read_until(b":ok")
        until(lambda: channels.state == "down", "the failure")
        assert app.test_client().get("/ready").json == lost
