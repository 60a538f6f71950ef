"""Compact JSON is what the standard library writes, and fails as the library does."""

import datetime
import enum
import json
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssestream import compact_json as room
from ssestream.compact_json import compact_json, json_value, json_writer
from tests.kit.messages import json_values, junk
from tests.kit.promptness import at_best


@pytest.fixture(scope="module", params=["in C", "in Python"], autouse=True)
def encoder(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        assert room.c_encoder is not None
        if request.param == "in Python":
            patch.setattr(room, "c_encoder", None)
        yield


def by_the_library(value: Any) -> str:
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=json_value
    )


def outcome(function: Any, value: Any) -> Any:
    try:
        return function(value)
    except (TypeError, ValueError, RecursionError) as error:
        return type(error), str(error)


@given(json_values | junk | st.lists(json_values | junk, max_size=4))
def test_any_value_is_written_as_by_the_library(value: Any) -> None:
    assert outcome(compact_json, value) == outcome(by_the_library, value)


class Colour(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    SEVEN = 7


class Tuple(tuple[Any, ...]):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        *(Colour.RED, Number.SEVEN, Tuple((1, 2)), {Colour.RED: Number.SEVEN}, {True: 1, None: 2}),
        *('\u2028\x7f"\\\n\ud800', 1e16, 1e-7, -0.0, 10**30, {"b": 1, "a": {"d": [], "c": {}}}),
        *(math.nan, [math.inf], {math.nan: 1}, {(1, 2): 3}, datetime.date(2026, 1, 1), b"x"),
    ],
    ids=repr,
)
def test_a_special_value_too(value: Any) -> None:
    assert outcome(compact_json, value) == outcome(by_the_library, value)


def test_a_value_that_holds_itself_is_refused_at_once() -> None:
    value: list[Any] = ["x"] * 100_000
    value.append({"value": value})

    def refusal() -> float:
        began = time.process_time()
        with pytest.raises(ValueError, match="Circular"):
            compact_json(value)
        return time.process_time() - began

    at_best(refusal, 1)


def test_the_same_value_may_stand_in_two_places() -> None:
    value = {"a": [1]}
    assert compact_json([value, value]) == '[{"a":[1]},{"a":[1]}]'


def test_default_makes_a_value_of_any_other_value() -> None:
    assert json_writer(str)({"at": datetime.date(2026, 1, 1)}) == '{"at":"2026-01-01"}'
    assert json_writer(sorted)({1, 2}) == "[1,2]"
    with pytest.raises(ZeroDivisionError):
        json_writer(lambda value: 1 / 0)(object())


def test_two_threads_may_write_one_value_at_the_same_time() -> None:
    inside, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    def default(value: Any) -> str:
        if threading.current_thread() is not thread:
            return "here"
        inside.set()
        assert go_on.wait(60)
        return "made"

    write, value = json_writer(default), [object()]
    thread = threading.Thread(target=lambda: written.append(write(value)))
    thread.start()
    assert inside.wait(60)
    assert write(value) == '["here"]'
    go_on.set()
    thread.join(60)
    assert written == ['["made"]']


def test_a_value_that_was_refused_once_is_written_when_it_is_right() -> None:
    value: dict[str, Any] = {"a": [object()]}
    for _ in range(2):
        with pytest.raises(TypeError):
            compact_json(value)
    value["a"][0] = value
    with pytest.raises(ValueError, match="Circular"):
        compact_json(value)
    value["a"][0] = 1
    assert compact_json(value) == '{"a":[1]}'
