"""Express's conveniences of ``res``, in an ordinary view."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ssestream import HeadersSent, ServerResponse, SseStream, set_timeout
from tests.kit.visit import Visit

Prepare = Callable[[Any], Any]


def answer(prepare: Prepare, method: str = "GET", app: Flask | None = None) -> TestResponse:
    """What a client gets of a view that does *prepare* with its ``res``."""
    app = app or Flask(__name__)

    @app.get("/")
    def view() -> ServerResponse:
        res = ServerResponse()
        prepare(res)
        return res

    client: FlaskClient = app.test_client()
    return client.open("/", method=method)


@pytest.mark.parametrize(
    ("prepare", "status", "content_type", "body"),
    [
        (lambda res: res.json({"a": [1, None]}), 200, "application/json", b'{"a":[1,null]}'),
        (lambda res: res.json(None), 200, "application/json", b"null"),
        (lambda res: res.json("\u00fc"), 200, "application/json", '"\u00fc"'.encode()),
        (lambda res: res.status(404).json({"e": 1}), 404, "application/json", b'{"e":1}'),
        (lambda res: res.send("h\u00e9"), 200, "text/html", "h\u00e9".encode()),
        (lambda res: res.send([1]), 200, "application/json", b"[1]"),
        (lambda res: res.send(True), 200, "application/json", b"true"),
        (lambda res: res.send(b"\0"), 200, "application/octet-stream", b"\0"),
        (lambda res: res.send(bytearray(b"x")), 200, "application/octet-stream", b"x"),
        (lambda res: res.type("txt").send("x"), 200, "text/plain", b"x"),
        (lambda res: res.type("png").send(b"x"), 200, "image/png", b"x"),
        (lambda res: res.type(".json").send("{}"), 200, "application/json", b"{}"),
        (lambda res: res.type("text").send(b"x"), 200, "text/plain", b"x"),
        (lambda res: res.type("a/b").send("x"), 200, "a/b", b"x"),
        (lambda res: res.set("Content-Type", "text/css").send("x"), 200, "text/css", b"x"),
        (lambda res: res.send(), 200, "text/html", b""),
        (lambda res: res.send_status(403), 403, "text/plain", b"Forbidden"),
        (lambda res: res.send_status(599), 599, "text/plain", b"599"),
        (lambda res: res.status(HTTPStatus.CREATED).end("x"), 201, "text/html", b"x"),
        (lambda res: res.status("418 Teapot").end(), 418, "text/html", b""),
    ],
)
def test_an_answer_has_its_status_type_and_length(
    prepare: Prepare, status: int, content_type: str, body: bytes
) -> None:
    response = answer(prepare)
    assert response.status_code == status
    assert response.mimetype == content_type
    assert response.data == body
    head = answer(prepare, "HEAD")
    assert head.data == b""
    assert head.headers.get("Content-Length") == response.headers.get("Content-Length")


def test_the_length_is_told_and_only_of_what_is_whole() -> None:
    assert answer(lambda res: res.send("\u00fc")).headers["Content-Length"] == "2"

    def twice(res: ServerResponse) -> None:
        res.write("a")
        res.send("b")

    assert answer(twice).data == b"ab"
    assert "Content-Length" not in answer(twice).headers

    def events(res: ServerResponse) -> None:
        res.type("text/event-stream").send("data: 1\n\n")

    app = Flask(__name__)
    app.config["SSESTREAM_COMPRESS"] = True
    assert "Content-Length" not in answer(events, app=app).headers


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status: int) -> None:
    response = answer(lambda res: res.status(status).send("x"))
    assert response.status_code == status
    assert response.data == b""
    assert "Content-Length" not in response.headers


def test_a_status_is_the_text_that_it_was_and_can_be_called() -> None:
    res: Any = ServerResponse(201)
    assert res.status == "201 CREATED"
    assert isinstance(res.status, str)
    assert res.status.split() == ["201", "CREATED"]
    assert res.status(404) is res
    assert (res.status, res.status_code) == ("404 NOT FOUND", 404)
    res.status = 500
    assert res.status_code == 500
    with pytest.raises(ValueError, match="from 200 to 599"):
        res.status(99)
    assert res.status_code == 500


def test_a_response_of_an_apps_own_class_has_them() -> None:
    class Own(Flask.response_class):  # type: ignore[name-defined, misc]
        default_mimetype = "text/plain"

    app = Flask(__name__)
    app.response_class = Own
    assert answer(lambda res: res.status(404).json([]), app=app).mimetype == "application/json"


def test_the_apps_json_provider_writes_json() -> None:
    app = Flask(__name__)
    app.json.default = lambda value: "own"  # type: ignore[attr-defined]
    assert answer(lambda res: res.json({"x": object()}), app=app).data == b'{"x":"own"}'


@pytest.mark.parametrize("value", [object(), float("nan"), "\ud800"])
def test_what_is_no_json_is_refused_and_changes_nothing(value: object) -> None:
    res = ServerResponse()
    with pytest.raises((TypeError, ValueError)):
        res.json(value)
    assert res.mimetype == "text/html"
    assert not res.writable_ended


def test_headers_are_set_asked_for_and_removed_one_by_one() -> None:
    res = ServerResponse()
    assert res.set_header("X-One", 1) is res
    assert res.set({"X-Two": ["a", "b"]}) is res
    assert res.get_header("x-one") == "1"
    assert res.get("X-TWO") == ["a", "b"]
    assert res.get_header("X-Three") is None
    assert res.has_header("x-one")
    res.remove_header("x-ONE")
    res.remove_header("X-Three")
    assert not res.has_header("X-One")
    # A mark against compressors, which is no header of the app's.
    assert res.get_header("Content-Encoding") is None
    res.remove_header("Content-Encoding")
    assert res.headers["Content-Encoding"] == "identity"


@pytest.mark.parametrize("name", ["nothing-known", ""])
def test_an_unknown_short_type_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=repr(name)):
        ServerResponse().type(name)
    with pytest.raises(TypeError, match="int"):
        ServerResponse().type(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "late",
    [
        lambda res: res.json({}),
        lambda res: res.send("x"),
        lambda res: res.send_status(500),
        lambda res: res.status(500),
        lambda res: res.set("X-A", "b"),
        lambda res: res.set_header("X-A", "b"),
        lambda res: res.remove_header("X-A"),
        lambda res: res.type("html"),
    ],
)
def test_after_the_head_was_sent_each_of_them_says_so(late: Prepare) -> None:
    errors: list[BaseException] = []
    tried = threading.Event()

    def try_it(res: ServerResponse) -> None:
        try:
            late(res)
        except HeadersSent as error:
            errors.append(error)
        tried.set()
        res.end()

    def view(environ: Any, start_response: Any) -> Any:
        res = ServerResponse()
        res.write("a")
        body = res(environ, start_response)
        set_timeout(try_it, 1, res)
        return body

    with Visit(view) as visit:
        assert visit.read_to_end().endswith(b"\r\n\r\na")
    assert tried.is_set()
    assert len(errors) == 1


def test_locals_are_attributes_of_one_response() -> None:
    res, other = ServerResponse(), ServerResponse()
    res.locals.user = "ada"
    assert res.locals.user == "ada"
    assert "user" in res.locals
    assert "user" not in other.locals


def test_flush_does_nothing_and_finished_is_an_older_name() -> None:
    res = ServerResponse()
    res.flush()
    assert not res.headers_sent
    assert not res.finished
    res.end()
    assert res.finished


def test_off_removes_a_handler_and_minds_nothing() -> None:
    def handler() -> None:
        raise AssertionError

    for emitter in (ServerResponse(), SseStream()):
        emitter.on("close", handler)
        assert emitter.off("close", handler) is emitter
        assert emitter.off("close", handler) is emitter
        assert emitter.off("never", print) is emitter
        emitter.emit("close")
