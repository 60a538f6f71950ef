"""What an app may give to `Tickets`."""

import enum
import uuid
from typing import Any

import pytest

from ssestream.tickets.arguments import checked_key, checked_keys, checked_names, key_of_json


class Kind(str, enum.Enum):
    ANN = "ann"


def test_keys_are_one_or_several() -> None:
    assert checked_keys("a") == ["a"]
    assert checked_keys(b"a") == [b"a"]
    assert checked_keys(("new", b"old")) == ["new", b"old"]


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        (None, ValueError, "set app.secret_key"),
        ("", ValueError, "must not be empty"),
        ([], ValueError, "must not be empty"),
        (["a", ""], ValueError, "must not be empty"),
        (["a", None], TypeError, "not NoneType"),
        ([5], TypeError, "not int"),
    ],
)
def test_a_key_that_is_not_set_is_an_error(keys: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        checked_keys(keys)


def test_names_are_those_of_channels_and_each_comes_once() -> None:
    assert checked_names(iter(["a", "b:1", "a"])) == ("a", "b:1")


@pytest.mark.parametrize("names", [["*"], ["user:*"], ["a", "b?"], ["user:[1]"], ["a b"], [""]])
def test_no_name_stands_for_several_channels(names: list[str]) -> None:
    with pytest.raises(ValueError, match="the name of a channel"):
        checked_names(names)


@pytest.mark.parametrize(
    ("names", "error"),
    [("news", TypeError), (b"news", TypeError), ([5], TypeError), ([], ValueError)],
)
def test_channels_are_a_list_of_names(names: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="channel"):
        checked_names(names)


def test_more_channels_than_fit_in_an_id_are_refused() -> None:
    with pytest.raises(ValueError, match="too many for one stream"):
        checked_names([f"channel-{number}" for number in range(200)])


@pytest.mark.parametrize("key", [None, "ann", 7, ("ann", 7), (("a",), 1)])
def test_a_key_is_the_same_after_json(key: Any) -> None:
    def as_json(value: Any) -> Any:
        return [*map(as_json, value)] if isinstance(value, tuple) else value

    assert checked_key(key) == key
    assert repr(key_of_json(as_json(key))) == repr(key)


@pytest.mark.parametrize("key", [True, 1.5, b"a", uuid.UUID(int=1), Kind.ANN, (), ("a", None), []])
def test_a_key_that_would_be_another_after_json_is_refused(key: Any) -> None:
    # `Channels.cut` would not find the stream by it.
    with pytest.raises(TypeError, match="key"):
        checked_key(key)
