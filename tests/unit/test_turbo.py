"""Messages for Turbo. ``tests/pages`` has the real package."""

from typing import Any

import pytest
from markupsafe import Markup

from ssestream import MessageError, turbo
from ssestream.wire import encode


@pytest.mark.parametrize("action", ["append", "prepend", "before", "after", "replace", "update"])
def test_an_action_puts_html_at_its_target(action: str) -> None:
    act = getattr(turbo, action)
    for html in ("<p>", Markup("<p>")):
        assert act("a", html) == {
            "data": f'<turbo-stream action="{action}" target="a">'
            "<template><p></template></turbo-stream>"
        }
    assert act(targets=".b > i", html="<p>")["data"].startswith(
        f'<turbo-stream action="{action}" targets=".b &gt; i">'
    )


def test_removing_and_refreshing_need_no_html() -> None:
    removed = '<turbo-stream action="remove" target="a"></turbo-stream>'
    assert turbo.remove("a") == {"data": removed}
    assert turbo.refresh() == {"data": '<turbo-stream action="refresh"></turbo-stream>'}
    refreshed = turbo.refresh(request_id="7", method="morph", scroll="preserve")["data"]
    attributes = 'action="refresh" request-id="7" method="morph" scroll="preserve"'
    assert refreshed == f"<turbo-stream {attributes}></turbo-stream>"


def test_html_can_be_morphed() -> None:
    for act in (turbo.replace, turbo.update):
        assert ' target="a" method="morph">' in act("a", "<p>", method="morph")["data"]


def test_an_action_of_the_page_has_attributes_of_its_own() -> None:
    assert turbo.turbo_stream("log", message='a "b"', my_level="1") == {
        "data": '<turbo-stream action="log" message="a &#34;b&#34;" my-level="1"></turbo-stream>'
    }


def test_no_attribute_can_break_out() -> None:
    hostile = '"><script>alert(1)</script>'
    for message in (
        turbo.append(hostile, ""),
        turbo.append(targets=hostile, html=""),
        turbo.turbo_stream("log", message=hostile),
        turbo.refresh(request_id=hostile),
    ):
        assert "<script" not in message["data"]


def test_html_of_several_lines_is_one_event() -> None:
    message = turbo.append("a", "<p>\n\nevent: evil\rdata: x</p>")
    assert encode(message).count(b"\n\n") == 1
    assert b"\nevent:" not in encode(message)


@pytest.mark.parametrize(
    ("act", "arguments", "field"),
    [
        (turbo.append, {}, "target"),
        (turbo.remove, {}, "target"),
        (turbo.append, {"target": ""}, "target"),
        (turbo.append, {"target": 5}, "target"),
        (turbo.append, {"target": "a", "targets": ".b"}, "targets"),
        (turbo.append, {"target": "a", "html": None}, "html"),
        (turbo.append, {"target": "a", "html": 5}, "html"),
        (turbo.append, {"target": "a\n"}, "target"),
        (turbo.replace, {"target": "a", "method": "outer"}, "method"),
        (turbo.refresh, {"method": "outer"}, "method"),
        (turbo.refresh, {"scroll": "top"}, "scroll"),
        (turbo.turbo_stream, {"action": ""}, "action"),
        (turbo.turbo_stream, {"action": 'x" onload="y'}, "action"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(
    act: Any, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(MessageError) as caught:
        act(**arguments)
    assert caught.value.field == field
