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


def is_coroutine(result: object) -> bool:
    """Whether *result* is the coroutine of a function that looked plain.

    It is closed, so that Python does not complain of it later.
    """
    if isinstance(result, types.CoroutineType):
        result.close()
        return True
    return isinstance(result, types.AsyncGeneratorType)
