"""Messages to bytes and bytes to messages: the event stream format.

The format is that of the WHATWG HTML standard, section 9.2 "Server-sent
events" (https://html.spec.whatwg.org/multipage/server-sent-events.html).
Both halves of the grammar live here so that each tests the other: for every
message that :func:`encode` accepts, a :class:`Decoder` gives back that message
and nothing else.

Where node-ssestream 1.1.0 is right the bytes are the same as its. It differs
here:

1.  A line end in ``event`` or ``id`` adds fields of its own there; here it is
    a `MessageError`. A NUL in ``id``, for which browsers drop the whole field,
    is one too.
2.  A line end in ``comment`` does the same there; here each line becomes a
    comment line.
3.  ``data`` of ``""``, ``0`` and ``False``, ``id`` of ``0`` and ``""``, and
    ``retry`` of ``0`` vanish there; here they are sent. An empty ``event`` or
    ``comment`` means the same as none, there and here.
4.  A number or a boolean as ``data`` throws there; here it is JSON.
5.  A message with nothing in it, an unknown key, or a value of a wrong type
    (``retry: "soon"``) is sent as it happens to print there; here it is a
    `MessageError`. So is a lone surrogate, which there becomes U+FFFD or an
    escape.
6.  Not-a-number and the infinities become ``null`` there; here they are
    refused.
7.  ``bytes`` are text in UTF-8 here; a Buffer becomes an object with a list of
    numbers there. JSON numbers and the order of keys are Python's: ``1.0``
    stays ``1.0``, and keys that look like integers do not come first.
8.  ``Transfer-Encoding: identity`` and ``Connection: keep-alive``, which it
    sets, are hop-by-hop headers, which PEP 3333 forbids to an application.
9.  Nothing bounds the buffer there when a client stalls, and a message counts
    as one entry for each of its fields; here one message is one entry.
"""

import codecs
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from .errors import MessageError
from .plain import plain_bytes, plain_int, plain_text

#: Characters of a key that are looked at for what it was meant to be, and shown.
_SHOWN = 40

#: The keys of a message, in the order in which they are put on the wire.
FIELDS = ("comment", "event", "id", "retry", "data")

#: What opens every stream. Some browsers fire ``open`` only when the first
#: bytes have come; the blank line keeps it apart from the first message.
OK = b":ok\n\n"

#: What a silent stream sends: a comment. It has no blank line, as some clients fail on an
#: empty event.
HEARTBEAT = b":\n"

#: The end of a chunked body (RFC 9112, section 7.1).
LAST_CHUNK = b"0\r\n\r\n"

Message = Mapping[str, Any]
Dumps = Callable[[Any], str]

# "end-of-line = ( cr lf / cr / lf )", and nothing else: str.splitlines() would
# also split at U+0085, U+2028, VT, FF and others, which are plain text here.
# "A field name, optionally followed by a colon and a field value."
_ID = re.compile(rb"(?:\A|(?<=[\r\n]))id(?:: ?([^\r\n]*))?(?=[\r\n]|\Z)")

_LINE_END = re.compile("\r\n|\n|\r")

#: JSON without spaces, with text as it is, and without NaN: ``ValueError`` for it.
compact_json: Dumps = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def encode(message: Message, dumps: Dumps | None = None) -> bytes:
    r"""Serialise one message, blank line included.

    *message* is a mapping with any of ``comment``, ``event``, ``id``,
    ``retry`` and ``data``; None means absent. *dumps* turns ``data`` that is
    neither text nor bytes into JSON; None means compact JSON as the standard
    library writes it.

    >>> encode({"event": "tick", "id": 0, "data": "one\ntwo"})
    b'event: tick\nid: 0\ndata: one\ndata: two\n\n'

    Raises `MessageError`, whose ``field`` says where, for whatever could not
    arrive as what it is: an unknown key, a value of a wrong type, a line end
    in ``event`` or ``id``, NUL in ``id``, a negative ``retry``, text with a
    lone surrogate, bytes that are not UTF-8, data that JSON cannot hold, or a
    message with nothing in it.
    """
    if not isinstance(message, Mapping):
        raise MessageError(
            f"a message is a mapping such as {{'data': 'hello'}}, not {_kind(message)}"
        )
    for key in message:
        if key not in FIELDS:
            raise MessageError(_unknown(key), key)
    lines = []
    for field in FIELDS:
        value = message.get(field)
        if value is not None:
            text = _WRITERS[field](value, dumps)
            # A lone surrogate has no UTF-8; found here, its field is known.
            try:
                lines.append(text.encode())
            except UnicodeEncodeError as error:
                raise MessageError(
                    f"{field!r} holds a lone surrogate (U+{ord(text[error.start]):04X}),"
                    " which has no UTF-8",
                    field,
                ) from None
    frame = b"".join(lines)
    if not frame:
        raise MessageError(
            "a message with nothing in it: give at least one of " + ", ".join(FIELDS)
        )
    # "The stream is parsed [...] if the line is empty: dispatch the event."
    return frame + b"\n"


def with_id(frame: bytes, id: bytes) -> bytes:
    """*frame*, as `encode` made it without an id, with one, in its place on the wire."""
    at = 0
    while frame.startswith((b":", b"event:"), at):
        at = frame.index(b"\n", at) + 1
    return frame[:at] + b"id: " + id + b"\n" + frame[at:]


def is_frame(frame: bytes) -> bool:
    """Whether *frame* can be what `encode` made of a message without an id.

    A log may hold others: it was damaged, or somebody else has written to it. Such a one
    would become part of the next event, or change a client's id.
    """
    if not frame.startswith(_FIELDS) or not frame.endswith(b"\n\n") or b"\r" in frame:
        return False
    if frame.find(b"\n\n") != len(frame) - 2 or b"\nid:" in frame:
        return False
    try:
        return frame.isascii() or bool(frame.decode())
    except UnicodeDecodeError:
        return False


_FIELDS = (b"data:", b"event:", b":", b"retry:")


def retry_block(milliseconds: int) -> bytes:
    """A block with only a ``retry``: a browser waits so long before it reconnects."""
    return b"retry: %d\n\n" % milliseconds


def chunk_of(data: bytes) -> bytes:
    """*data* as one chunk of a chunked body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def id_block(id: str) -> bytes:
    """A block with nothing but an id, which a browser keeps without firing an event.

    "If the data buffer is an empty string, set the data buffer and the event type buffer
    to the empty string and return", but the last event ID is set before that (WHATWG
    section 9.2.6).
    """
    return f"id: {id}\n\n".encode()


def is_id_block(frame: bytes) -> bool:
    """Whether *frame* is what `id_block` makes."""
    return frame.startswith(b"id: ") and frame.find(b"\n") == len(frame) - 2


def first_id_block(frames: Iterable[bytes | memoryview]) -> bytes:
    """The first of *frames* that is what `id_block` makes, or no bytes."""
    return next((bytes(frame) for frame in frames if is_id_block(bytes(frame[:8192]))), b"")


def id_of(frame: bytes) -> str | None:
    """The id that *frame* gives a browser; None where there is no ``id`` in it."""
    ids = _ID.findall(frame)
    return ids[-1].decode("utf-8", "replace") if ids else None


def _comment(value: object, dumps: Dumps | None) -> str:
    # "If the line starts with a U+003A COLON character: ignore the line."
    text = _text(value, "comment")
    if not text:
        return ""
    return "".join(f": {line}\n" for line in _LINE_END.split(text))


def _event(value: object, dumps: Dumps | None) -> str:
    # "If the field name is "event": set the event type buffer to the field
    # value." Empty means "message", as no field at all does.
    text = _text(value, "event")
    _refuse(text, "\r\n", "event")
    return f"event: {text}\n" if text else ""


def _id(value: object, dumps: Dumps | None) -> str:
    # "If the field value does not contain U+0000 NULL, then set the last event
    # ID buffer to the field value. Otherwise, ignore the field."
    if isinstance(value, int) and not isinstance(value, bool):
        return f"id: {_digits(value, 'id')}\n"
    if not isinstance(value, str):
        raise MessageError(f"'id' must be str or int, not {_kind(value)}", "id")
    text = _text(value, "id")
    _refuse(text, "\r\n\0", "id")
    return f"id: {text}\n"


def _retry(value: object, dumps: Dumps | None) -> str:
    # "If the field value consists of only ASCII digits, then interpret the
    # field value as an integer in base ten [milliseconds]. Otherwise, ignore."
    if isinstance(value, timedelta):
        value = value // timedelta(milliseconds=1)
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageError(
            f"'retry' must be int milliseconds or timedelta, not {_kind(value)}", "retry"
        )
    milliseconds = plain_int(value)
    if milliseconds < 0:
        raise MessageError("'retry' must not be negative", "retry")
    return f"retry: {_digits(milliseconds, 'retry')}\n"


def _data(value: object, dumps: Dumps | None) -> str:
    # "If the field name is "data": append the field value to the data buffer,
    # then append a single U+000A LINE FEED": one line each, joined again there.
    if isinstance(value, str):
        text = _text(value, "data")
    elif isinstance(value, (bytes, bytearray, memoryview)):
        try:
            text = plain_bytes(value).decode()
        except UnicodeDecodeError as error:
            raise MessageError(
                f"'data' as bytes must be UTF-8, and is not at byte {error.start}", "data"
            ) from None
        except ValueError as error:
            raise MessageError(f"'data' cannot be read: {error}", "data") from None
    else:
        text = _json(value, dumps)
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


def _json(value: object, dumps: Dumps | None) -> str:
    try:
        text = (dumps or compact_json)(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"'data' cannot be JSON: {error}", "data") from error
    if not isinstance(text, str):
        raise MessageError(
            f"'data' as JSON must be str, and the app's JSON provider gave {_kind(text)}", "data"
        )
    return plain_text(text)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{field!r} must be str, not {_kind(value)}", field)
    # A subclass may print as something else (an Enum) or escape what is joined
    # to it (Markup); what is sent is the plain text.
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


def _unknown(key: object) -> str:
    if not isinstance(key, str):
        return f"the name of a field is str, not {_kind(key)}"
    # Cut first, as the search takes time and memory by the square of the length.
    shown = plain_text(key)[:_SHOWN]
    close = difflib.get_close_matches(shown.lower(), FIELDS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; the fields are " + ", ".join(FIELDS)
    return f"unknown field {shown!r}{hint}"


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


class Decoder:
    """The other half: bytes, cut anywhere, to the messages in them.

    It gives each message as it was written, for tests and tools. Unlike a
    browser it keeps comments, keeps messages without ``data``, and does not
    carry an id over to the next message. A heartbeat (a lone colon) is no
    comment and is dropped.

    >>> decoder = Decoder()
    >>> decoder.feed(b"id: 7\\ndata: o"), decoder.feed(b"ne\\r\\n\\r\\n")
    ([], [{'id': '7', 'data': 'one'}])
    """

    def __init__(self) -> None:
        # "Streams must be decoded using the UTF-8 decode algorithm": errors
        # are replaced, one leading byte order mark is dropped.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False
        self._partial: list[str] = []
        self._fields: dict[str, list[str]] = {}

    def feed(self, data: bytes) -> list[dict[str, str | int]]:
        """Take *data*, return the messages that it completed, oldest first.

        ``retry`` is an int, every other field a str; ``event`` is absent when
        it was empty.
        """
        text = self._utf8.decode(data)
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        # A CR ends its line at once; an LF behind it, even in the next piece,
        # belongs to it.
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
            or (name == "retry" and value.isascii() and value.isdigit() and len(value) <= 4300)
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
