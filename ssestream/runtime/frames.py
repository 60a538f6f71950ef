"""What leads to the server that runs this process, which a request does not name.

These are the frames of the calling thread, and the signal handlers. No function walks the frames of
another thread: a greenlet there may be switched meanwhile, and the C stack that CPython reads for
the next frame is then the C stack of another greenlet.
"""

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import greenlet

#: Signals that each worker of gunicorn handles with methods of its own. An app may replace some.
_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1, signal.SIGWINCH)


def callers() -> Iterator[FrameType]:
    """The frames of the callers of the function that iterates this, from the nearest on.

    The function's own frame is left out, because a function that holds its own frame is a cycle.
    """
    frame = sys._getframe(1).f_back
    while frame is not None:
        yield frame
        frame = frame.f_back


def module_of(frame: FrameType) -> str:
    """The name of the module that the code of *frame* is in, or ""."""
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    """*frame* and its callers in this process: a fork copies the callers in the parent, too."""
    while frame is not None:
        yield frame
        is_first = frame.f_code.co_name == "_bootstrap"
        if is_first and module_of(frame) in ("multiprocessing.process", "billiard.process"):
            return
        frame = frame.f_back


def of_thread() -> Iterator[FrameType]:
    """The frames of the calling greenlet, and of the greenlets that it returns to."""
    waiting = []
    parent = greenlet.getcurrent().parent
    while parent is not None:
        waiting.append(parent.gr_frame)
        parent = parent.parent
    for frame in itertools.chain([sys._getframe()], waiting):
        yield from stack(frame)


def worker_of_gunicorn() -> Any:
    """The worker of gunicorn that this process is; None in other processes.

    It can be found from the moment when the worker loads the app.
    """
    for number in _SIGNALS:
        worker: Any = getattr(signal.getsignal(number), "__self__", None)
        # A child process of the worker inherits the handlers.
        if is_of_gunicorn(worker) and worker.ppid == os.getppid():
            return worker
    return None


def is_of_gunicorn(worker: object) -> bool:
    """Whether *worker* is a worker of gunicorn, of any class."""
    return any(each.__module__ == "gunicorn.workers.base" for each in type(worker).__mro__)
