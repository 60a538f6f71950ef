"""The frames of this process: they lead to the server, which a request does not name."""

import itertools
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import greenlet


def callers() -> Iterator[FrameType]:
    """The frames of the callers of the function that iterates this, from the nearest on.

    The function's own frame is left out, because a function that holds its own frame is a cycle.
    """
    frame = sys._getframe(1).f_back
    while frame is not None:
        yield frame
        frame = frame.f_back


def of_threads() -> dict[int, FrameType]:
    """The current frame of each thread that lives, by the thread's number."""
    return sys._current_frames()


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


def everywhere() -> Iterator[FrameType]:
    """The frames of all threads of this process, and of greenlets that the caller's return to."""
    waiting = []
    parent = greenlet.getcurrent().parent
    while parent is not None:
        waiting.append(parent.gr_frame)
        parent = parent.parent
    for frame in itertools.chain([sys._getframe()], waiting, of_threads().values()):
        yield from stack(frame)


def workers_of_gunicorn() -> list[Any]:
    """The worker of gunicorn that runs in this process, as each frame of its methods has it."""
    return [
        frame.f_locals.get("self")
        for frame in everywhere()
        if module_of(frame).startswith("gunicorn.workers.")
    ]
