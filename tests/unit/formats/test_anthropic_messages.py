"""Anthropic's events. ``tests/servers/test_formats.py`` has its real client."""

from typing import Any

import pytest

from ssestream.formats import anthropic_messages, anthropic_messages_error, anthropic_messages_last
from ssestream.wire import encode


def events(pieces: list[Any]) -> list[Any]:
    messages = list(anthropic_messages(pieces, model="parrot"))
    assert all(message["event"] == message["data"]["type"] for message in messages)
    return [(message["event"], message["data"].get("index")) for message in messages]


def block(index: int) -> list[Any]:
    kind = {"type": "tool_use", "id": "1", "name": "add", "input": {}}
    return [
        {"type": "content_block_start", "index": index, "content_block": kind},
        {"type": "content_block_stop", "index": index},
    ]


END = [("message_delta", None), ("message_stop", None)]


def test_text_is_one_block_however_many_pieces_it_has() -> None:
    assert events(["a", "b"]) == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        *END,
    ]


def test_blocks_count_on_from_those_of_the_source() -> None:
    assert events(["a", *block(1), "b"])[3:] == [
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        *END,
    ]


def test_a_ping_ends_no_block_and_begins_no_message() -> None:
    ping = {"type": "ping"}
    assert [kind for kind, _ in events([ping, "a", ping, "b"])] == [
        "ping",
        "message_start",
        "content_block_start",
        "content_block_delta",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_source_may_begin_and_end_the_message_itself() -> None:
    kinds = ["message_start", "message_delta", "message_stop"]
    assert [kind for kind, _ in events([{"type": kind} for kind in kinds])] == kinds


def test_nothing_follows_an_error() -> None:
    assert [kind for kind, _ in events([{"type": "error", "error": {}}])] == ["error"]


def test_an_event_of_the_library_is_passed_on() -> None:
    # It takes seconds to import, in each process that collects these tests.
    from anthropic.types import RawMessageStopEvent

    made = RawMessageStopEvent.model_validate({"type": "message_stop"})
    assert events(["a", made]) == events(["a"])


@pytest.mark.parametrize("part", [{}, {"type": 5}])
def test_an_event_without_a_type_is_refused(part: Any) -> None:
    with pytest.raises(ValueError, match="needs a 'type' that is a str"):
        events([part])


def test_an_error_tells_the_client_only_what_the_app_says() -> None:
    secret = RuntimeError("the key is 17")
    assert b"17" not in encode(anthropic_messages_error(secret))
    assert b"try again" in encode(anthropic_messages_error(secret, "try again"))


def test_a_run_has_one_last_message_and_none_after_a_whole_answer() -> None:
    assert anthropic_messages_last("done", None) is None
    for status in ("failed", "lost"):
        assert anthropic_messages_last(status, None) == anthropic_messages_error(None)
    stopped = anthropic_messages_last("stopped", None)
    assert stopped is not None
    assert "message_stop" in str(stopped["data"])
