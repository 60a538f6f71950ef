"""The ``req`` of a handler: Express's names, and Flask's for everything else."""

import functools
from typing import Any

import pytest
from flask import Flask, Request, request
from werkzeug.exceptions import BadRequest
from werkzeug.test import create_environ

from ssestream import ServerResponse
from ssestream.errors import ClientDisconnected
from ssestream.incoming import IncomingMessage
from tests.kit.visit import Visit, as_a_greenlet, until


def asked(res: ServerResponse | None = None, **options: Any) -> IncomingMessage:
    """The req of one request that is made with *options*."""
    app = Flask(__name__)
    app.add_url_rule("/news/<int:number>", view_func=lambda number: "", methods=["GET", "POST"])
    with app.test_request_context("/news/7?a=1", **options):
        real: Any = request
        return IncomingMessage(real._get_current_object(), res or ServerResponse())


def test_the_names_of_express_are_there_beside_flasks() -> None:
    req = asked(environ_overrides={"REMOTE_ADDR": "10.0.0.1"})
    assert (req.query["a"], req.params, req.ip) == ("1", {"number": 7}, "10.0.0.1")
    assert (req.method, req.path, req.args["a"]) == ("GET", "/news/7", "1")
    assert repr(req) == "<IncomingMessage GET '/news/7'>"


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({}, None),
        ({"data": "text", "content_type": "text/plain"}, None),
        ({"data": "", "content_type": "application/json"}, None),
        ({"json": {"a": [1]}}, {"a": [1]}),
        ({"data": {"a": "1"}}, {"a": "1"}),
    ],
)
def test_the_body_is_parsed_by_its_type(options: dict[str, Any], body: object) -> None:
    found = asked(method="POST", **options).body
    assert (found if found is None or isinstance(body, type(found)) else dict(found)) == body


def test_json_that_cannot_be_parsed_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        assert asked(method="POST", data="{", content_type="application/json").body


def test_a_header_is_found_in_any_case_and_by_both_spellings() -> None:
    req = asked(headers={"X-One": "1", "Referer": "here"})
    assert [req.get(each) for each in ("x-one", "X-ONE", "referrer", "Referer", "x-two")] == [
        "1",
        "1",
        "here",
        "here",
        None,
    ]
    assert req.header("x-one") == "1"


def test_an_attribute_that_is_set_is_flasks_too() -> None:
    req = asked()
    req.user = "ann"
    assert req.user == "ann"
    with pytest.raises(AttributeError):
        assert req.nobody


def test_events_of_the_body_and_unknown_events_are_refused() -> None:
    res = ServerResponse()
    req = asked(res)
    assert (req.destroyed, req.aborted) == (False, False)
    for add in (req.on, req.once):
        for event, why in (("data", "req.body"), ("finish", "res may")):
            with pytest.raises(ValueError, match=f"no '{event}': .*{why}"):
                add(event, print)
            with pytest.raises(ValueError, match=event):
                add(event)
    with pytest.raises(TypeError, match="handler of 'aborted'"):
        req.on("aborted", "print")
    req.on("close", print)
    assert print in res.listeners("close")
    assert req.off("close", print) is req
    assert res.listeners("close") == []
    res.destroy()
    assert (req.destroyed, req.aborted) == (True, True)


class Heard:
    """The events of one request, with what their handlers got."""

    def __init__(self, res: ServerResponse, environ: dict[str, Any] | None = None) -> None:
        self.events: list[Any] = []
        self._req = IncomingMessage(Request(environ or create_environ()), res)
        for event in ("aborted", "error", "end", "close"):
            self._req.on(event, functools.partial(self._hear, event))

        @self._req.once("aborted")
        def without_arguments() -> None:
            self.events.append("once")

        def removed() -> None:
            self.events.append("removed")

        for event in ("aborted", "error", "end", "close"):
            self._req.on(event, removed)
            self._req.off(event, removed)
            self._req.off(event, removed)

    def _hear(self, event: str, *args: Any) -> None:
        self.events.append((event, *map(type, args)))

    def wait(self) -> list[Any]:
        until(lambda: ("close",) in self.events, "close")
        return self.events


@as_a_greenlet
def test_a_client_that_leaves_aborts_its_request() -> None:
    res = ServerResponse()
    heard = Heard(res)
    res.destroy()
    assert heard.wait() == [("aborted",), ("error", ClientDisconnected), ("close",), "once"]


def test_a_request_ends_when_everything_was_sent() -> None:
    made: list[Heard] = []

    def wsgi(environ: Any, start_response: Any) -> Any:
        res = ServerResponse()
        made.append(Heard(res, environ))
        res.end("hello")
        return res(environ, start_response)

    with Visit(wsgi) as visit:
        visit.read_to_end()
    assert made[0].wait() == [("end",), ("close",)]
