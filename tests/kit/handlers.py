"""An app of one handler, and its clients."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from ssestream import handler
from tests.kit.visit import Visit, until

EVENTS = {"Content-Type": "text/event-stream"}


class Played:
    """An app of one handler, and what came of it."""

    def __init__(self, function: Callable[..., Any], methods: tuple[str, ...] = ("GET",)) -> None:
        self.app = Flask(__name__)
        self.app.secret_key = "for the tests"
        self.seen: list[Any] = []
        self.app.teardown_request(lambda error: self.seen.append("teardown"))
        self.app.route("/", methods=methods)(handler(function))

    def visit(self, method: str = "GET", **environ: Any) -> Visit:
        return Visit(self.app, "/", method, **environ)

    def session_of(self, visit: Visit) -> dict[str, Any]:
        """The session that the response of *visit* has stored in its cookie."""
        (cookie,) = visit.headers("Set-Cookie")
        serializer = SecureCookieSessionInterface().get_signing_serializer(self.app)
        assert serializer is not None
        stored: dict[str, Any] = serializer.loads(cookie.partition("=")[2].partition(";")[0])
        return stored

    def saw(self, what: Any) -> None:
        until(lambda: what in self.seen, repr(what))


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    # Once in a process, as the tests' own is not patched.
    return [each for each in found if "gevent has not patched" not in each]
