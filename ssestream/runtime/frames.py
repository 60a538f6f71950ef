"""The frames of the calling code: they lead to the server, which a request does not name."""

import sys
from collections.abc import Iterator
from types import FrameType


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
