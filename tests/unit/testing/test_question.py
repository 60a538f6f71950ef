"""The request of a stream is what a browser would send."""

from typing import Any

import pytest
import werkzeug.test
from flask import Flask

from ssestream.testing.question import Question, builder_for


def environ_of(last_event_id: str = "", **fields: Any) -> dict[str, Any]:
    usual = {"path": "/", "method": None, "json": None, "data": None}
    question = Question(**{**usual, "query_string": None, "headers": {}, **fields})
    environ: dict[str, Any] = question.environ(last_event_id, werkzeug.test.EnvironBuilder)
    return environ


def test_it_asks_for_an_event_stream_that_is_not_cached() -> None:
    environ = environ_of()
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["HTTP_ACCEPT"] == "text/event-stream"
    assert environ["HTTP_CACHE_CONTROL"] == "no-cache"
    assert "HTTP_LAST_EVENT_ID" not in environ


def test_a_header_of_the_test_replaces_a_usual_one() -> None:
    assert environ_of(headers={"Accept": "*/*"})["HTTP_ACCEPT"] == "*/*"


def test_the_last_id_is_sent_as_a_browser_sends_it() -> None:
    assert environ_of("7")["HTTP_LAST_EVENT_ID"] == "7"
    sent = environ_of("\u00fc7")["HTTP_LAST_EVENT_ID"]
    assert sent.encode("latin-1").decode() == "\u00fc7"


@pytest.mark.parametrize(("fields", "method"), [({}, "GET"), ({"json": 0}, "POST")])
def test_a_body_makes_it_a_post(fields: dict[str, Any], method: str) -> None:
    assert environ_of(**fields)["REQUEST_METHOD"] == method
    assert environ_of(**fields, method="put")["REQUEST_METHOD"] == "PUT"


def test_the_builder_of_a_flask_app_knows_its_name() -> None:
    app = Flask(__name__)
    app.config["SERVER_NAME"] = "example.com"
    assert builder_for(app)(path="/").get_environ()["HTTP_HOST"] == "example.com"
