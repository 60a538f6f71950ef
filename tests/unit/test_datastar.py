"""Messages for Datastar. ``tests/pages`` has its real package, ``tests/node`` its SDK."""

import json
from typing import Any

import pytest
from flask import Flask, request
from markupsafe import Markup
from werkzeug.exceptions import BadRequest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from ssestream import MessageError
from ssestream.datastar import patch_elements, patch_signals, read_signals
from ssestream.wire import encode


def lines(message: Any) -> list[str]:
    assert set(message) == {"event", "data"}
    return [message["event"], *message["data"].split("\n")]


def test_elements_are_sent_line_by_line() -> None:
    message = patch_elements('<div id="a">\n  <b>one</b>\r\n\r</div>')
    assert lines(message) == [
        "datastar-patch-elements",
        'elements <div id="a">',
        "elements   <b>one</b>",
        "elements ",
        "elements </div>",
    ]
    assert encode(message).count(b"\n\n") == 1


def test_what_is_not_the_default_is_sent_before_the_elements() -> None:
    message = patch_elements(
        Markup("<circle/>"),
        selector="#a > b",
        mode="append",
        namespace="svg",
        use_view_transition=True,
    )
    assert lines(message) == [
        "datastar-patch-elements",
        "selector #a > b",
        "mode append",
        "namespace svg",
        "useViewTransition true",
        "elements <circle/>",
    ]


def test_elements_are_removed_by_a_selector_or_by_their_ids() -> None:
    assert lines(patch_elements(selector="#a", mode="remove"))[1:] == ["selector #a", "mode remove"]
    by_id = patch_elements('<p id="a"></p>', mode="remove")
    assert lines(by_id)[1:] == ["mode remove", 'elements <p id="a"></p>']


@pytest.mark.parametrize(
    ("mode", "before_1_0"),
    [
        ("outer", []),
        ("inner", ["mergeMode inner"]),
        ("replace", ["mergeMode outer"]),
        ("prepend", ["mergeMode prepend"]),
        ("append", ["mergeMode append"]),
        ("before", ["mergeMode before"]),
        ("after", ["mergeMode after"]),
    ],
)
def test_the_betas_call_the_same_by_other_names(mode: Any, before_1_0: list[str]) -> None:
    message = patch_elements("<p>", selector="#a", mode=mode, use_view_transition=True, beta=True)
    assert lines(message) == [
        "datastar-merge-fragments",
        "selector #a",
        *before_1_0,
        "useViewTransition true",
        "fragments <p>",
    ]


def test_the_betas_remove_with_an_event_of_its_own() -> None:
    removed = patch_elements(selector="#a", mode="remove", beta=True)
    assert lines(removed) == ["datastar-remove-fragments", "selector #a"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"elements": None}, "elements"),
        ({"elements": " \n"}, "elements"),
        ({"elements": 5}, "elements"),
        ({"elements": b"<p>"}, "elements"),
        ({"mode": "remove"}, "elements"),
        ({"elements": "<p>", "mode": "morph"}, "mode"),
        ({"elements": "<p>", "mode": None}, "mode"),
        ({"elements": "<p>", "namespace": "xml"}, "namespace"),
        ({"elements": "<p>", "mode": "append"}, "selector"),
        ({"elements": "<p>", "selector": ""}, "selector"),
        # A second line would be another argument.
        ({"elements": "<p>", "selector": "#a\nmode remove"}, "selector"),
        ({"elements": "<p>", "selector": "#a\rmode remove"}, "selector"),
        ({"elements": "<p>", "namespace": "svg", "beta": True}, "namespace"),
        ({"elements": "<p id=a>", "mode": "remove", "beta": True}, "selector"),
    ],
)
def test_wrong_elements_are_refused_by_the_name_of_the_argument(
    arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(MessageError, match=f"'{field}'") as caught:
        patch_elements(**arguments)
    assert caught.value.field == field


def test_no_element_can_become_another_argument_or_another_event() -> None:
    message = patch_elements("<p>\nselector #b\n\nevent: evil\r\rdata: x</p>")
    assert all(line.startswith("elements ") for line in lines(message)[1:])
    assert encode(message).count(b"\n\n") == 1


def test_signals_are_json_of_the_app() -> None:
    assert lines(patch_signals({"a": 1, "b": {"c": None, "d": "é\n"}})) == [
        "datastar-patch-signals",
        'signals {"a":1,"b":{"c":null,"d":"é\\n"}}',
    ]
    assert lines(patch_signals({}, only_if_missing=True))[1:] == [
        "onlyIfMissing true",
        "signals {}",
    ]
    assert lines(patch_signals({"a": 1}, beta=True)) == [
        "datastar-merge-signals",
        'signals {"a":1}',
    ]


def test_json_of_several_lines_stays_one_argument() -> None:
    app = Flask(__name__)

    class Pretty(type(app.json)):  # type: ignore[misc]
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            return json.dumps(obj, indent=1)

    app.json = Pretty(app)
    with app.app_context():
        assert lines(patch_signals({"a": 1}))[1:] == ["signals {", 'signals  "a": 1', "signals }"]


@pytest.mark.parametrize("signals", [None, "{}", [1], {"a": float("nan")}, {"a": object()}])
def test_what_are_no_signals_is_refused(signals: Any) -> None:
    with pytest.raises(MessageError, match="'signals'") as caught:
        patch_signals(signals)
    assert caught.value.field == "signals"


def requested(**options: Any) -> Request:
    return Request(EnvironBuilder(**options).get_environ())


@pytest.mark.parametrize(
    "options",
    [
        {"query_string": {"datastar": '{"a":{"b":"é"}}'}},
        {"query_string": {"datastar": '{"a":{"b":"é"}}'}, "method": "DELETE"},
        {"method": "POST", "json": {"a": {"b": "é"}}},
        {"method": "PUT", "data": '{"a":{"b":"é"}}', "content_type": "application/json"},
    ],
)
def test_signals_are_read_from_the_query_or_the_body(options: dict[str, Any]) -> None:
    assert read_signals(requested(**options)) == {"a": {"b": "é"}}


def test_signals_are_read_from_flasks_own_request() -> None:
    app = Flask(__name__)
    with app.test_request_context("/?datastar=%7B%22a%22%3A1%7D"):
        assert read_signals(request) == {"a": 1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"query_string": {"datastar": ""}},
        {"method": "POST"},
        {"method": "POST", "data": {"a": "1"}},
        # A body does not count for GET, and the query not for POST.
        {"method": "GET", "json": {"a": 1}},
        {"method": "POST", "query_string": {"datastar": '{"a":1}'}},
    ],
)
def test_a_request_without_signals_has_none(options: dict[str, Any]) -> None:
    assert read_signals(requested(**options)) == {}


@pytest.mark.parametrize(
    "text", ["{", "[1]", "1", "null", '{"a":NaN}', "[" * 100_000, '{"a":' + "9" * 5000 + "}"]
)
def test_what_is_no_json_object_is_a_bad_request(text: str) -> None:
    for options in (
        {"query_string": {"datastar": text}},
        {"method": "POST", "data": text, "content_type": "application/json"},
    ):
        with pytest.raises(BadRequest, match="signals"):
            read_signals(requested(**options))


def test_a_body_that_is_no_text_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="signals"):
        read_signals(requested(method="POST", data=b"\xff{}", content_type="application/json"))


@pytest.mark.parametrize("wrong", [None, {}, "GET"])
def test_signals_are_of_a_request(wrong: Any) -> None:
    with pytest.raises(TypeError, match="request must be a Flask or Werkzeug request"):
        read_signals(wrong)
