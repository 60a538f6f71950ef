"""The request that code runs for: one call queue, and one name in the log."""

from typing import Any

import pytest
from flask import Flask, request
from werkzeug.test import EnvironBuilder

from ssestream.http.origin import call_queue_of, current_origin, known_call_queue, origin_of


def environ(path: str = "/") -> dict[str, Any]:
    return EnvironBuilder(path).get_environ()


def test_a_request_has_one_call_queue_and_another_request_another() -> None:
    one, other = environ(), environ()
    assert known_call_queue(one) is None
    assert call_queue_of(one) is call_queue_of(one) is known_call_queue(one)
    assert call_queue_of(other) is not call_queue_of(one)


def test_the_call_queue_knows_its_request() -> None:
    asked = environ("/news")
    assert call_queue_of(asked).origin is origin_of(asked)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/news", "'/news'"),
        # The characters of a client cannot look like another entry of the log.
        ("/a\nWARNING b", r"'/a\nWARNING b'"),
        # WSGI hands over UTF-8 as Latin-1.
        ("/h\u00f6he".encode().decode("latin-1"), "'/h\u00f6he'"),
        ("/\xff", "'/\ufffd'"),
    ],
)
def test_the_origin_names_the_path_safely(path: str, shown: str) -> None:
    assert origin_of({"PATH_INFO": path}).text == shown


def test_equal_requests_share_an_origin() -> None:
    assert origin_of(environ("/a")) is origin_of(environ("/a"))
    assert origin_of(environ("/a")) is not origin_of(environ("/b"))


def test_a_flask_request_has_its_endpoint_in_the_origin() -> None:
    app = Flask(__name__)
    found: list[Any] = []

    @app.get("/news/<int:number>")
    def news(number: int) -> str:
        found.append((current_origin(), origin_of(request.environ)))
        return "text"

    app.test_client().get("/news/7?token=secret")
    ((current, own),) = found
    assert current is own
    assert own.text == "'/news/7' (endpoint 'news')"


def test_code_of_no_request_has_no_origin() -> None:
    assert current_origin() is None
