"""The frames of the calling code: they lead to the server, which a request does not name."""

import sys
from collections.abc import Iterator
from types import FrameType


def callers() -> Iterator[FrameType]:
    """The frame of the function that iterates this, its caller's, and so on to the first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
