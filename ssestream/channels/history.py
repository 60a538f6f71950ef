"""Read back the messages that a log keeps."""

from ..brokers.broker import Broker, Position
from ..wire import Decoder, is_frame, with_id
from .ids import format_id

#: Entries, and their bytes, that are read at once.
_PAGE, _PAGE_BYTES = 256, 1024 * 1024


def read_back(broker: Broker, name: str, limit: int | None) -> list[dict[str, str | int]]:
    """The last *limit* messages of the channel *name*, oldest first; with None, all of them."""
    where = broker.read(name, 0, 0, 0)
    after, wanted = where.last, where.last if limit is None else limit
    messages: list[dict[str, str | int]] = []
    # Read further back in place of control frames, which are not messages.
    while len(messages) < wanted and after >= where.first:
        end, after = after, max(where.first - 1, after - (wanted - len(messages)))
        messages = _messages(broker, name, after, end) + messages
    return messages


def _messages(broker: Broker, name: str, after: int, end: int) -> list[dict[str, str | int]]:
    messages: list[dict[str, str | int]] = []
    while after < end:
        piece = broker.read(name, after, min(_PAGE, end - after), _PAGE_BYTES)
        if not piece.entries:
            break
        for number, frame, token in piece.entries:
            # The log may have been trimmed meanwhile, and then begins after *end*.
            if number <= end and is_frame(frame):
                event_id = format_id({name: Position(piece.log, number, token)})
                messages += Decoder().feed(with_id(frame, event_id.encode()))
        after = piece.entries[-1].number
    return messages
