"""Checks of the functions that an app hands over: plain functions, because nothing is awaited.

A filter that is an ``async def`` would accept every message, because a coroutine is true.
A handler that is an ``async def`` would do nothing. A function that looks like a plain one may
return a coroutine, too, so its result is checked.
"""

import functools
import inspect
import types
from typing import Any

from werkzeug.local import LocalProxy

from ..plain import unproxied

_IS_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)

#: A class with one of these methods is that of an awaitable, an iterator or a future.
_METHODS_OF_UNANSWERED = ("__await__", "__next__", "__anext__", "add_done_callback")


def check_callable(name: str, function: Any, what: str = "callable") -> None:
    """Raise ``TypeError`` if *function* cannot be called, or if a call would have no effect.

    The error says that the argument *name* must be *what*.
    """
    # The most common class first. A function with attributes may be marked as a coroutine's.
    is_bare = type(function) is types.FunctionType and not function.__dict__
    if is_bare and not function.__code__.co_flags & _IS_NOT_PLAIN:
        return
    if not callable(function):
        raise TypeError(f"{name} must be {what}, not {type(function).__name__}")
    while isinstance(function, functools.partial):
        function = function.func
    # Calling an object calls the __call__ of its class.
    for each in (function, type(function).__call__):
        if inspect.iscoroutinefunction(each):
            raise TypeError(f"{name} must be a plain function: nobody would await this one")
        if inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each):
            raise TypeError(f"{name} must be a plain function: nobody would iterate this one")


def fitting(function: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """As many of *args* as *function* takes. JavaScript's functions ignore further arguments."""
    return args[: _most(function, len(args))] if args else args


def _most(function: Any, count: int) -> int:
    """How many of *count* positional arguments *function* takes."""
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # of a builtin function, mostly
        return count
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        # The wrapper of a decorator passes its arguments on to the function inside.
        inside = getattr(function, "__wrapped__", None)
        return count if inside is None else _most(inside, count)
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(count, sum(each.kind in by_place for each in parameters))


def is_coroutine(result: object) -> bool:
    """Whether *result* is a coroutine, from a function that looked like a plain one.

    The coroutine is closed, so that Python does not warn about it later.
    """
    if isinstance(result, types.CoroutineType):
        result.close()
        return True
    return isinstance(result, types.AsyncGeneratorType)


def is_lazy(result: object) -> bool:
    """Whether *result* does nothing until somebody awaits or iterates it.

    A future does not: its work is done elsewhere. A coroutine is closed, as by `is_coroutine`.
    """
    kind = type(result)
    if is_coroutine(result) or issubclass(kind, types.GeneratorType):
        return True
    # A proxy of Werkzeug's has nearly every method.
    is_future = hasattr(kind, "add_done_callback")
    return hasattr(kind, "__await__") and not is_future and not issubclass(kind, LocalProxy)


def is_no_answer(result: object) -> bool:
    """Whether *result* is not yet the answer of a function: a coroutine, a future, an iterator.

    Such an object is true, whatever the answer will be. So is a function that the app has
    forgotten to call. A coroutine is closed, as by `is_coroutine`.
    """
    result = unproxied(result)
    kind = type(result)
    return (
        is_lazy(result)
        or issubclass(kind, _FUNCTIONS)
        or any(hasattr(kind, name) for name in _METHODS_OF_UNANSWERED)
        # The results of gevent, multiprocessing and Celery.
        or (hasattr(kind, "ready") and hasattr(kind, "get"))
    )


def kind_of(value: object) -> str:
    """The class of *value*, for an error. A coroutine is closed, as by `is_coroutine`."""
    if is_coroutine(value):
        return "a coroutine, which has to be awaited first"
    return "None" if value is None else type(value).__name__
