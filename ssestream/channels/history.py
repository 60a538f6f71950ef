"""Read back the messages that a log keeps, and find where the last of them begin.

Control frames are no messages. A log may end with thousands of them.
"""

from collections.abc import Iterator

from ..brokers.broker import Broker, Position, Slice
from ..wire import Decoder, is_frame, with_id
from .ids import id_of

#: Entries, and about their bytes, that are read at once.
PAGE, PAGE_BYTES = 256, 1024 * 1024

#: The position after a message, and the frame of the message.
Found = tuple[Position, bytes]


def read_back(broker: Broker, name: str, limit: int | None) -> list[dict[str, str | int]]:
    """The last *limit* messages of the channel *name*, oldest first; with None, all of them."""
    state = broker.read(name, 0, 0, 0)
    pages = list(_last(broker, name, state, state.last if limit is None else limit))
    messages: list[dict[str, str | int]] = []
    for page in reversed(pages):
        for position, frame in page:
            messages += Decoder().feed(with_id(frame, id_of(name, position).encode()))
    return messages


def before_last(
    broker: Broker, name: str, state: Slice, count: int, reads: int | None = None
) -> Position | None:
    """The position before the last *count* messages in the log *state* of the channel *name*.

    It is the end of *state* if there is no message. None if more than *reads* reads of the broker
    are needed to find it; with a *reads* of None, as many are made as are needed.
    """
    position = state.end
    for done, page in enumerate(_last(broker, name, state, count), 1):
        if page:
            position = Position(state.log, page[0][0].number - 1)
            count -= len(page)
        if count and done == reads:
            return None
    return position


def _last(broker: Broker, name: str, state: Slice, count: int) -> Iterator[list[Found]]:
    """The last *count* messages in the log *state*: the newest page first, each oldest first.

    Yields after each read of the broker: an empty page if the page is not complete yet. The first
    page has the last *count* entries, and each other page twice as many as the page after it, but
    not more than `PAGE`.
    """
    after, step = state.last, min(count, PAGE)
    while count > 0 and after >= state.first:
        end, after = after, max(state.first - 1, after - step)
        page: list[Found] = []
        read_to = after
        while read_to < end:
            piece = broker.read(name, read_to, min(PAGE, end - read_to), PAGE_BYTES)
            if not piece.entries or piece.log != state.log:  # it was deleted meanwhile
                after = 0
                break
            # If the log was trimmed meanwhile, its first entries may be after *end*.
            page += [
                (Position(piece.log, number, check), frame)
                for number, frame, check in piece.entries
                if number <= end and is_frame(frame)
            ]
            read_to = piece.entries[-1].number
            if read_to < end:
                yield []
        page = page[-count:]
        count -= len(page)
        step = min(step * 2, PAGE)
        yield page
