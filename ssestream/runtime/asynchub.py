"""An asyncio loop for a thread of a monkey-patched process: a gevent hub does its waiting.

In a patched process, threads, locks, queues and sockets are gevent's, also in a native thread. A
loop that waits in the kernel would stop them: a thread that a library starts would never run. So
this loop waits in the hub of its own thread. While it waits, the greenlets of that hub run. They
are the threads that coroutines have started.

The threads of ``asyncio.to_thread`` are native ones. A call there may block in C, and may run an
asyncio loop of its own.
"""

import asyncio
import contextlib
import os
import sys
import warnings
from asyncio import _get_running_loop, _set_running_loop  # for those who write loops
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import gevent
from gevent import os as gevent_os
from gevent.hub import Hub, set_hub
from gevent.selectors import GeventSelector

from .children import child_watcher, expect_children
from .loop import service_loop
from .threadloop import run_in_hub
from .threads import new_lock, start_thread

#: How many calls of ``asyncio.to_thread`` run at a time. asyncio has the same bound on 28 cores.
THREADS = 32

_LibevLoop: Any = gevent.config.loop


@contextlib.contextmanager
def loop_in_hub() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop for the calling thread, which has no hub yet. The loop is closed at the end."""
    expect_children()
    _wait_for_children_in_threads()
    hub = Hub(loop=_ThreadsLoop(default=False))
    set_hub(hub)
    loop = _LoopInHub(_Selector(hub))
    loop.set_default_executor(_NativeThreads())
    try:
        yield loop
    finally:
        loop.close()
        hub.destroy(destroy_loop=True)


def _wait_for_children_in_threads() -> None:
    """Let asyncio ask ``os.waitpid``, which is gevent's, for the ends of its child processes.

    From Python 3.12 on, asyncio opens a descriptor of a new child (pidfd). libev takes the end of
    each child of the process, and a child may have ended before that. Then there is nothing to
    open, and asyncio raises ``ProcessLookupError``. From Python 3.14 on, `_LoopInHub` prevents it.
    """
    if sys.version_info >= (3, 12) and sys.version_info < (3, 14):
        with warnings.catch_warnings():
            # There is no other way.
            warnings.simplefilter("ignore", DeprecationWarning)
            if not isinstance(asyncio.get_child_watcher(), asyncio.ThreadedChildWatcher):
                asyncio.set_child_watcher(asyncio.ThreadedChildWatcher())


class _LoopInHub(asyncio.SelectorEventLoop):
    def __init__(self, selector: Any) -> None:
        super().__init__(selector)
        # From Python 3.14 on, asyncio asks this attribute. It has no public name there.
        self._watcher = _Children()


class _Children:
    """Waits for child processes by gevent's ``waitpid``. It is what asyncio calls a child watcher.

    asyncio's own watchers open a descriptor of the child (pidfd), or wait in the kernel.
    """

    def add_child_handler(self, pid: int, callback: Callable[..., object], *args: Any) -> None:
        gevent.spawn(self._wait, asyncio.get_running_loop(), pid, callback, args)

    def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        pid: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        try:
            code = os.waitstatus_to_exitcode(gevent_os.waitpid(pid, 0)[1])
        except ChildProcessError:  # other code has waited for it
            code = 255
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback, pid, code, *args)


class _Selector(GeventSelector):  # type: ignore[misc]
    """Waits in the hub. Code of other greenlets does not run inside the asyncio loop."""

    def select(self, timeout: float | None = None) -> Any:
        running = _get_running_loop()
        _set_running_loop(None)
        try:
            return super().select(timeout)
        finally:
            _set_running_loop(running)


class _ThreadsLoop(_LibevLoop):  # type: ignore[misc]
    """A libev loop that can watch child processes, though it is not the default loop."""

    def install_sigchld(self) -> None:
        """Do nothing: the default loop has the handler of the signal."""

    def child(self, pid: int, trace: int = 0, ref: bool = True) -> Any:
        return child_watcher(self, pid, ref)


class _NativeThreads(ThreadPoolExecutor):
    """Runs each call in a native thread, with a hub for the waits of gevent.

    No thread waits for calls. So none is left when the process ends.
    """

    def __init__(self) -> None:
        super().__init__(1)  # asyncio takes no other class
        self._lock = new_lock()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._calls.append((future, lambda: fn(*args, **kwargs)))
            starts = self._running < THREADS
            self._running += starts
        if starts:
            try:
                start_thread(run_in_hub, (self._work, service_loop()))
            except BaseException:
                with self._lock:
                    self._running -= 1
                    alone = not self._running
                    if alone:
                        self._calls.clear()
                if alone:  # else another thread makes the call
                    raise
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._running -= 1
                    return
                future, call = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            # A waiting thread must hold nothing of the app.
            del future, call
            result = None
