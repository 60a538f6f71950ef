"""The exit of the process: what runs before Python ends threads, executors and event loops."""

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

from .clock import clock
from .forking import process
from .frames import worker_of_gunicorn

functions_before_exit: list[Callable[[], object]] = []
_functions_at_exit: list[Callable[[], object]] = []
_is_installed = False


def before_exit(function: Callable[[], object]) -> None:
    """Call *function* once when the process ends, while everything in it still works.

    In a worker of gunicorn that was found (see `Worker`) this is when the worker has ended. In
    another process Python has begun to end. From Python 3.12 on, no thread can be started then.
    """
    _install()
    if function not in functions_before_exit:
        functions_before_exit.append(function)


def at_exit(function: Callable[[], object]) -> None:
    """Call *function* once when the process ends, after all functions of `before_exit`."""
    _install()
    if function not in _functions_at_exit:
        _functions_at_exit.append(function)


def _install() -> None:
    global _is_installed
    if _is_installed:
        return
    _is_installed = True
    # Python calls the functions in reverse order, before it waits for the threads that are no
    # daemons. The function of ``concurrent.futures.thread`` must come later: after it no executor
    # takes work, and asyncio looks up addresses in an executor. Before gevent has patched the
    # process, the import would keep a lock that stops all greenlets.
    import concurrent.futures.thread  # noqa: F401 - it registers its function

    register = getattr(threading, "_register_atexit", atexit.register)
    with contextlib.suppress(RuntimeError):  # the process is ending
        register(_call_all)


def _call_all() -> None:
    try:
        _call(functions_before_exit)
    finally:
        _call(_functions_at_exit)


def _call(functions: list[Callable[[], object]]) -> None:
    """Take the *functions* out and call them in their order."""
    with contextlib.ExitStack() as stack:  # it goes on after an exception
        while functions:
            stack.callback(functions.pop())


class Worker:
    """The worker of gunicorn that this process is, for code that goes on after the worker's own.

    A worker touches a file. Its master kills a worker that has not done so for ``--timeout``
    seconds. The worker closes the file before Python ends the process.
    """

    def __init__(self) -> None:
        self._worker: Any = None
        self._file: int | None = None
        #: Whether the worker was told to end at once: by SIGINT, SIGQUIT, or as it stood still.
        self.is_quick = False

    def find(self) -> None:
        """Find the worker, and keep its file open. Called by code that a request runs."""
        if self._worker is not None:
            return
        for each in [*process.workers, worker_of_gunicorn()]:
            with contextlib.suppress(AttributeError, OSError, ValueError):  # no worker; it ends
                self._file = os.dup(each.tmp.fileno())
                self._worker = each
                for name in ("worker_int", "worker_abort"):
                    each.cfg.set(name, self._quick(getattr(each.cfg, name)))
                each.cfg.set("worker_exit", self._over(each.cfg.worker_exit))
                return

    def _quick(self, hook: Callable[[Any], object]) -> Callable[[Any], object]:
        """The *hook* of gunicorn's configuration that is called when the worker ends at once."""

        def quick(worker: Any) -> object:
            self.is_quick = True
            return hook(worker)

        return quick

    def _over(self, hook: Callable[[Any, Any], object]) -> Callable[[Any, Any], object]:
        """The *hook* that is called when the worker has ended, and the process has not."""

        def over(arbiter: Any, worker: Any) -> None:
            try:
                _call(functions_before_exit)
            finally:
                hook(arbiter, worker)

        return over

    @property
    def is_stopping(self) -> bool:
        """Whether the worker was told to stop. False if there is none."""
        return self._worker is not None and not self._worker.alive

    @property
    def grace(self) -> float | None:
        """The seconds that the worker has to stop; None if there is no worker."""
        if self._worker is None:
            return None
        return 0.0 if self.is_quick else float(self._worker.cfg.graceful_timeout)

    def live(self) -> None:
        """Touch the file, as the worker does while it runs."""
        if self._file is not None:
            now = clock.real()
            os.utime(self._file, (now, now))

    def forked(self) -> None:
        """This process is a child: the worker is its parent."""
        if self._file is not None:
            os.close(self._file)
        self._worker = self._file = None
        self.is_quick = False


worker = Worker()

os.register_at_fork(after_in_child=worker.forked)
