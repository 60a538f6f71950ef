"""Inlet: one stream that is piped into a response, as far as the response knows it."""

import functools
from collections.abc import Callable, Sequence


class Inlet:
    """The contract of a stream that is piped in.

    Its methods are called at once, and not as handlers of an event, because the
    stream must know before any handler of the app runs.
    """

    __slots__ = ()

    def drained(self) -> None:
        """The response takes writes again."""

    def closed(self) -> None:
        """The response is over."""

    def retired(self, dropping: bool) -> list[bytes]:
        """The response ends. Returns the frames that the stream holds for it.

        *dropping* says that the response will not send them.
        """
        return []

    @property
    def is_writing(self) -> bool:
        """Whether the stream has taken a frame for an app's own ``write()`` of the response.

        Nobody knows whether ``write()`` has written it yet.
        """
        return False

    def after_write(self, function: Callable[[], object]) -> bool:
        """Call *function* as soon as `is_writing` is False. Returns False if it is so now."""
        return False

    @property
    def is_complete(self) -> bool:
        """Whether the response ends as soon as it has what the stream holds for it."""
        return False

    def waiting(self) -> int:
        """Bytes that the stream holds for the response."""
        return 0


def when_written(inlets: Sequence[Inlet], function: Callable[[], object]) -> None:
    """Call *function* when none of *inlets* is writing: now, or as soon as the last has written."""
    again = functools.partial(when_written, inlets, function)
    if not any(inlet.after_write(again) for inlet in inlets):
        function()
