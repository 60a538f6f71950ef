"""Read back the messages that a log keeps."""

from ..brokers.broker import Broker, Position
from ..wire import Decoder, is_frame, with_id
from .ids import id_of

#: Entries, and their bytes, that are read at once.
_PAGE, _PAGE_BYTES = 256, 1024 * 1024


def read_back(broker: Broker, name: str, limit: int | None) -> list[dict[str, str | int]]:
    """The last *limit* messages of the channel *name*, oldest first; with None, all of them."""
    state = broker.read(name, 0, 0, 0)
    after, wanted = state.last, state.last if limit is None else limit
    messages: list[dict[str, str | int]] = []
    # A page may have control frames, which are not messages. Then read further back.
    while len(messages) < wanted and after >= state.first:
        end, after = after, max(state.first - 1, after - (wanted - len(messages)))
        messages = _messages(broker, name, after, end) + messages
    return messages


def _messages(broker: Broker, name: str, after: int, end: int) -> list[dict[str, str | int]]:
    messages: list[dict[str, str | int]] = []
    while after < end:
        piece = broker.read(name, after, min(_PAGE, end - after), _PAGE_BYTES)
        if not piece.entries:
            break
        for number, frame, check in piece.entries:
            # If the log was trimmed meanwhile, its first entries may be after *end*.
            if number <= end and is_frame(frame):
                event_id = id_of(name, Position(piece.log, number, check))
                messages += Decoder().feed(with_id(frame, event_id.encode()))
        after = piece.entries[-1].number
    return messages
