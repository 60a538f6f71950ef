"""Ending: whether a response ends with a cut, and what its client gets last."""

from typing import Any, get_args

import pytest

from ssestream.http.ending import cause_of_whole, is_answer, is_cut, last_block
from ssestream.http.registry import BREAKING, Cause
from ssestream.settings import Settings
from ssestream.wire import id_block

FEED = Settings(on_shutdown="reconnect", retry_after=(700, 700))
ANSWERS = [Settings(on_shutdown="finish"), Settings(on_shutdown="cut")]
COME_BACK = b"event: ssestream-retry\nretry: 700\n\n"


def test_the_end_of_an_answer_is_not_the_end_of_a_feed() -> None:
    assert not is_answer(FEED)
    assert all(is_answer(each) for each in ANSWERS)


@pytest.mark.parametrize("cause", get_args(Cause))
def test_nothing_that_is_not_whole_ends_cleanly(cause: Cause) -> None:
    assert is_cut(cause, FEED) is (cause in BREAKING)
    for settings in ANSWERS:
        assert is_cut(cause, settings) is (cause in BREAKING or cause == "refused")
    assert not is_cut(cause_of_whole(cause), FEED)


def test_a_response_that_goes_on_ends_cleanly() -> None:
    assert not any(is_cut(None, each) for each in [FEED, *ANSWERS])


@pytest.mark.parametrize("cause", ["age", "shutdown"])
def test_a_feed_says_when_to_come_back_unless_the_app_has_ended_it(cause: Any) -> None:
    assert last_block(cause, FEED, False, []) == COME_BACK
    assert last_block(cause, FEED, True, []) == b""


PLACE = id_block("log.7")


@pytest.mark.parametrize(
    "before", [[], [b"data: 1\n\n"], [b":ok\n\ndata: 1\n\n"], [b"data: id: 1\ndata\n\n"]]
)
def test_a_refused_client_gets_its_place_before_all_that_is_dropped(before: list[bytes]) -> None:
    for dropped in (
        [PLACE, id_block("log.8")],
        [PLACE + b"id: log.8\ndata: 2\n\n" + id_block("log.9")],
    ):
        assert last_block("refused", FEED, False, before + dropped) == PLACE + COME_BACK
        joined = b"".join(before + dropped)
        assert last_block("refused", FEED, False, [joined]) == PLACE + COME_BACK


@pytest.mark.parametrize(
    "event",
    [
        b"id: log.6\ndata: 1\n\n",
        b"event: a\nid: log.6\ndata: 1\n\n",
        b"data: 1\nid: log.6\n\n",
        b"data: 1\r\rid:6\r\r",
        b"id\ndata: 1\n\n",
    ],
)
def test_a_refused_client_gets_no_place_behind_an_event_that_it_did_not_get(event: bytes) -> None:
    for dropped in ([event, PLACE], [event + PLACE], [b":ok\n\n" + event, memoryview(PLACE)]):
        assert last_block("refused", FEED, False, dropped) == COME_BACK


@pytest.mark.parametrize(
    ("message", "block"),
    [
        (None, b""),
        ({"event": "stopped"}, b"event: stopped\n\n"),
        (b"data: [X]\n\n", b"data: [X]\n\n"),
    ],
)
def test_an_interrupted_answer_gets_the_apps_message(message: Any, block: bytes) -> None:
    assert last_block("interrupted", Settings(interrupted=message), False, []) == block


def test_an_answer_that_has_failed_gets_nothing_more() -> None:
    assert last_block("error", ANSWERS[0], False, []) == b""
