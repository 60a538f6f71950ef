"""Untrusted text in a log or a terminal."""

import json

import pytest

from ssestream.printable import escape, escape_json


@pytest.mark.parametrize("text", ["", "plain", "größer 한국어 \U0001f600", 'a "quoted" \\ path'])
def test_what_can_be_printed_stays(text: str) -> None:
    assert escape(text) == text
    assert escape_json(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\r", "a\\nb\\r"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x00\x7f\x85", "\\x00\\x7f\\x85"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_what_could_steer_a_terminal_becomes_an_escape(text: str, expected: str) -> None:
    assert escape(text) == expected
    assert escape(text).isprintable()


@pytest.mark.parametrize("value", ["\x7f\x85", "a\u2028b\u202ec", "\U000e0001", "\ufeff"])
def test_json_means_the_same_when_it_is_escaped(value: str) -> None:
    line = json.dumps(value, ensure_ascii=False)
    escaped = escape_json(line)
    assert value not in escaped
    assert escaped.isprintable()
    assert json.loads(escaped) == value


def test_what_joins_letters_and_emojis_stays_in_json() -> None:
    assert escape_json("\u200c\u200d\u2764\ufe0f") == "\u200c\u200d\u2764\ufe0f"
