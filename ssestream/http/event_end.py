"""Where bytes of an event stream stop: between two events, or within one.

A comment or a block of this package may only go where it cannot damage an app's event (WHATWG
HTML, section 9.2.6).
"""

import re

from ..wire import id_of, own_blocks

#: Between two events; after a complete line of an event; in the middle of a line.
BETWEEN, IN_EVENT, IN_LINE = range(3)

_LINE_ENDS = re.compile(rb"[\r\n]+")


def end_of(frame: bytes, before: int) -> int:
    """Where *frame* stops, such as `IN_LINE`, if the bytes before it stopped at *before*."""
    # A single CR may be half of a line end; two are almost never that.
    if frame.endswith((b"\n\n", b"\n\r\n", b"\r\r")):
        return BETWEEN
    if frame in (b"\n", b"\r\n") and before != IN_LINE:
        return BETWEEN
    return IN_EVENT if frame.endswith(b"\n") else IN_LINE


class Half:
    """An event that an app has begun and not ended.

    Blocks of this package wait here for its end. *end* is where its bytes stop.
    """

    __slots__ = ("_end", "blocks")

    def __init__(self, end: int) -> None:
        self._end = end
        #: The blocks that wait, in order.
        self.blocks: list[bytes] = []

    @property
    def in_line(self) -> bool:
        """Whether a line has begun and not ended."""
        return self._end == IN_LINE

    def hold(self, block: bytes) -> None:
        """Let *block* wait."""
        self.blocks.append(block)

    def hold_first(self, frames: bytes) -> bytes:
        """Let the blocks at the beginning of *frames* wait. Returns the rest of *frames*."""
        blocks = own_blocks(frames)
        if blocks:
            self.hold(blocks)
        return frames[len(blocks) :]

    def is_ended_by(self, frame: bytes) -> bool:
        """Note that *frame* goes on with the event. Returns whether the event ends with it."""
        self._end = end_of(frame, self._end)
        return self._end == BETWEEN

    def blocks_after(self, frame: bytes) -> bytes:
        """The blocks to send after *frame*, with which the event ends."""
        # An event of a channel that came into this event has a newer id than the blocks.
        return b"" if id_of(frame) is not None else b"".join(self.blocks)

    def last_lines(self) -> bytes:
        """The lines to send last, if the event never ends.

        A blank line would complete the event, and a browser would take the half for the whole.
        Without one, a browser obeys ``retry`` and drops the event with all other lines.
        """
        lines = _LINE_ENDS.sub(b"\n", b"".join(self.blocks))
        return b"\n" + lines if lines and self.in_line else lines
