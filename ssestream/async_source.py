"""An async source: draw from it in the asyncio loop of the process, and close it there.

The whole life of the source is in one asyncio task: its steps, its cancellation and its
``aclose()``. So a source may use timeouts and task groups. When `AsyncSource.stop` is called, the
task is cancelled. This ends the source in the middle of any ``await``, and its ``finally`` runs.
"""

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterable, Iterable
from typing import Any, Protocol

from .runtime.asyncloop import AsyncTask
from .runtime.loop import logger
from .runtime.origin import Origin, enter, log_failure

#: A source that always has a message lets other coroutines run after so many messages.
FAIR = 16


class Sink(Protocol):
    """The taker of the items. All methods are called in the loop's thread, and must not block.

    An exception in `put` and `rest` ends the source.
    """

    def put(self, item: Any) -> Iterable[object]:
        """Take *item*, with one step for each message in it."""

    def rest(self) -> Iterable[object]:
        """Take the messages after the last item, in the same way."""

    def is_full(self) -> bool:
        """Whether to wait for `AsyncSource.wake` before the next message."""

    def is_over(self) -> bool:
        """Whether no more messages are taken."""

    def drawn(self, error: BaseException | None) -> None:
        """The source has ended and is closed. *error* is the exception that has ended it."""


class AsyncSource:
    """Draws the items of *source*, and gives them to *sink*."""

    def __init__(self, source: AsyncIterable[Any], sink: Sink) -> None:
        #: The app's async iterable.
        self.source = source
        self._sink = sink
        self._origin: Origin | None = None
        self._task: AsyncTask | None = None
        # Made in the loop's thread.
        self._room: Any = None

    def __str__(self) -> str:
        return name_of(self.source)

    def start(self, origin: Origin | None) -> None:
        """Begin to draw. *origin* is the request, for the log."""
        self._task = self._run(self._draw, origin)

    def close(self, origin: Origin | None) -> None:
        """Close the source, which was not started."""
        self._run(self._close, origin)

    def wake(self) -> None:
        """The sink is no longer full. Thread-safe."""
        task = self._task
        if task is not None:
            task.call(self._wake)

    def stop(self) -> None:
        """Cancel the source, which was started. Thread-safe."""
        if self._task is not None:
            self._task.cancel()

    def _run(self, main: Any, origin: Origin | None) -> AsyncTask:
        self._origin = origin
        context = contextvars.Context()
        enter(context, origin)
        return AsyncTask(f"the async source {self}", main, context, self._ended)

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set()

    def _ended(self, result: Any, error: BaseException | None) -> None:
        self._sink.drawn(error)

    async def _draw(self) -> None:
        sink = self._sink
        self._room = asyncio.Event()
        iterator: Any = None
        count = 0
        try:
            iterator = aiter(self.source)
            async for item in iterator:
                if self._task is not None and self._task.is_cancelled:
                    logger.warning(
                        "the async source %s has caught asyncio.CancelledError, though its client"
                        " has left. It is closed now. Let it raise that error again",
                        self,
                    )
                    return
                if not await self._take(sink.put(item)):
                    return
                count += 1
                if not count % FAIR:
                    await asyncio.sleep(0)
            await self._take(sink.rest())
        finally:
            # The client may leave while the source cleans up.
            if self._task is not None:
                self._task.protect()
            await self._close(iterator)

    async def _take(self, steps: Iterable[object]) -> bool:
        """Take all *steps*, and wait for room. Returns False if no more are taken."""
        sink, room = self._sink, self._room
        for _ in steps:
            while sink.is_full() and not sink.is_over():
                await room.wait()
                room.clear()
            if sink.is_over():
                return False
        # Without this check, a source that never waits could not be stopped.
        return not sink.is_over()

    async def _close(self, iterator: Any = None) -> None:
        source = self.source
        first = source if iterator is None else iterator
        closes = [getattr(first, "aclose", None) or getattr(first, "close", None)]
        if first is not source:
            closes.append(getattr(source, "aclose", None))
        for close in closes:
            if callable(close):
                try:
                    result = close()
                    if inspect.isawaitable(result):
                        await result
                except BaseException:
                    log_failure(self._origin, "the async source %s cannot be closed", self)


def name_of(source: object) -> str:
    """The name of *source*, for the log."""
    return str(getattr(source, "__qualname__", type(source).__qualname__))
