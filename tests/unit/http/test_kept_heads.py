"""Streams with the same head share one, and no stream gets another's."""

from typing import Any

import flask
from flask import Flask, Response

from ssestream import ServerResponse, SseStream
from ssestream.http import kept_heads
from tests.kit.responses import ended


class Correcting(Response):
    autocorrect_location_header = True


def test_the_head_of_one_stream_is_no_other_s() -> None:
    app = Flask(__name__)

    @app.get("/<name>")
    def view(name: str) -> ServerResponse:
        res = ServerResponse(headers={"Content-Type": "text/event-stream"})
        if name != "plain":
            res.set_cookie("name", name)
        if name == "moved":
            res.header("Location", "elsewhere")
        res.end("data: x\n\n")
        return res

    def head_of(name: str, host: str = "localhost") -> dict[str, str]:
        with app.test_client().get(f"/{name}", base_url=f"http://{host}/") as answer:
            return dict(answer.headers)

    plain = head_of("plain")
    assert head_of("plain") == plain
    assert "Set-Cookie" not in plain
    assert head_of("a")["Set-Cookie"].startswith("name=a;")
    assert head_of("b")["Set-Cookie"].startswith("name=b;")
    assert head_of("plain") == plain
    app.response_class = Correcting
    for host in ("one.example", "two.example"):
        assert head_of("moved", host)["Location"] == f"http://{host}/elsewhere"


def test_the_head_of_one_client_is_not_kept() -> None:
    plain = [("Content-Type", "text/event-stream")]
    kept_heads.keep("plain", plain)
    assert kept_heads.kept("plain") == plain
    for name in ("Set-Cookie", "set-cookie", "Location", "Content-Length"):
        kept_heads.keep(name, [*plain, (name, "secret")])
        assert kept_heads.kept(name) is None


def test_an_app_s_own_idea_of_a_head_is_asked_each_time() -> None:
    class Numbered(Response):
        def get_wsgi_headers(self, environ: dict[str, Any]) -> Any:
            headers = super().get_wsgi_headers(environ)
            headers["X-Path"] = environ["PATH_INFO"]
            return headers

    app = Flask(__name__)
    app.response_class = Numbered

    @app.get("/<name>")
    def view(name: str) -> ServerResponse:
        return ended(ServerResponse(headers={"Content-Type": "text/event-stream"}))

    for path in ("/a", "/b", "/a"):
        with app.test_client().get(path) as answer:
            assert answer.headers["X-Path"] == path

    # Another app of the same process has none of it, whose streams have the same head else.
    other = Flask(__name__)
    other.get("/<name>")(view)
    assert "X-Path" not in other.test_client().get("/a").headers


def test_neither_is_that_of_a_class_of_ones_own() -> None:
    class Signed(ServerResponse):
        def get_wsgi_headers(self, environ: dict[str, Any]) -> Any:
            headers = super().get_wsgi_headers(environ)
            headers["Set-Cookie"] = f"user={environ['PATH_INFO']}"
            return headers

    app = Flask(__name__)

    @app.get("/<name>")
    def view(name: str) -> ServerResponse:
        stream = SseStream(flask.request)
        stream.end({"data": "x"})
        return stream.pipe(ServerResponse() if name == "plain" else Signed())

    plain = dict(app.test_client().get("/plain").headers)
    for path in ("/anne", "/bert"):
        assert app.test_client().get(path).headers["Set-Cookie"] == f"user={path}"
        assert dict(app.test_client().get("/plain").headers) == plain
