"""Items of a source that are event-stream text, as messages.

The encoders of agent frameworks yield text such as ``"data: {...}\\n\\n"``, whole events or parts
of events. The text is parsed, and its messages are checked as all others are: no byte of it is
passed through.
"""

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

from .errors import MessageError
from .plain import plain_bytes, plain_text
from .runtime.loop import logger
from .runtime.origin import Origin
from .wire import Decoder, Message, is_retry

#: So many parts in a row that complete no message are a turn of their source.
TURN = 16

#: Characters of a wrong or an unfinished text that an error or the log shows.
_SHOWN = 40

#: The types of items that are text.
TEXT = (str, bytes, bytearray, memoryview)

#: The names of fields on the wire. A comment is a line that begins with a colon.
_NAMES = ("data", "event", "id", "retry")

#: Characters that tell whether a line can become a field: the longest name and its colon.
_ENOUGH = 6


class Messages:
    """The messages in the items of one source.

    *most* bounds the bytes of an event of text that has not ended yet.
    """

    __slots__ = ("_most", "_text")

    def __init__(self, most: int) -> None:
        self._most = most
        # Made at the first item that is text.
        self._text: EventText | None = None

    def of(self, item: Any) -> Iterable[Message]:
        """The messages that *item* is or completes.

        Raises `MessageError`, after the messages before it, for text that is no event stream,
        and for a message in the middle of an event of text.
        """
        if isinstance(item, TEXT):
            if self._text is None:
                self._text = EventText(self._most)
            return self._text.take(item)
        if self._text is None:
            return (item,)
        return (*self._text.before_a_message(), item)

    def is_turn_over(self) -> bool:
        """Whether the last `TURN` items have completed no message.

        Nobody has waited for a client then. Whoever draws the items must let others run.
        """
        return self._text is not None and self._text.is_turn_over()

    def rest(self, origin: Origin | None) -> Iterable[Message]:
        """The messages that are left after the last item. Logs an event that has not ended.

        *origin* is the request of the source, for the log.
        """
        return () if self._text is None else self._text.rest(origin)


class EventText(Decoder):
    """A decoder that refuses all text which a browser would ignore or would change.

    It takes parts that are split anywhere, also in a character or between CR and LF.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        self._most = most
        # The bytes of all parts after the one with the last blank line, or with the last heartbeat
        # between two events.
        self._held = 0
        # Parts since the last message.
        self._silent = 0
        self._wrong: MessageError | None = None

    def take(self, part: Any) -> Iterator[Message]:
        """Take *part*, and give the messages that are complete now."""
        data, wrong = _bytes(part)
        self._held += len(data)
        self._silent += 1
        try:
            messages = self.feed(data)
        except UnicodeDecodeError as error:
            self._utf8.reset()
            # The text before the wrong byte is fine.
            messages = self.feed(error.object[: error.start])
            byte = error.object[error.start]
            wrong = MessageError(f"text as bytes must be UTF-8, and the byte {byte:#04x} is not")
        for message in filter(_says_something, messages):
            self._silent = 0
            yield message
        self._look_at_beginning()
        if self._held > self._most:
            self._refuse(
                f"an event of text has no end after {self._held} bytes, and may have max_bytes"
                f" ({self._most}): a blank line ends an event"
            )
        self._wrong = self._wrong or wrong
        if self._wrong is not None:
            raise self._wrong

    def is_turn_over(self) -> bool:
        if self._silent < TURN:
            return False
        self._silent = 0
        return True

    def before_a_message(self) -> list[Message]:
        """The comment that is not followed by a blank line. Raises in the middle of an event."""
        if self._is_pending():
            raise MessageError(
                "a message came in the middle of an event of text, which a blank line has to end"
                f" first: {self._shown()}"
            )
        return self._last_comment()

    def rest(self, origin: Origin | None) -> list[Message]:
        """The comment that is not followed by a blank line. Logs an unfinished event."""
        if not self._is_pending():
            return self._last_comment()
        text = (
            "the source of a pipeline has ended in the middle of an event of text. Like a browser,"
            " ssestream drops the event, as no blank line ends it: %s"
        )
        if origin is None:
            logger.warning(text, self._shown())
        else:
            logger.warning("%s: " + text, origin.text, self._shown(), extra=origin.attributes)
        return []

    def _is_pending(self) -> bool:
        has_fields = bool(self._fields.keys() - {"comment"})
        return has_fields or bool(self._partial) or bool(self._utf8.getstate()[0])

    def _last_comment(self) -> list[Message]:
        message = self._dispatch()
        return [message] if message and _says_something(message) else []

    def _shown(self) -> str:
        whole = [f"{name}: {value[0]}" for name, value in self._fields.items()]
        return repr("\n".join([*whole, "".join(self._partial)])[:_SHOWN])

    def _line(self, line: str) -> dict[str, str | int] | None:
        if self._wrong is not None:
            return None
        name, _, value = line.partition(":")
        if not line or (line == ":" and not self._fields):
            self._held = 0
        elif name and name not in _NAMES:
            self._refuse_line(line)
        elif name == "id" and "\0" in value:
            self._refuse(f"'id' must not hold NUL: {value[:_SHOWN]!r}", "id")
        elif name == "retry" and not is_retry(value.removeprefix(" ")):
            self._refuse(f"'retry' must be digits, not {value[:_SHOWN]!r}", "retry")
        return super()._line(line)

    def _look_at_beginning(self) -> None:
        """Refuse a line that cannot become a field, before its end has come."""
        beginning = "".join(part[:_ENOUGH] for part in self._partial[:_ENOUGH])[:_ENOUGH]
        name, colon, _ = beginning.partition(":")
        if not (name in ("", *_NAMES) if colon else any(n.startswith(name) for n in _NAMES)):
            self._refuse_line("".join(self._partial[:_SHOWN]))

    def _refuse_line(self, line: str) -> None:
        self._refuse(
            "text in a source is an event stream, such as 'data: hello' and a blank line, and"
            f" {line[:_SHOWN]!r} is no field. To send a text, give the message {{'data': text}}"
        )

    def _refuse(self, what: str, field: str | None = None) -> None:
        """Let `take` raise, but only after it has given the messages before the wrong text."""
        self._wrong = self._wrong or MessageError(what, field)


def _bytes(part: Any) -> tuple[bytes, MessageError | None]:
    """The bytes of *part* up to the first that is wrong, and the error for it."""
    if not isinstance(part, str):
        try:
            return plain_bytes(part), None
        except ValueError as error:
            return b"", MessageError(f"a part of text cannot be read: {error}")
    text = plain_text(part)
    try:
        return text.encode(), None
    except UnicodeEncodeError as error:
        what = f"text holds a lone surrogate (U+{ord(text[error.start]):04X})"
        return text[: error.start].encode(), MessageError(what)


def _says_something(message: Message) -> bool:
    # An empty comment, such as the line ": ", is a heartbeat of another program.
    return message != {"comment": ""}
