"""What is checked of HTML and of the arguments beside it. The rest is with each library."""

from typing import Any

import pytest
from markupsafe import Markup
from werkzeug.local import LocalProxy

from ssestream import MessageError
from ssestream.formats.markup import attributes, html_text, lines_of, name_text, one_line, one_of


class Shown:
    def __html__(self) -> str:
        return "<b>shown</b>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<b>", "<b>"),
        (Markup("<b>"), "<b>"),
        (Shown(), "<b>shown</b>"),
        (LocalProxy(lambda: "<b>"), "<b>"),
        ("", ""),
    ],
)
def test_html_is_text_or_what_shows_itself_as_html(value: Any, text: str) -> None:
    assert html_text("html", value) == text
    assert type(html_text("html", value)) is str


@pytest.mark.parametrize("value", [None, 5, b"<b>", ["<b>"]])
def test_html_of_another_type_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(MessageError, match="'html' must be HTML") as caught:
        html_text("html", value)
    assert caught.value.field == "html"


def test_text_has_the_lines_that_the_wire_makes_of_it() -> None:
    assert lines_of("a\nb\r\nc\rd\u2028\x85e") == ["a", "b", "c", "d\u2028\x85e"]


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\rb", "a\n", None, 5, b"a"])
def test_an_argument_of_one_line_has_neither_none_nor_several(value: Any) -> None:
    with pytest.raises(MessageError, match="'selector' must") as caught:
        one_line("selector", value)
    assert caught.value.field == "selector"


def test_a_choice_is_named_when_it_is_none() -> None:
    assert one_of("mode", "inner", ("inner", "outer")) == "inner"
    for value in ("morph", None, 5):
        with pytest.raises(MessageError, match="'mode' is one of inner, outer, and not"):
            one_of("mode", value, ("inner", "outer"))


@pytest.mark.parametrize("value", ["a b", "a>", "1a", "a=", "é"])
def test_a_name_has_no_characters_that_end_it(value: str) -> None:
    assert name_text("action", "my_action-2") == "my_action-2"
    with pytest.raises(MessageError, match="'action' has only letters"):
        name_text("action", value)


def test_attributes_are_escaped_and_none_is_left_out() -> None:
    values = {"target": "a\"'><script>&", "targets": None, "request_id": "7"}
    written = ' target="a&#34;&#39;&gt;&lt;script&gt;&amp;" request-id="7"'
    assert attributes(values) == written
    # Markup of an app is text here, and is escaped as any other.
    assert attributes({"target": Markup('"')}) == ' target="&#34;"'
    with pytest.raises(MessageError, match="the name of an attribute"):
        attributes({'a="b" onclick': "x"})
