"""The items of an async source, for a greenlet that draws from it as from a plain iterator."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Iterable, Iterator
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.event import Event

from .async_source import AsyncSource
from .runtime.loop import Loop, loop_of

#: The most items that wait for the greenlet. When there are so many, the source waits.
MOST = 16


class AsyncItems:
    """An iterable over *source*, which runs in the asyncio loop of the process."""

    def __init__(self, source: AsyncIterable[Any]) -> None:
        self._source = AsyncSource(source, self)
        self._items: deque[Any] = deque()
        # Set by `close` and by `drawn`.
        self._is_closed = self._is_drawn = False
        self._error: BaseException | None = None
        # The loop of the greenlet that draws, and an event in it; None before it begins.
        self._loop: Loop | None = None
        self._news: Any = None

    def __str__(self) -> str:
        return str(self._source)

    # -- in the greenlet that draws

    def __iter__(self) -> Iterator[Any]:
        self._loop, self._news = loop_of(gevent.get_hub()), Event()
        self._source.start(None)
        while True:
            self._news.clear()
            is_drawn = self._is_drawn
            while self._items:
                item = self._items.popleft()
                self._source.wake()
                yield item
            if is_drawn:
                if isinstance(self._error, asyncio.CancelledError):
                    raise GreenletExit("the async source was cancelled")
                if self._error is not None:
                    raise self._error
                return
            self._news.wait()

    def close(self) -> None:
        """Cancel the source, if it is not exhausted."""
        self._is_closed = True
        if self._loop is None:
            self._source.close(None)
        elif not self._is_drawn:
            self._source.stop()

    # -- in the thread of the asyncio loop: see `async_source.Sink`

    def put(self, item: Any) -> Iterable[object]:
        """Keep *item* for the greenlet."""
        self._items.append(item)
        self._tell()
        return (None,)

    def rest(self) -> Iterable[object]:
        """Nothing: the greenlet sees the end by itself."""
        return ()

    def is_full(self) -> bool:
        """Whether the source must wait."""
        return len(self._items) >= MOST

    def is_over(self) -> bool:
        """Whether the greenlet takes no more items."""
        return self._is_closed

    def drawn(self, error: BaseException | None) -> None:
        """The source is closed."""
        self._error = error
        self._is_drawn = True
        self._tell()

    def _tell(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.call(self._news.set)
