"""The messages of streams with a producer each, for the apps in Python.

The number of a message counts from one on each stream. Its ``due`` is the time for which its
client has asked for it, by the clock that all processes of the machine share.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from control import TEXT

Message = dict[str, Any]


def message(number: int, due: float) -> Message:
    return {"n": number, "due": due, "text": TEXT}


def messages(pause: float, count: int) -> Iterator[Message]:
    """A message after each *pause* in seconds; *count* of them, or without an end."""
    began, number = time.monotonic(), 0
    while not count or number < count:
        gevent.sleep(pause)
        number += 1
        yield message(number, began + number * pause)


class Users:
    """Publishes to one user after another, of those that have come so far."""

    def __init__(self, publish: Callable[[str, Message], object]) -> None:
        self._publish = publish
        self._names: list[str] = []
        #: The number of each user's last event.
        self._last: dict[str, int] = {}

    def came(self, name: str) -> None:
        if name not in self._last:
            self._names.append(name)
            self._last[name] = 0

    def publish(self, number: int) -> None:
        name = self._names[number % len(self._names)]
        self._last[name] += 1
        self._publish(name, message(self._last[name], time.monotonic()))
