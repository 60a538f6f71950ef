"""The plain value of an object: no proxy, and no method of its class."""

import enum
import tracemalloc
from typing import Any

import pytest
from werkzeug.local import LocalProxy

from ssestream.plain import plain_bytes, plain_int, plain_text, shortened, unproxied


class Text(str):
    """One that says it is another."""

    def __str__(self) -> str:
        return "another"

    def __format__(self, how: str) -> str:
        return "another"


class Number(int):
    def __int__(self) -> int:
        return 99

    def __index__(self) -> int:
        return 99


class Color(str, enum.Enum):
    RED = "red"


def proxy(value: Any) -> Any:
    return LocalProxy(lambda: value)


def test_a_proxy_is_what_it_stands_for() -> None:
    value = object()
    assert unproxied(value) is value
    assert unproxied(proxy(value)) is value
    assert unproxied(proxy(proxy(value))) is value


def test_a_proxy_without_a_value_raises() -> None:
    def unbound() -> object:
        raise RuntimeError("outside of the request")

    with pytest.raises(RuntimeError, match="outside of the request"):
        unproxied(LocalProxy(unbound))


@pytest.mark.parametrize("value", ["text", Text("text"), proxy("text"), proxy(Text("text"))])
def test_text_is_the_text_of_str_itself(value: Any) -> None:
    text = plain_text(value)
    assert type(text) is str
    assert text == "text"


def test_a_member_of_an_enum_is_its_text() -> None:
    assert plain_text(Color.RED) == "red"
    assert type(plain_text(Color.RED)) is str


@pytest.mark.parametrize("value", [7, Number(7), proxy(7), proxy(Number(7))])
def test_a_number_is_the_number_of_int_itself(value: Any) -> None:
    number = plain_int(value)
    assert type(number) is int
    assert number == 7


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_each_kind_are_copied(kind: Any) -> None:
    source = bytearray(b"bytes")
    taken = plain_bytes(kind(source))
    source[0] = 0
    assert type(taken) is bytes
    assert taken == b"bytes"
    assert plain_bytes(proxy(b"bytes")) == b"bytes"


def test_a_memoryview_that_was_released_cannot_be_read() -> None:
    view = memoryview(b"bytes")
    view.release()
    with pytest.raises(ValueError, match="released"):
        plain_bytes(view)


def test_a_long_value_is_cut_before_its_repr() -> None:
    class Odd(str):
        __slots__ = ()

        def __repr__(self) -> str:
            raise AssertionError

    assert shortened(Odd("x")) == "'x'"
    assert shortened("x" * 98) == repr("x" * 98)
    assert shortened("x" * 99) == "'" + "x" * 99 + "..."
    assert shortened(b"x" * 10**7) == "b'" + "x" * 98 + "..."
    assert shortened([1]) == "[1]"
    text = "x" * 10**7
    tracemalloc.start()
    try:
        shortened(text)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10**5
