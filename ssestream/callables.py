"""What an app hands over to be called: plain functions, as nobody awaits anything here.

A filter that is a coroutine function would say yes to every message, since a coroutine is
true, and a handler that is one would do nothing.
"""

import functools
import inspect
import types
from typing import Any


def check_callable(name: str, function: Any, what: str = "callable") -> None:
    """Raise ``TypeError`` unless *function* can be called, and its call does something.

    *name* is that of the argument, and *what* says what it must be.
    """
    if not callable(function):
        raise TypeError(f"{name} must be {what}, not {type(function).__name__}")
    while isinstance(function, functools.partial):
        function = function.func
    # An object is called by its class.
    for each in (function, type(function).__call__):
        if inspect.iscoroutinefunction(each):
            raise TypeError(f"{name} must be a plain function: nobody would await this one")
        if inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each):
            raise TypeError(f"{name} must be a plain function: nobody would iterate this one")


def fitting(function: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first of *args*, as many as *function* takes: JavaScript's functions ignore the rest."""
    return args[: _most(function, len(args))] if args else args


def _most(function: Any, count: int) -> int:
    """How many of *count* arguments *function* takes by their places."""
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # of a builtin function, mostly
        return count
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        # A decorator's wrapper takes what the function inside takes.
        inside = getattr(function, "__wrapped__", None)
        return count if inside is None else _most(inside, count)
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(count, sum(each.kind in by_place for each in parameters))


def is_coroutine(result: object) -> bool:
    """Whether *result* is the coroutine of a function that looked plain.

    It is closed, so that Python does not complain of it later.
    """
    if isinstance(result, types.CoroutineType):
        result.close()
        return True
    return isinstance(result, types.AsyncGeneratorType)
