"""Messages for htmx. ``tests/pages`` has the real packages."""

from typing import Any

import pytest
from markupsafe import Markup

from ssestream import MessageError
from ssestream.htmx import close, fragment
from ssestream.wire import encode


def test_a_fragment_is_a_message_with_or_without_a_name() -> None:
    assert fragment("<p>") == {"data": "<p>"}
    assert fragment(Markup("<p>"), "news") == {"event": "news", "data": "<p>"}
    assert fragment("a\nb", "news") == {"event": "news", "data": "a\nb"}


def test_a_fragment_can_name_its_target_itself() -> None:
    assert fragment("<p>", target="#a", swap="beforeend") == {
        "data": '<hx-partial hx-target="#a" hx-swap="beforeend"><p></hx-partial>'
    }
    escaped = fragment("<p>", target='"><script>')
    assert escaped == {"data": '<hx-partial hx-target="&#34;&gt;&lt;script&gt;"><p></hx-partial>'}


def test_the_last_message_is_an_event_that_a_browser_fires() -> None:
    # A browser fires nothing for an event without data.
    assert encode(close()) == b"event: close\ndata: \n\n"
    assert close("done") == {"event": "done", "data": ""}


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "a,b", "a\nb", "a\rdata: x", 5, b"a"])
@pytest.mark.parametrize("make", [lambda name: fragment("<p>", name), close])
def test_a_name_that_no_page_can_ask_for_is_refused(make: Any, name: Any) -> None:
    with pytest.raises(MessageError, match="'name' must") as caught:
        make(name)
    assert caught.value.field == "name"


@pytest.mark.parametrize("name", ["open", "error"])
def test_a_name_that_an_eventsource_uses_itself_is_refused(name: str) -> None:
    for make in (lambda: fragment("<p>", name), lambda: close(name)):
        with pytest.raises(MessageError, match="an EventSource fires it itself"):
            make()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"html": None}, "html"),
        ({"html": 5}, "html"),
        ({"html": "<p>", "name": "a", "target": "#a"}, "target"),
        ({"html": "<p>", "swap": "beforeend"}, "swap"),
        ({"html": "<p>", "target": ""}, "target"),
        ({"html": "<p>", "target": "#a\n"}, "target"),
        ({"html": "<p>", "target": "#a", "swap": " "}, "swap"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(MessageError) as caught:
        fragment(**arguments)
    assert caught.value.field == field
