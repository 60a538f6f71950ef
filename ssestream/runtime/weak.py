"""Read a weak set or a weak dict that other threads change meanwhile."""

from collections.abc import Callable, Iterable
from typing import TypeVar

_T = TypeVar("_T")


def snapshot(read: Callable[[], Iterable[_T]]) -> list[_T]:
    """All that *read* gives. *read* begins to iterate a weak collection anew.

    Up to Python 3.13, ``list()`` alone is not enough. A weak collection is iterated in Python code,
    so another thread can add a member in the middle. Python then raises ``RuntimeError``.
    """
    while True:
        try:
            return list(read())
        except RuntimeError:  # a member was added
            continue
