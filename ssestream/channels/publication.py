"""A stored event on its way to many streams, and the control frames that no client sees."""

import re
from collections import deque
from collections.abc import Hashable, Sequence

from ..brokers.broker import CONTROL, END, Entry, Position, Slice
from ..plain import SHOWN, unproxied
from ..printable import escape
from ..runtime.clock import clock
from ..runtime.loop import logger
from ..settings import Settings
from ..wire import Decoder, chunk_of, is_frame, with_id
from .ids import id_of
from .place import Place

#: The most bytes of a small message. A stream asks its writer to wait for ``"drain"`` long before
#: small messages fill the bytes that may wait.
SMALL = 16 * 1024

#: Control frames: end every stream of the channel, or each stream with the key that follows.
CLOSE = CONTROL + b"close"
CUT = CONTROL + b"cut "
#: Replaces a frame that is not a message.
UNREADABLE = CONTROL + b"unreadable"

#: The parts of a ``repr()`` that are not the same in every process, and the quoted parts.
_DIFFERS = re.compile(r" at 0x[0-9A-Fa-f]|\bfrozenset\(\{")
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


class Publication:
    """An entry of a log on its way to many streams, with the forms that the streams share."""

    __slots__ = (
        "_message",
        "_single",
        "came_at",
        "frame",
        "is_control",
        "is_end",
        "is_small",
        "number",
        "place",
        "position",
    )

    def __init__(self, log: str, entry: Entry) -> None:
        self.number, self.frame, check = entry
        self.position = Position(log, self.number, check)
        #: The place of each cursor that has just got this entry.
        self.place = Place(self.position)
        frame = self.frame
        self.is_control = frame.startswith(CONTROL)
        if not self.is_control and not is_frame(frame):
            _log_unreadable(log, self.number)
            # The entry keeps its number, and no stream gets it.
            self.is_control, self.frame = True, UNREADABLE
        #: Whether the log ends here.
        self.is_end = frame.startswith(END)
        self.is_small = len(frame) <= SMALL
        self.came_at = clock.now()
        self._single: bytes | None = None
        self._message: dict[str, str | int] | None = None

    def single(self, name: str) -> bytes:
        """The frame with its id, for streams that follow only this channel: their ids are equal."""
        if self._single is None:
            self._single = with_id(self.frame, id_of(name, self.position).encode())
        return self._single

    def message(self) -> dict[str, str | int]:
        """The message as a browser would see it, without the id, which depends on the stream."""
        if self._message is None:
            (self._message,) = Decoder().feed(self.frame)
        return dict(self._message)


# The last logs for which the error was logged, so that it is logged once for each.
_logged: deque[str] = deque(maxlen=100)


def _log_unreadable(log: str, number: int) -> None:
    if log not in _logged:
        _logged.append(log)
        logger.error(
            "channels: entry %d of the log %s is not a message, and is left out: the log is"
            " damaged, or another program has written to the log",
            number,
            escape(log),
        )


def publications_of(piece: Slice) -> list[Publication]:
    return [Publication(piece.log, entry) for entry in piece.entries]


def passed(
    at: Position, before: Position, publications: Sequence[Publication], last: int
) -> int | None:
    """How many of *publications* a stream at the position *at* has passed already.

    The *publications* have no gap between them, and follow the position *before*. *last* is the
    number of the newest entry that *at* may be after: a position beyond it is in a log that lost
    its newest entries. None if an entry between *at* and *publications* may be missing, or if *at*
    is after an entry with another check than the entry at that number here.
    """
    if at.log == "" and before.number == 0:  # the log has just got its first entry
        return 0
    count = at.number - before.number
    if at.log != before.log or count < 0 or at.number > last:
        return None
    if count <= len(publications):
        known = publications[count - 1].position if count else before
        if known.check and at.check and known.check != at.check:
            return None
    return count


def frames_of(name: str, publications: Sequence[Publication], settings: Settings) -> list[bytes]:
    """The frames, with their ids, of the first *publications* that are small messages.

    The ids are those of streams that follow only the channel *name*. There are not more frames than
    half of the bounds in *settings* has room for.
    """
    frames: list[bytes] = []
    room = settings.max_bytes // 2
    for publication in publications[: settings.max_messages // 2 + 1]:
        if publication.is_control or not publication.is_small or room < len(publication.frame):
            break
        frames.append(publication.single(name))
        room -= len(publication.frame)
    return frames


class Batch:
    """Several publications without a gap between them, in one piece of bytes for one write."""

    __slots__ = ("_chunk", "after", "before", "frames", "messages", "place")

    def __init__(self, before: Position, last: Publication, frames: list[bytes]) -> None:
        #: The position before the first publication.
        self.before = before
        #: The position after the last publication.
        self.after = last.position
        #: The place of each cursor that has got this batch alone.
        self.place = last.place
        #: The frames with their ids, for streams that follow only this channel.
        self.frames = b"".join(frames)
        #: The number of messages in *frames*.
        self.messages = len(frames)
        self._chunk: bytes | None = None

    def chunk(self) -> bytes:
        """*frames* as one chunk of a chunked body, made once for all sockets that it is sent to."""
        if self._chunk is None:
            self._chunk = chunk_of(self.frames)
        return self._chunk


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
            batches.append(Batch(before, publication, frames))
            before, frames, length = publication.position, [], 0
    return batches


class News:
    """The entries that the listener has read for one channel, on their way to the live cursors."""

    __slots__ = (
        "batches",
        "before",
        "closes",
        "cuts",
        "has_lost_end",
        "may_miss_cut",
        "piece",
        "publications",
    )

    def __init__(self, name: str, piece: Slice, here: Position | None) -> None:
        """*here* is the position of the listener before it read *piece* of the channel *name*."""
        self.piece = piece
        self.publications = publications_of(piece)
        missed = here is not None and piece.misses(here)
        number = self.publications[0].number - 1 if self.publications else piece.last
        #: The position before the first of *publications*.
        self.before = Position(piece.log, number)
        if here is not None and here[:2] == self.before[:2] and not missed:
            # The same object as in most cursors, which makes a comparison fast.
            self.before = here
        self.batches = batches_of(name, self.before, self.publications)
        #: The control frames that take away the access of one key.
        self.cuts = [each for each in self.publications if each.frame.startswith(CUT)]
        #: The publications that end all streams.
        self.closes = [each for each in self.publications if each.frame == CLOSE]
        #: Whether entries are lost, and one of them may take away a stream's access.
        self.may_miss_cut = here is not None and here.log == piece.log and missed
        #: Whether the log has lost its newest entries. A cursor may have read more than the
        #: listener, and then be beyond *piece* without a loss. Only in another past of the log
        #: has such a cursor missed entries.
        self.has_lost_end = here is not None and piece.has_other_past(here)

    @property
    def end(self) -> Position:
        """The position after the last of *publications*; without any, the end of the log."""
        return self.publications[-1].position if self.publications else self.piece.end

    def continues(self, at: Position | None) -> bool:
        """Whether no entry is missing between the position *at* and *publications*."""
        if at is None or self.has_lost_end:
            return False
        return passed(at, self.before, self.publications, self.piece.last) is not None

    def ends_before(self, at: Position | None) -> bool:
        """Whether *at* is beyond the end of the log, which has lost its newest entries."""
        piece = self.piece
        return (
            at is not None and self.has_lost_end and at.log == piece.log and at.number > piece.last
        )


def cut_frame(key: Hashable | None) -> bytes | None:
    """The control frame that ends the streams with *key*; None if *key* is None.

    A proxy counts as its value. Raises ``ValueError`` for a proxy outside of its request and for a
    key with a failing ``repr()``. Raises ``TypeError`` for a key with another ``repr()`` in another
    process: one that shows an address in memory, or a set, which has no order.
    """
    try:
        key = unproxied(key)
        text = repr(key)
    except Exception as error:
        raise ValueError(f"key must have a repr(), which fails here: {error!r}") from error
    if _differs(key):
        raise TypeError(
            "key must have the same repr() in every process, so it is an id, such as a str or an"
            f" int: {text[:SHOWN]} shows an address in memory or a set"
        )
    return None if key is None else CUT + text.encode("utf-8", "backslashreplace")


def _differs(key: object) -> bool:
    """Whether ``repr(key)`` shows an address in memory or a set."""
    if isinstance(key, tuple) and any(map(_differs, key)):
        return True
    text = repr(key)
    # Mocks and new objects of SQLAlchemy show their address as a decimal number.
    if f"{id(key)}" in text or f"{id(key):x}" in text.lower():
        return True
    # Text in the key may read like an address.
    return _DIFFERS.search(text) is not None and _DIFFERS.search(_QUOTED.sub("", text)) is not None
