"""The last message of what somebody produces."""

from typing import Any

import pytest

from ssestream.channels.last_message import last_frame, last_message
from tests.kit.failing import RAISED, failing


def test_the_usual_last_message_tells_the_status_and_nothing_of_the_error() -> None:
    assert last_message("failed", KeyError("secret")) == {"event": "failed", "data": ""}
    assert last_frame(last_message, "done", None) == b"event: done\ndata: \n\n"


def test_a_function_may_make_another_or_none() -> None:
    error = KeyError("k")
    given: list[Any] = []

    def last(status: str, error: BaseException | None) -> dict[str, Any] | None:
        given.append((status, error))
        return {"data": {"why": status}} if error else None

    assert last_frame(last, "failed", error) == b'data: {"why":"failed"}\n\n'
    assert last_frame(last, "done", None) is None
    assert given == [("failed", error), ("done", None)]


@pytest.mark.parametrize(
    "wrong",
    [lambda *_: {"dat": 1}, lambda *_: 1 / 0, lambda: None, *map(failing, RAISED)],
)
def test_a_function_that_fails_is_logged_and_the_usual_message_is_told(
    wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert last_frame(wrong, "lost", None) == b"event: lost\ndata: \n\n"
    assert "the last message could not be made by <function" in caplog.text
