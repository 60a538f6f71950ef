"""One call of an ``async def`` that is a ``@handler``: a task of the process's asyncio loop."""

import asyncio
import functools
import inspect
from typing import Any

from .handler_run import Run
from .runtime.asyncloop import AsyncTask
from .runtime.beside import start_beside


class AsyncRun(Run):
    """One call of a handler's function, in an asyncio task. No write in it waits."""

    _ending = asyncio.CancelledError

    _task: AsyncTask | None = None

    def _run_function(self) -> None:
        what = f"the async handler {self.name}"
        self._task = AsyncTask(what, self._await_call, self._context, self._ended)

    async def _await_call(self) -> Any:
        call, self._call = self._call, None
        assert call is not None
        try:
            result = call()
            # A decorator may have answered in the place of the function.
            return await result if inspect.isawaitable(result) else result
        except asyncio.CancelledError as error:
            if self._cancelled or self._is_over():
                raise
            what = f"the handler {self.name} was cancelled, and not because its client has left"
            raise RuntimeError(what) from error

    def _ended(self, result: Any, error: BaseException | None) -> None:
        """The function has ended. Called in the asyncio loop."""
        # What follows may wait, and may run code of the app.
        finish = functools.partial(self._finish, result, error)
        start_beside(self._call_queue.loop, finish, self)

    def _is_here(self) -> bool:
        return self._task is not None and self._task.is_here()

    def start(self) -> None:
        self._start_now()
        if self._is_here():
            self._end_if_gone()

    def wait_for_room(self) -> None:
        if self._is_here():
            self._end_if_gone()

    def wait_for(self, stream: Any, call_queue: object, bodies: list[Any]) -> None:
        if call_queue is self._call_queue or self._body in bodies:
            self.wait_for_room()

    def _end_function(self) -> None:
        with self._lock:
            self._cancelled = True
        if self._task is not None:
            self._task.cancel()
