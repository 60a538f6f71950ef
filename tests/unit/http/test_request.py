"""What a stream reads of its request: the environ, and the client's last event id."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from ssestream import SseStream
from ssestream.http.request import MAX_LAST_EVENT_ID
from ssestream.wire import encode


def environ(**more: Any) -> dict[str, Any]:
    return {**EnvironBuilder().get_environ(), **more}


def last_event_id(header: str | None = None, query: str = "") -> str | None:
    made = environ(QUERY_STRING=query)
    if header is not None:
        made["HTTP_LAST_EVENT_ID"] = header
    found = SseStream(made).last_event_id
    assert SseStream(Request(made)).last_event_id == found
    return found


def test_a_stream_of_no_request_has_no_last_event_id() -> None:
    assert SseStream().last_event_id is None


@pytest.mark.parametrize(
    ("header", "query", "found"),
    [
        (None, "", None),
        ("42", "", "42"),
        (None, "lastEventId=42", "42"),
        (None, "a=1&lastEventId=4%202&b=2", "4 2"),
        # A polyfill appends its own, which is newer, or empty when it has none yet.
        (None, "lastEventId=1&lastEventId=2", "2"),
        (None, "lastEventId=1&lastEventId=", "1"),
        (None, "lastEventID=42", None),
        (None, "lastEventId=", None),
        (None, "lastEventId", None),
        ("header", "lastEventId=query", "header"),
        ("", "lastEventId=query", "query"),
        # It is there, and so it counts, even if it is of no use.
        ("\x00", "lastEventId=query", None),
    ],
)
def test_the_last_event_id_is_the_headers_or_else_the_querys(
    header: str | None, query: str, found: str | None
) -> None:
    assert last_event_id(header, query) == found


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a b;c,d\u00e9\u4f60\U0001f600\u2028", True),
        ("\xa0", True),
        ("x" * MAX_LAST_EVENT_ID, True),
        ("\u4f60" * MAX_LAST_EVENT_ID, True),
        ("x" * (MAX_LAST_EVENT_ID + 1), False),
        ("a\x00b", False),
        ("a\nb", False),
        ("a\rb", False),
        ("\x1b[2J", False),
        ("\x7f", False),
        ("\x80", False),
        ("a\x85b", False),
        ("\x9f", False),
    ],
)
def test_an_id_of_control_characters_or_beyond_all_length_is_none(text: str, kept: bool) -> None:
    expected = text if kept else None
    # A browser sends UTF-8, which WSGI hands over as Latin-1.
    assert last_event_id(text.encode().decode("latin-1")) == expected
    assert last_event_id(query=f"lastEventId={quote(text)}") == expected


def test_a_query_that_was_not_quoted_is_utf_8_too() -> None:
    assert last_event_id(query="lastEventId=\u00e9".encode().decode("latin-1")) == "\u00e9"


@pytest.mark.parametrize(
    "octets", [b"\xff", b"abc\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xe9t\xe9"]
)
def test_an_id_that_is_not_utf_8_is_none(octets: bytes) -> None:
    assert last_event_id(octets.decode("latin-1")) is None
    assert last_event_id(query=f"lastEventId={quote(octets)}") is None


def is_safe(text: str | None) -> bool:
    if text is None:
        return True
    encode({"id": text})  # it may be sent back as it is
    return 0 < len(text) <= MAX_LAST_EVENT_ID


@given(st.none() | st.text(), st.text())
def test_whatever_is_asked_is_answered_with_a_safe_id_or_none(
    header: str | None, query: str
) -> None:
    # Even of no server that keeps to WSGI, whose text is Latin-1.
    asked = {} if header is None else {"HTTP_LAST_EVENT_ID": header}
    for each in (query, f"lastEventId={query}"):
        assert is_safe(SseStream(environ(QUERY_STRING=each, **asked)).last_event_id)


@given(st.binary())
def test_any_octets_are_a_safe_id_or_none(octets: bytes) -> None:
    found = last_event_id(octets.decode("latin-1"))
    assert is_safe(found)
    if found is not None:
        assert found.encode() == octets


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_id_that_a_server_would_send_comes_back(text: str) -> None:
    assert last_event_id(text.encode().decode("latin-1")) == text
