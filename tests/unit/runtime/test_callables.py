"""Functions of an app: which are refused, and how many arguments they get."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from werkzeug.local import LocalProxy

from ssestream.runtime.callables import check_callable, fitting, is_coroutine, is_lazy, is_no_answer


async def coroutine(*args: object) -> None:
    pass


async def asynchronous(*args: object) -> AsyncIterator[int]:
    yield 1


def generator(*args: object) -> Iterator[int]:
    yield 1


class Called:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class Awaited:
    async def __call__(self) -> None:
        pass


@pytest.mark.parametrize("function", [print, len, lambda: None, dict, functools.partial(print)])
def test_what_can_be_called_is_taken(function: Any) -> None:
    check_callable("filter", function)


@pytest.mark.parametrize("value", [None, "print", 5, object()])
def test_what_cannot_be_called_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match=f"^filter must be a function, not {type(value).__name__}$"):
        check_callable("filter", value, "a function")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (coroutine, "await"),
        (functools.partial(functools.partial(coroutine, 1), 2), "await"),
        (Awaited(), "await"),
        (asynchronous, "iterate"),
        (generator, "iterate"),
        (functools.partial(generator), "iterate"),
    ],
)
def test_a_function_whose_call_would_do_nothing_is_refused(function: Any, why: str) -> None:
    with pytest.raises(TypeError, match=f"^callback must be a plain function: nobody would {why}"):
        check_callable("callback", function)


def wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        return function(*args)

    return wrapped


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda: None, 0),
        (lambda a: None, 1),
        (lambda a, b=1, /: None, 2),
        (lambda *args: None, 3),
        (lambda a, *, b=1: None, 1),
        (functools.partial(lambda a, b: None, 1), 1),
        (wrapper(lambda a: None), 1),
        ([].append, 1),
        (Awaited().__call__, 0),
    ],
)
def test_a_function_gets_as_many_arguments_as_it_takes(function: Any, count: int) -> None:
    assert fitting(function, (1, 2, 3)) == (1, 2, 3)[:count]


def test_one_whose_parameters_nobody_knows_gets_all() -> None:
    assert fitting(dict.fromkeys, (1, 2)) == (1, 2)
    assert fitting(5, ()) == ()


def test_a_coroutine_is_told_from_a_value_and_closed() -> None:
    made = coroutine()
    assert is_coroutine(made)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        made.send(None)
    assert is_coroutine(asynchronous())
    assert not is_coroutine(generator())
    assert not is_coroutine(None)


class Lazy:
    def __await__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize("make", [coroutine, asynchronous, generator, Lazy])
def test_what_nobody_runs_is_no_answer(make: Callable[[], object]) -> None:
    assert is_lazy(make())
    assert is_no_answer(make())


@pytest.mark.parametrize(
    "made", [Future(), map(bool, ()), len, LocalProxy(Lazy)], ids=lambda each: type(each).__name__
)
def test_what_runs_elsewhere_or_would_have_to_be_asked_is_no_answer(made: object) -> None:
    assert not is_lazy(made)
    assert is_no_answer(made)


@pytest.mark.parametrize(
    "value", [None, True, 0, "a", [], object(), Lazy], ids=lambda each: type(each).__name__
)
def test_a_value_is_an_answer(value: object) -> None:
    assert not is_lazy(value)
    assert not is_no_answer(value)
