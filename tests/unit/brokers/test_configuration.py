"""The arguments that choose a broker."""

from pathlib import Path
from typing import Any

import pytest

from ssestream import Channels
from ssestream.brokers.configuration import configuration


@pytest.mark.parametrize("url", ["rediss+what://u:secret@h/0", "http://u:secret@h", "//u:secret@h"])
def test_a_wrong_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="redis") as raised:
        Channels(url)
    assert "secret" not in str(raised.value)


def test_a_url_may_be_given_and_connects_to_nothing(tmp_path: Path) -> None:
    Channels(f"sqlite:///{tmp_path}/none/events.db")
    Channels("redis://127.0.0.1:1/0")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="url"):
        Channels(7)  # type: ignore[arg-type]


def test_what_is_missing_is_the_usual() -> None:
    assert configuration(None, None, None) == ("memory://", None, None)
    assert configuration("redis://host", 5, 0.5) == ("redis://host", 5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        (("", None, None), TypeError, "^url is the URL of a broker, and not an empty one"),
        ((5, None, None), TypeError, "^url is the URL of a broker, and not int"),
        ((None, "5", None), TypeError, "^history is an int of events, not str"),
        ((None, True, None), TypeError, "^history is an int of events, not bool"),
        ((None, 0, None), ValueError, "^history must be at least 1, and is 0"),
        ((None, None, "60"), TypeError, "^history_age is a number of seconds or None, not str"),
        ((None, None, True), TypeError, "^history_age is a number of seconds or None, not bool"),
        ((None, None, 0), ValueError, "^history_age must be positive and finite, and is 0"),
        ((None, None, float("inf")), ValueError, "^history_age must be positive and finite"),
        ((None, None, float("nan")), ValueError, "^history_age must be positive and finite"),
    ],
)
def test_a_wrong_argument_is_named(arguments: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        configuration(*arguments)
