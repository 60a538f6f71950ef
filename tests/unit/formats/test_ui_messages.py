"""The AI SDK's UI message stream. ``tests/servers/test_formats.py`` has its real client."""

from typing import Any

import pytest

from ssestream.formats import ui_messages, ui_messages_error, ui_messages_last
from ssestream.wire import encode


def parts(pieces: list[Any]) -> list[Any]:
    *rest, done = [message["data"] for message in ui_messages(pieces, message_id="m")]
    assert done == "[DONE]"
    return [(part["type"], part.get("id") or part.get("messageId")) for part in rest]


TOOL = {"type": "tool-input-start", "toolCallId": "1", "toolName": "add"}


def test_text_is_one_block_however_many_pieces_it_has() -> None:
    assert parts(["a", "b"]) == [
        ("start", "m"),
        ("text-start", "text-1"),
        ("text-delta", "text-1"),
        ("text-delta", "text-1"),
        ("text-end", "text-1"),
        ("finish", None),
    ]


def test_a_part_stands_between_two_blocks_of_text() -> None:
    assert parts(["a", TOOL, "b"]) == [
        ("start", "m"),
        ("text-start", "text-1"),
        ("text-delta", "text-1"),
        ("text-end", "text-1"),
        ("tool-input-start", None),
        ("text-start", "text-2"),
        ("text-delta", "text-2"),
        ("text-end", "text-2"),
        ("finish", None),
    ]


@pytest.mark.parametrize("last", ["finish", "abort", "error"])
def test_a_source_may_begin_and_end_the_message_itself(last: str) -> None:
    start = {"type": "start", "messageId": "mine", "messageMetadata": {"model": "parrot"}}
    assert parts([start, {"type": last}]) == [("start", "mine"), (last, None)]


@pytest.mark.parametrize("part", [{}, {"type": 5}, {"delta": "a"}])
def test_a_part_without_a_type_is_refused(part: Any) -> None:
    with pytest.raises(ValueError, match="needs a 'type' that is a str"):
        parts([part])


def test_two_messages_have_two_ids() -> None:
    first, second = (next(iter(ui_messages([])))["data"]["messageId"] for _ in range(2))
    assert first != second


def test_an_error_tells_the_client_only_what_the_app_says() -> None:
    secret = RuntimeError("the key is 17")
    assert b"17" not in encode(ui_messages_error(secret))
    assert b"try again" in encode(ui_messages_error(secret, "try again"))


def test_a_run_has_one_last_message_and_none_after_a_whole_answer() -> None:
    assert ui_messages_last("done", None) is None
    for status in ("failed", "lost"):
        assert ui_messages_last(status, None) == ui_messages_error(None)
    stopped = ui_messages_last("stopped", None)
    assert stopped is not None
    assert "abort" in str(stopped["data"])
