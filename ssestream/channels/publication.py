"""A stored event on its way to many streams, and the control frames that no client sees."""

from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from ..brokers.broker import CONTROL, Entry, Position, Slice
from ..printable import escape
from ..proxies import behind
from ..runtime.clock import clock
from ..runtime.loop import logger
from ..wire import Decoder, is_frame, with_id
from .ids import format_id

#: The most bytes of a small message. A stream asks its writer to wait for ``"drain"`` long before
#: small messages fill the bytes that may wait.
SMALL = 16 * 1024

#: Control frames: end every stream of the channel, or each stream with the key that follows.
CLOSE = CONTROL + b"close"
CUT = CONTROL + b"cut "
#: Replaces a frame that is not a message.
UNREADABLE = CONTROL + b"unreadable"


class Publication:
    """An entry of a log on its way to many streams, with the forms that the streams share."""

    __slots__ = (
        "_message",
        "_single",
        "came_at",
        "frame",
        "is_control",
        "is_small",
        "number",
        "position",
    )

    def __init__(self, log: str, entry: Entry) -> None:
        self.number, self.frame, check = entry
        self.position = Position(log, self.number, check)
        frame = self.frame
        self.is_control = frame.startswith(CONTROL)
        if not self.is_control and not is_frame(frame):
            _tell_of_unreadable(log, self.number)
            # The entry keeps its number, and no stream gets it.
            self.is_control, self.frame = True, UNREADABLE
        self.is_small = len(frame) <= SMALL
        self.came_at = clock.now()
        self._single: bytes | None = None
        self._message: dict[str, str | int] | None = None

    def single(self, name: str) -> bytes:
        """The frame with its id, for streams that follow only this channel: their ids are equal."""
        if self._single is None:
            self._single = with_id(self.frame, format_id({name: self.position}).encode())
        return self._single

    def message(self) -> dict[str, str | int]:
        """The message as a browser would see it, without the id, which depends on the stream."""
        if self._message is None:
            (self._message,) = Decoder().feed(self.frame)
        return dict(self._message)


# Logs for which the error was logged, so that each is logged once. The bound limits memory.
_told: deque[str] = deque(maxlen=100)


def _tell_of_unreadable(log: str, number: int) -> None:
    if log not in _told:
        _told.append(log)
        logger.error(
            "channels: entry %d of the log %s is not a message, and is left out: the log is"
            " damaged, or another program has written to the log",
            number,
            escape(log),
        )


def publications_of(piece: Slice) -> list[Publication]:
    return [Publication(piece.log, entry) for entry in piece.entries]


class Batch(NamedTuple):
    """Several publications without a gap between them, in one piece of bytes for one write."""

    #: The position before the first publication.
    before: Position
    #: The position after the last publication.
    after: Position
    #: The frames with their ids, for streams that follow only this channel.
    frames: bytes
    #: The number of messages in *frames*.
    messages: int


def batches_of(name: str, before: Position, publications: list[Publication]) -> list[Batch]:
    """Join all *publications* into batches of about `SMALL` bytes, after the position *before*.

    Returns an empty list if any publication is a control frame, is not small, or cannot get an
    id. Then each stream must handle the publications one by one.
    """
    batches: list[Batch] = []
    frames: list[bytes] = []
    length = 0
    for number, publication in enumerate(publications, 1):
        if publication.is_control or not publication.is_small:
            return []
        try:
            frames.append(publication.single(name))
        except ValueError:  # the frame cannot get an id
            return []
        length += len(frames[-1])
        if length >= SMALL or number == len(publications):
            batches.append(Batch(before, publication.position, b"".join(frames), len(frames)))
            before, frames, length = publication.position, [], 0
    return batches


def cut_frame(key: Hashable | None) -> bytes | None:
    """The control frame that ends the streams with *key*; None if *key* is None.

    A proxy counts as its value. Raises ``ValueError`` for a key that another process cannot
    recognise: a proxy outside of its request, a key with a failing ``repr()``, or a key with its
    address in memory in its ``repr()``.
    """
    try:
        key = behind(key)
        text = repr(key)
    except Exception as error:
        raise ValueError(f"key must have a repr(), which fails here: {error!r}") from error
    if _is_told_by_place(key):
        raise ValueError(
            f"key must have a repr() of its own: {text} contains the address of the object"
        )
    return None if key is None else CUT + text.encode("utf-8", "backslashreplace")


def _is_told_by_place(key: object) -> bool:
    if isinstance(key, tuple):
        return any(map(_is_told_by_place, key))
    return type(key).__repr__ is object.__repr__
