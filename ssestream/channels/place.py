"""Place: a position that several streams may share, so that one write moves all of them."""

from typing import Any

from ..brokers.broker import Position


class Place:
    """Where one or more cursors stand in a log.

    A cursor that acts alone moves by getting another place. Only a group of cursors that are
    sent to together (see ``fanout``) changes the position of its place. A cursor leaves such a
    place before it acts alone.
    """

    __slots__ = ("position",)

    def __init__(self, position: Position | None) -> None:
        #: The position after the last entry that the cursors got or passed over. None means the
        #: end of the log at the time when the broker can next be asked.
        self.position = position

    def leave(self, cursor: Any) -> None:
        """Let *cursor* act alone. Does nothing if it does so already. Thread-safe."""


#: The place of a cursor before its position is known.
NO_PLACE = Place(None)
