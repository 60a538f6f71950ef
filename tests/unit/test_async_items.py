"""An async source, drawn from in a greenlet."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gevent
import pytest

from ssestream.async_items import MOST, AsyncItems
from tests.kit.visit import until


class Numbers:
    """An async generator of numbers, and what has become of it."""

    def __init__(self, count: int, fails: bool = False, waits: bool = False) -> None:
        self.count, self.fails, self.waits = count, fails, waits
        self.drawn = 0
        self.closed = False

    async def source(self) -> AsyncIterator[int]:
        try:
            for n in range(self.count):
                self.drawn += 1
                yield n
                await asyncio.sleep(0)
            if self.waits:
                await asyncio.sleep(60)
            if self.fails:
                raise KeyError("no more")
        finally:
            self.closed = True


def in_greenlet(function: Any) -> Any:
    return gevent.spawn(function).get(timeout=60)


def test_all_items_come_in_order() -> None:
    numbers = Numbers(200)
    assert in_greenlet(lambda: list(AsyncItems(numbers.source()))) == list(range(200))
    assert numbers.closed


def test_its_exception_comes_behind_its_items() -> None:
    numbers, found = Numbers(3, fails=True), []

    def draw() -> None:
        found.extend([])
        for item in AsyncItems(numbers.source()):
            found.append(item)

    greenlet = gevent.spawn(draw)
    with pytest.raises(KeyError):
        greenlet.get(timeout=60)
    assert found == [0, 1, 2]


def test_it_waits_for_a_slow_greenlet() -> None:
    numbers = Numbers(10 * MOST)
    items = AsyncItems(numbers.source())

    def draw() -> list[int]:
        iterator = iter(items)
        first = next(iterator)
        gevent.sleep(0.2)
        assert numbers.drawn <= MOST + 2
        return [first, *iterator]

    assert in_greenlet(draw) == list(range(10 * MOST))


def test_it_is_cancelled_in_the_middle_of_an_await() -> None:
    numbers = Numbers(1, waits=True)
    items = AsyncItems(numbers.source())
    iterator = iter(items)
    assert in_greenlet(lambda: next(iterator)) == 0
    items.close()
    until(lambda: numbers.closed, "the source to be closed")


def test_one_that_was_never_drawn_is_closed() -> None:
    numbers = Numbers(1)
    AsyncItems(numbers.source()).close()
    assert numbers.drawn == 0
