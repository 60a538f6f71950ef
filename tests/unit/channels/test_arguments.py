"""What an app gives to channels is checked before anything is done."""

from typing import Any

import pytest

from ssestream import SseStream
from ssestream.brokers.broker import PLAIN, Bounds
from ssestream.channels.arguments import check_subscription, terms_of


def check(**wrong: Any) -> None:
    right: dict[str, Any] = {
        "sse_stream": SseStream(),
        "names": ("news",),
        "since": None,
        "latest": 0,
        "filter": None,
    }
    check_subscription(**{**right, **wrong})


def test_right_arguments_are_no_error() -> None:
    check()
    check(since="news=abc.1", latest=3, filter=lambda message: True)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"sse_stream": "news"}, TypeError, "sse_stream must be an SseStream, not str"),
        ({"names": ()}, TypeError, "at least one channel"),
        ({"since": 3}, TypeError, "since must be an id or None, not int"),
        ({"filter": 3}, TypeError, "filter must be a function or None"),
        ({"latest": -1}, ValueError, "latest is an int from 0 on, and not -1"),
        ({"latest": True}, ValueError, "latest is an int from 0 on, and not True"),
        ({"latest": None}, ValueError, "latest is an int from 0 on, and not None"),
    ],
)
def test_a_wrong_argument_is_named(
    wrong: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check(**wrong)


def test_a_channel_without_terms_of_its_own_has_the_plain_ones() -> None:
    assert terms_of(None, None, None) is PLAIN


def test_the_terms_of_a_channel_are_what_was_asked() -> None:
    assert terms_of(10, 60.0, None).bounds == Bounds(10, 60.0)
    assert terms_of(None, None, 30.0).bounds is None
    assert terms_of(None, None, 30.0).ttl == 30.0


@pytest.mark.parametrize("wrong", [(0, None, None), (None, -1, None), (None, None, 0)])
def test_wrong_terms_are_refused(wrong: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"history|ttl"):
        terms_of(*wrong)
