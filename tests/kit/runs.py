"""Runs in this process: their sources, their app and their ends."""

import threading
from collections.abc import Iterator
from typing import Any

import flask
import gevent

from ssestream import Runs
from tests.kit.visit import until


def app_of(runs: Runs, **options: Any) -> flask.Flask:
    app = flask.Flask(__name__)

    @app.get("/<id>")
    def again(id: str) -> Any:
        return runs.stream(id, flask.request, **options)

    return app


class Source:
    """Messages that come when they are let out."""

    def __init__(self, count: int = 10**9) -> None:
        self.let_out = 0
        self.drawn = 0
        self.closed = threading.Event()
        self._count = count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            while self.drawn < self._count:
                while self.drawn >= self.let_out:
                    gevent.sleep(0.002)
                self.drawn += 1
                yield {"data": self.drawn - 1}
        finally:
            self.closed.set()


def ended(runs: Runs, id: str, status: str) -> None:
    until(lambda: runs.status(id) == status, f"the run to be {status}")
