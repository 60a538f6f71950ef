"""The event stream format: messages to bytes (`encode`) and bytes to messages (`Decoder`).

The format is in the WHATWG HTML standard, section 9.2 "Server-sent events"
(https://html.spec.whatwg.org/multipage/server-sent-events.html). Both directions are in
this file, so that each tests the other: for every message that :func:`encode` accepts, a
:class:`Decoder` gives back this message and nothing else.

Where node-ssestream 1.1.0 is right, the bytes are the same. Nine points are different
("there" is node-ssestream, "here" is this package):

1.  A line end in ``event`` or ``id`` adds fields there. Here it is a `MessageError`, and
    so is a NUL in ``id``, because browsers would ignore the whole field.
2.  A line end in ``comment`` adds fields there. Here each line becomes a comment line.
3.  ``data`` of ``""``, ``0`` and ``False``, ``id`` of ``0`` and ``""``, and ``retry`` of
    ``0`` are lost there. Here they are sent. An empty ``event`` or ``comment`` means the
    same as none, there and here.
4.  A number or a boolean as ``data`` throws there. Here it is sent as JSON.
5.  An empty message, an unknown key, or a value of a wrong type (``retry: "soon"``) is
    sent there in some form. Here it is a `MessageError`. So is a lone surrogate, which
    becomes U+FFFD or an escape there.
6.  NaN and the infinities become ``null`` there. Here they are a `MessageError`.
7.  A Buffer becomes an object with a list of numbers there. Here ``bytes`` are text in
    UTF-8. JSON's numbers and the order of keys are Python's: ``1.0`` stays ``1.0``, and
    keys that look like integers do not come first.
8.  The headers ``Transfer-Encoding: identity`` and ``Connection: keep-alive`` are set
    there. Here they are not: PEP 3333 forbids hop-by-hop headers to an application.
9.  The buffer for a stalled client has no bound there, and a message takes one entry for
    each of its fields. Here it has bounds, and a message is one entry.
"""

import codecs
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from .compact_json import compact_json, json_text
from .errors import MessageError
from .plain import plain_bytes, plain_int, plain_text
from .runtime.callables import kind_of

#: The most digits of a ``retry`` that is text. Python refuses to read a longer number.
MOST_DIGITS = 4300

#: Characters of a wrong key or value that an error shows, and that are compared with the fields.
_SHOWN = 40

#: The keys of a message, in the order of the wire.
FIELDS = ("comment", "event", "id", "retry", "data")

# The fields of the most common messages.
_DATA_ALONE: tuple[str, ...] = ("data",)

#: The opening comment of every stream. Some browsers fire ``open`` only when the first bytes
#: have come. The blank line separates it from the first message.
OK = b":ok\n\n"

#: The comment that a silent stream sends. It has no blank line, because some clients fail on an
#: empty event.
HEARTBEAT = b":\n"

#: The headers of every stream. ``no-transform`` stops compressing middleware and proxies from
#: buffering; ``X-Accel-Buffering`` stops nginx. None of the headers is hop-by-hop, because PEP
#: 3333 forbids these.
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

#: The end of a chunked body (RFC 9112, section 7.1).
LAST_CHUNK = b"0\r\n\r\n"

Message = Mapping[str, Any]

#: A function that turns a value into JSON: text, or bytes of UTF-8.
Dumps = Callable[[Any], str | bytes]

# "A field name, optionally followed by a colon and a field value."
_ID = re.compile(rb"(?:\A|(?<=[\r\n]))id(?:: ?([^\r\n]*))?(?=[\r\n]|\Z)")

_OWN_BLOCKS = re.compile(rb"(?:id: [^\n]*\n\n|event: ssestream-retry\nretry: \d+\n\n)+")

# "end-of-line = ( cr lf / cr / lf )", and nothing else. str.splitlines() would also split
# at U+0085, U+2028, VT, FF and others, but these are plain text here.
_LINE_END = re.compile("\r\n|\n|\r")


def encode(message: Message, dumps: Dumps | None = None) -> bytes:
    r"""Serialise one message, with the blank line at its end.

    *message* is a mapping with any of the keys ``comment``, ``event``, ``id``, ``retry``
    and ``data``; None as a value means absent. *dumps* turns ``data`` into JSON, as str or as
    bytes, if it is neither text nor bytes; None means compact JSON as Flask's own
    provider writes it.

    >>> encode({"event": "tick", "id": 0, "data": "one\ntwo"})
    b'event: tick\nid: 0\ndata: one\ndata: two\n\n'

    Raises `MessageError`, with the key in its ``field``, for every message that could not
    arrive unchanged. The causes are: an unknown key, a value of a wrong type, a line end in
    ``event`` or ``id``, NUL in ``id``, a negative ``retry``, text with a lone surrogate,
    bytes that are not UTF-8, data that JSON cannot hold, or a message with no field.
    """
    # The most common message first.
    if type(message) is dict and len(message) == 1 and message.get("data") is not None:
        fields, texts = _DATA_ALONE, [_data(message["data"], dumps)]
    else:
        fields, texts = FIELDS, _texts(message, dumps)
    try:
        # "The stream is parsed [...] if the line is empty: dispatch the event."
        return ("".join(texts) + "\n").encode()
    except UnicodeEncodeError:
        _check_all_encodable(fields, texts)
        raise


def _texts(message: Message, dumps: Dumps | None) -> list[str]:
    """One text for each of the `FIELDS`: its lines on the wire, or no text if it is absent."""
    if not isinstance(message, Mapping):
        raise MessageError(
            f"a message is a mapping such as {{'data': 'hello'}}, not {kind_of(message)}"
        )
    for key in message:
        if key not in FIELDS:
            raise MessageError(_unknown(key), key)
    texts: list[str] = []
    try:
        for field in FIELDS:
            value = message.get(field)
            texts.append("" if value is None else _WRITERS[field](value, dumps))
    except MessageError:
        # Name the first wrong field. It may be an earlier one, with a lone surrogate.
        _check_all_encodable(FIELDS, texts)
        raise
    if not any(texts):
        raise MessageError(
            "a message with nothing in it: give at least one of " + ", ".join(FIELDS)
        )
    return texts


def with_id(frame: bytes, id: bytes) -> bytes:
    """*frame* with *id* in its place on the wire. `encode` made *frame* without an id."""
    at = 0
    while frame.startswith((b":", b"event:"), at):
        at = frame.index(b"\n", at) + 1
    return frame[:at] + b"id: " + id + b"\n" + frame[at:]


def is_frame(frame: bytes) -> bool:
    """Whether `encode` could have made *frame* from a message without an id.

    A frame in a log may be damaged, or another program may have written it. A wrong frame
    could become part of the next event, or could change the client's id.
    """
    if not frame.startswith(_BEGINNINGS) or not frame.endswith(b"\n\n") or b"\r" in frame:
        return False
    # A line without a colon is a field without a value.
    if frame.find(b"\n\n") != len(frame) - 2 or b"\nid:" in frame or b"\nid\n" in frame:
        return False
    try:
        return frame.isascii() or bool(frame.decode())
    except UnicodeDecodeError:
        return False


#: The beginnings of all frames without an id.
_BEGINNINGS = (b"data:", b"event:", b":", b"retry:")


def retry_block(milliseconds: int) -> bytes:
    """A block with only a ``retry``: how long a browser waits before it reconnects."""
    return b"retry: %d\n\n" % milliseconds


def come_back_block(milliseconds: int) -> bytes:
    """The last block of a stream: it tells the client when to come back.

    Some clients take a ``retry`` only with an ``event``. No browser fires this event: no ``data``.
    """
    return b"event: ssestream-retry\nretry: %d\n\n" % milliseconds


def chunk_of(data: bytes) -> bytes:
    """*data* as one chunk of a chunked body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def id_block(id: str) -> bytes:
    """A block with only an id. A browser keeps the id, and fires no event without ``data``."""
    return f"id: {id}\n\n".encode()


def own_blocks(frames: bytes) -> bytes:
    """The blocks at the beginning of *frames* that are this package's own, and no messages."""
    return found[0] if (found := _OWN_BLOCKS.match(frames)) else b""


def id_of(frame: bytes) -> str | None:
    """The id that *frame* gives a browser; None if it has no ``id`` field."""
    ids = _ID.findall(frame)
    return ids[-1].decode("utf-8", "replace") if ids else None


def _comment(value: object, dumps: Dumps | None) -> str:
    # "If the line starts with a U+003A COLON character: ignore the line."
    text = _text(value, "comment")
    if not text:
        return ""
    return "".join(f": {line}\n" for line in _LINE_END.split(text))


def _event(value: object, dumps: Dumps | None) -> str:
    # "If the field name is "event": set the event type buffer to the field value." An empty
    # value means "message", the same as no field.
    text = _text(value, "event")
    _refuse(text, "\r\n", "event")
    return f"event: {text}\n" if text else ""


def _id(value: object, dumps: Dumps | None) -> str:
    # "If the field value does not contain U+0000 NULL, then set the last event
    # ID buffer to the field value. Otherwise, ignore the field."
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"id: {_digits(value, 'id')}\n"
    if not isinstance(value, str):
        raise MessageError(f"'id' must be str or int, not {kind_of(value)}", "id")
    text = _text(value, "id")
    _refuse(text, "\r\n\0", "id")
    return f"id: {text}\n"


def _retry(value: object, dumps: Dumps | None) -> str:
    # "If the field value consists of only ASCII digits, then interpret the
    # field value as an integer in base ten [milliseconds]. Otherwise, ignore."
    if isinstance(value, timedelta):
        value = value // timedelta(milliseconds=1)
    elif isinstance(value, str):
        digits = plain_text(value)
        if not is_retry(digits):
            raise MessageError(f"'retry' as str must be digits, not {digits[:_SHOWN]!r}", "retry")
        # Digit for digit, as Node sends it: zeros at the beginning stay.
        return f"retry: {digits}\n"
    value = _whole(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageError(
            f"'retry' must be int milliseconds or timedelta, not {kind_of(value)}", "retry"
        )
    milliseconds = plain_int(value)
    if milliseconds < 0:
        raise MessageError("'retry' must not be negative", "retry")
    return f"retry: {_digits(milliseconds, 'retry')}\n"


def is_retry(text: str) -> bool:
    """Whether *text* is a valid value of ``retry`` on the wire."""
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS


def _whole(value: object) -> object:
    """*value*, or an int if it is a float without a fraction: JavaScript's numbers are floats."""
    # From 1e21 on, JavaScript prints an exponent.
    if issubclass(type(value), float):
        number = float(value)  # type: ignore[arg-type]
        if number.is_integer() and abs(number) < 1e21:
            return int(number)
    return value


def _data(value: object, dumps: Dumps | None) -> str:
    # "If the field name is "data": append the field value to the data buffer, then append a
    # single U+000A LINE FEED". So each line is a field, and the browser joins them.
    # The most common classes first.
    kind = type(value)
    if kind is str:
        text: str = value  # type: ignore[assignment]
    elif kind is not dict and kind is not list and isinstance(value, _TEXT):
        text = _text(value, "data") if isinstance(value, str) else _decoded(value)
    else:
        try:
            written = (dumps or compact_json)(value)
            text = written if type(written) is str else json_text(written)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise MessageError(f"'data' cannot be JSON: {error}", "data") from error
    if "\n" in text or "\r" in text:
        return "".join(f"data: {line}\n" for line in _LINE_END.split(text))
    return f"data: {text}\n"


_WRITERS: dict[str, Callable[[object, Dumps | None], str]] = {
    "comment": _comment,
    "event": _event,
    "id": _id,
    "retry": _retry,
    "data": _data,
}


# The classes of data that is text.
_TEXT = (str, bytes, bytearray, memoryview)


def _decoded(value: object) -> str:
    """The text of *value*, bytes of UTF-8."""
    try:
        return plain_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise MessageError(
            f"'data' as bytes must be UTF-8, and byte {error.start} is not", "data"
        ) from None
    except ValueError as error:
        raise MessageError(f"'data' cannot be read: {error}", "data") from None


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{field!r} must be str, not {kind_of(value)}", field)
    # The plain text is sent. A subclass may print as other text (an Enum), or may escape text
    # that is joined to it (Markup).
    return plain_text(value)


def _digits(value: int, field: str) -> str:
    try:
        return str(plain_int(value))
    except ValueError as error:  # Python's own bound on the digits of an int
        raise MessageError(f"{field!r} is too large: {error}", field) from None


def _refuse(text: str, characters: str, field: str) -> None:
    for character in characters:
        if character in text:
            name = {"\r": "a carriage return", "\n": "a line feed", "\0": "NUL"}[character]
            raise MessageError(f"{field!r} must not hold {name}: {text[:_SHOWN]!r}", field)


def _check_all_encodable(fields: Iterable[str], texts: Iterable[str]) -> None:
    """Raise for the first of *fields* whose text in *texts* has a lone surrogate."""
    for field, text in zip(fields, texts, strict=False):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MessageError(
                f"{field!r} holds a lone surrogate (U+{ord(text[error.start]):04X}),"
                " which UTF-8 cannot encode",
                field,
            ) from None


def _unknown(key: object) -> str:
    if not isinstance(key, str):
        return f"the name of a field is str, not {kind_of(key)}"
    # Cut the key first: the search takes time and memory by the square of its length.
    shown = plain_text(key)[:_SHOWN]
    close = difflib.get_close_matches(shown.lower(), FIELDS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; the fields are " + ", ".join(FIELDS)
    return f"unknown field {shown!r}{hint}"


class Decoder:
    """The reverse of `encode`: pieces of bytes in, messages out.

    For tests and tools: it gives each message as it was written. Unlike a browser, it keeps
    comments and messages without ``data``, and does not carry an id over to the next
    message. A heartbeat (a single colon) is counted and dropped.

    >>> decoder = Decoder()
    >>> decoder.feed(b"id: 7\\ndata: o"), decoder.feed(b"ne\\r\\n\\r\\n")
    ([], [{'id': '7', 'data': 'one'}])
    """

    def __init__(self) -> None:
        # "Streams must be decoded using the UTF-8 decode algorithm": it replaces errors and
        # drops one byte order mark at the start.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False
        # What has not ended yet: the parts of a line, and the fields of a message.
        self._partial: list[str] = []
        self._fields: dict[str, list[str]] = {}
        #: The number of heartbeats so far.
        self.heartbeats = 0

    def feed(self, data: bytes) -> list[dict[str, str | int]]:
        """Take *data*, and return the messages that are complete now, oldest first.

        The value of ``retry`` is an int; every other value is a str. An empty ``event`` is
        left out.
        """
        text = self._utf8.decode(data)
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        # A CR ends its line at once. An LF after it belongs to the same line end, even if it
        # comes in the next piece.
        if text and self._after_cr:
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r") or (self._after_cr and not text)
        *lines, rest = _LINE_END.split(text)
        messages = []
        for line in lines:
            self._partial.append(line)
            message = self._line("".join(self._partial))
            self._partial.clear()
            if message:
                messages.append(message)
        if rest:
            self._partial.append(rest)
        return messages

    def _line(self, line: str) -> dict[str, str | int] | None:
        if not line:
            return self._dispatch()
        if line == ":":
            self.heartbeats += 1
            return None
        if line.startswith(":"):
            self._fields.setdefault("comment", []).append(line[1:].removeprefix(" "))
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._fields.setdefault(name, []).append(value)
        elif (
            name == "event"
            or (name == "id" and "\0" not in value)
            or (name == "retry" and is_retry(value))
        ):
            self._fields[name] = [value]
        return None

    def _dispatch(self) -> dict[str, str | int] | None:
        fields, self._fields = self._fields, {}
        message: dict[str, str | int] = {}
        for field in FIELDS:
            if field in fields:
                value = "\n".join(fields[field])
                if field == "retry":
                    message[field] = int(value)
                elif value or field != "event":
                    message[field] = value
        return message or None
