"""The asyncio loop of the process: one native thread in which all coroutines of the app run.

It is made when first needed, and ends with the process. A child process makes its own.

Other threads and greenlets reach the loop with asyncio's ``call_soon_threadsafe``. The coroutines
reach a hub as every other thread does (see ``loop``). So neither ever waits for the other.
"""

import asyncio
import contextlib
import contextvars
import os
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from gevent import monkey

from .asynchub import loop_in_hub
from .clock import clock
from .exiting import at_exit
from .loop import logger
from .preconditions import check_descriptors
from .threads import ThreadQueue, new_lock, start_thread
from .writer import running_writer

#: Seconds after which a task that was cancelled and goes on is named in the log.
PATIENCE = 2.0

#: When the process ends: seconds in which cancelled tasks may clean up, and then seconds in which
#: all other tasks may end.
LAST_SECONDS, MOMENT = 1.0, 0.2


class AsyncTask:
    """A coroutine of the app in the asyncio loop. It raises nothing there.

    *what* names it in the log. *done* is called in the loop's thread with the result and with the
    error. It must not block.
    """

    def __init__(
        self,
        what: object,
        main: Callable[[], Coroutine[Any, Any, Any]],
        context: contextvars.Context,
        done: Callable[[Any, BaseException | None], object],
    ) -> None:
        self._what = what
        self._main: Any = main
        self._context = context
        self._done: Any = done
        self._task: asyncio.Task[None] | None = None
        self._is_inside = False
        self._is_cancelled = False
        self._loop = _current()
        self._loop.call(self._begin)

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._is_cancelled

    def call(self, function: Callable[[], object]) -> None:
        """Call *function* soon in the thread of the loop. Thread-safe."""
        self._loop.call(function)

    def cancel(self) -> None:
        """Cancel the task, once. Thread-safe."""
        self._loop.call(self.cancel_here)

    def protect(self) -> None:
        """Let no later call of `cancel` interrupt the task. For the task itself."""
        self._is_inside = False

    def is_here(self) -> bool:
        """Whether the task itself calls."""
        try:
            return self._task is not None and asyncio.current_task() is self._task
        except RuntimeError:  # the calling thread runs no loop
            return False

    def cancel_here(self) -> None:
        """Cancel the task, once. For the loop's thread."""
        if self._is_cancelled:
            return
        self._is_cancelled = True
        if self._task is not None and self._is_inside:
            self._task.cancel()
        self._loop.asyncio.call_later(PATIENCE, self._look)

    def _begin(self) -> None:
        loop = self._loop
        # Without the task factory of the loop, which would let the handler hold its own task.
        self._task = self._context.run(asyncio.Task, self._run(), loop=loop.asyncio)
        loop.tasks.add(self)

    async def _run(self) -> None:
        main, self._main = self._main, None
        result = error = None
        try:
            # A task that is cancelled before its first step would not run at all.
            if self._is_cancelled:
                raise asyncio.CancelledError
            self._is_inside = True
            result = await main()
        except BaseException as raised:  # SystemExit would end the loop
            error = raised
        self._loop.tasks.discard(self)
        done, self._done = self._done, None
        try:
            done(result, error)
        except BaseException:
            logger.exception("%s failed at its end", self._what)
        finally:
            # The error refers to this frame.
            self._task = main = error = None

    def _look(self) -> None:
        if self._task is not None:
            logger.warning(
                "%s was cancelled %g seconds ago, as its client has left, and goes on. Let it not"
                " catch asyncio.CancelledError, or raise it again",
                self._what,
                PATIENCE,
            )


class _AsyncLoop:
    """One loop in its thread."""

    def __init__(self) -> None:
        #: The running tasks. Each holds its coroutine, of which asyncio itself has only weak
        #: references.
        self.tasks: set[AsyncTask] = set()
        #: Whether `_run` is to end.
        self.is_ending = False
        self.is_over = False
        started = ThreadQueue()
        start_thread(self._serve, (started,))
        found = started.get()
        if isinstance(found, BaseException):
            raise found
        self.asyncio: asyncio.AbstractEventLoop = found

    def call(self, function: Callable[[], object]) -> None:
        """Call *function* soon in the loop. Does nothing if the loop is over, or a parent's."""
        if _loop is self:
            with contextlib.suppress(RuntimeError):  # it has just been closed
                self.asyncio.call_soon_threadsafe(function)

    def _serve(self, started: Any) -> None:
        try:
            check_descriptors()
            with _new_loop() as loop:
                loop.set_task_factory(_make_task)
                started.put(loop)
                started = None
                self._run(loop)
        except BaseException as error:
            if started is None:
                logger.exception("the asyncio loop did not end well")
            else:
                # The starting thread waits for an answer, and others wait for its lock.
                started.put(error)
        finally:
            self.is_over = True

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self.is_ending:
            try:
                loop.run_forever()
            except BaseException:  # SystemExit in a task that the app has started
                logger.exception("a task has interrupted the asyncio loop, which goes on")
        loop.run_until_complete(self._clean_up(loop))

    async def _clean_up(self, loop: asyncio.AbstractEventLoop) -> None:
        for task in list(self.tasks):
            task.cancel_here()
        deadline = clock.real() + LAST_SECONDS
        while self.tasks and clock.real() < deadline:
            await asyncio.sleep(0.002)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for other in others:
            other.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_shut_down(loop, others), MOMENT)

    def end(self) -> None:
        """Cancel all tasks, and end the loop and its thread."""
        self.call(self._end)
        deadline = clock.real() + LAST_SECONDS + 2 * MOMENT
        while not self.is_over and clock.real() < deadline:
            time.sleep(0.002)

    def _end(self) -> None:
        self.is_ending = True
        self.asyncio.stop()


async def _shut_down(loop: asyncio.AbstractEventLoop, others: set[Any]) -> None:
    if others:
        await asyncio.wait(others)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


@contextlib.contextmanager
def _new_loop() -> Iterator[asyncio.AbstractEventLoop]:
    if any(monkey.is_module_patched(name) for name in ("threading", "socket", "select")):
        with loop_in_hub() as loop:
            yield loop
    else:
        loop = asyncio.new_event_loop()
        try:
            yield loop
        finally:
            loop.close()


def _make_task(loop: Any, coroutine: Any, **options: Any) -> Any:
    """A task factory: the function of a handler holds the tasks that it has started."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    writer = running_writer()
    if writer is not None:
        writer.hold(_Running(task))
    return task


class _Running:
    """A task, as the writer that has started it knows it."""

    def __init__(self, task: Any) -> None:
        self._task = weakref.ref(task)
        # It lives as long as the task, because writers have weak references.
        task.add_done_callback(self._forget)

    def _forget(self, task: object) -> None:
        """Called when the task is done."""

    @property
    def is_over(self) -> bool:
        task = self._task()
        return task is None or task.done()


_loop: _AsyncLoop | None = None
_lock = new_lock()

# The loops of the parents of this process. A loop that is deleted closes the descriptors that its
# copy in the parent uses.
_lost: list[_AsyncLoop] = []


def _current() -> _AsyncLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_over:
            _loop = _AsyncLoop()
            at_exit(end_loop)
        return _loop


def end_loop() -> None:
    """End the loop of this process. Called when the process ends."""
    global _loop
    with _lock:
        loop = _loop
    if loop is not None:
        loop.end()
        with _lock:
            if _loop is loop:
                _loop = None


def _after_fork() -> None:
    global _loop, _lock
    if _loop is not None:
        _lost.append(_loop)
    _loop, _lock = None, new_lock()


os.register_at_fork(after_in_child=_after_fork)
