"""The event stream format, in both directions."""

import contextlib
import enum
import json
import math
import re
import time
import tracemalloc
from collections import OrderedDict, defaultdict
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from werkzeug.datastructures import MultiDict
from werkzeug.local import LocalProxy

from ssestream import MessageError
from ssestream.wire import FIELDS, OK, Decoder, encode
from tests.kit.messages import (
    any_bytes,
    any_messages,
    arrival,
    cuts,
    json_values,
    pieces,
    right_messages,
)
from tests.kit.promptness import at_best

# Read in both directions: encode() gives the bytes, and a Decoder gives the
# message back, with ids as text and every line end as LF. Where that differs
# from what was written, the third column says what comes back.
BOTH_WAYS = [
    # WHATWG, 9.2.6
    ({"data": "This is the first message."}, b"data: This is the first message.\n\n"),
    (
        {"data": "This is the second message, it\nhas two lines."},
        b"data: This is the second message, it\ndata: has two lines.\n\n",
    ),
    ({"event": "add", "data": "73857293"}, b"event: add\ndata: 73857293\n\n"),
    ({"event": "remove", "data": "2153"}, b"event: remove\ndata: 2153\n\n"),
    ({"data": "YHOO\n+2\n10"}, b"data: YHOO\ndata: +2\ndata: 10\n\n"),
    ({"comment": "test stream"}, b": test stream\n\n"),
    ({"id": "1", "data": "first event"}, b"id: 1\ndata: first event\n\n"),
    ({"id": "", "data": "second event"}, b"id: \ndata: second event\n\n"),
    ({"data": " third event"}, b"data:  third event\n\n"),
    ({"data": ""}, b"data: \n\n"),
    ({"data": "\n"}, b"data: \ndata: \n\n"),
    # node-ssestream's own tests
    ({"data": "hello\nworld"}, b"data: hello\ndata: world\n\n"),
    ({"data": "bonjour\nmonde"}, b"data: bonjour\ndata: monde\n\n"),
    ({"data": {"hello": "world"}}, b'data: {"hello":"world"}\n\n', {"data": '{"hello":"world"}'}),
    (
        {
            "comment": "jibber jabber",
            "event": "tea-time",
            "id": "the-id",
            "retry": 222,
            "data": "hello",
        },
        b": jibber jabber\nevent: tea-time\nid: the-id\nretry: 222\ndata: hello\n\n",
    ),
    # Each field alone; whatever the order in the mapping, that on the wire is one
    ({"event": "x"}, b"event: x\n\n"),
    ({"id": "x"}, b"id: x\n\n"),
    ({"retry": 1}, b"retry: 1\n\n"),
    ({"data": "d", "id": "i", "comment": "c"}, b": c\nid: i\ndata: d\n\n"),
    ({"data": "d", "retry": 5, "event": "e"}, b"event: e\nretry: 5\ndata: d\n\n"),
    # None is absent; zero and the empty string are not
    ({"data": "x", "event": None, "id": None}, b"data: x\n\n", {"data": "x"}),
    ({"id": 0}, b"id: 0\n\n", {"id": "0"}),
    ({"id": -7}, b"id: -7\n\n", {"id": "-7"}),
    ({"id": ""}, b"id: \n\n"),
    ({"retry": 0}, b"retry: 0\n\n"),
    ({"retry": timedelta(seconds=1.5)}, b"retry: 1500\n\n", {"retry": 1500}),
    ({"retry": "3000"}, b"retry: 3000\n\n", {"retry": 3000}),
    ({"retry": 3000.0}, b"retry: 3000\n\n", {"retry": 3000}),
    ({"id": 1764330000000.0}, b"id: 1764330000000\n\n", {"id": "1764330000000"}),
    ({"id": -0.0}, b"id: 0\n\n", {"id": "0"}),
    ({"retry": timedelta(microseconds=1999)}, b"retry: 1\n\n", {"retry": 1}),
    ({"event": "", "data": "x"}, b"data: x\n\n", {"data": "x"}),
    ({"comment": "", "data": "x"}, b"data: x\n\n", {"data": "x"}),
    # Data that is not text
    ({"data": 0}, b"data: 0\n\n", {"data": "0"}),
    ({"data": -1.0}, b"data: -1.0\n\n", {"data": "-1.0"}),
    ({"data": False}, b"data: false\n\n", {"data": "false"}),
    ({"data": []}, b"data: []\n\n", {"data": "[]"}),
    ({"data": (1, [None])}, b"data: [1,[null]]\n\n", {"data": "[1,[null]]"}),
    (
        {"data": {"b": 1, "a": "\r\n"}},
        b'data: {"b":1,"a":"\\r\\n"}\n\n',
        {"data": '{"b":1,"a":"\\r\\n"}'},
    ),
    ({"data": ["é\u2028"]}, 'data: ["é\u2028"]\n\n'.encode(), {"data": '["é\u2028"]'}),
    ({"data": b"h\xc3\xa9\r\nx"}, b"data: h\xc3\xa9\ndata: x\n\n", {"data": "hé\nx"}),
    ({"data": bytearray(b"x")}, b"data: x\n\n", {"data": "x"}),
    ({"data": memoryview(b"abcd")[::2]}, b"data: ac\n\n", {"data": "ac"}),
    # Line ends, and what only looks like one
    ({"data": "a\rb"}, b"data: a\ndata: b\n\n", {"data": "a\nb"}),
    ({"data": "a\r\nb"}, b"data: a\ndata: b\n\n", {"data": "a\nb"}),
    ({"data": "a\n\rb"}, b"data: a\ndata: \ndata: b\n\n", {"data": "a\n\nb"}),
    ({"data": "a\n\n"}, b"data: a\ndata: \ndata: \n\n"),
    ({"comment": "a\r\nb\rc\n"}, b": a\n: b\n: c\n: \n\n", {"comment": "a\nb\nc\n"}),
    (
        {"data": "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\0"},
        "data: \u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\0\n\n".encode(),
    ),
    ({"event": "\u2028\x85\x0b\0"}, "event: \u2028\x85\x0b\0\n\n".encode()),
    ({"id": "\u2028\x85\x0b"}, "id: \u2028\x85\x0b\n\n".encode()),
    # Text that looks like the format
    ({"data": "data: x\n\nid: 5"}, b"data: data: x\ndata: \ndata: id: 5\n\n"),
    ({"event": ": x", "id": "id: 5", "data": ":"}, b"event: : x\nid: id: 5\ndata: :\n\n"),
    ({"comment": "data: x"}, b": data: x\n\n"),
    ({"comment": " x", "event": " y", "id": " z"}, b":  x\nevent:  y\nid:  z\n\n"),
    ({"data": "\ufeffx"}, b"data: \xef\xbb\xbfx\n\n"),
    ({"data": "한국어 😀"}, "data: 한국어 😀\n\n".encode()),
]

# Read in one direction: what others may send.
ONLY_READ = [
    # WHATWG, 9.2.6
    (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n",
        [
            {"comment": "test stream"},
            {"id": "1", "data": "first event"},
            {"id": "", "data": "second event"},
        ],
    ),
    (b"data\n\ndata\ndata\n\n", [{"data": ""}, {"data": "\n"}]),
    (b"data:test\n\ndata: test\n\n", [{"data": "test"}, {"data": "test"}]),
    # Line ends of every kind, mixed
    (b"data: a\rdata: b\r\ndata: c\n\r\n", [{"data": "a\nb\nc"}]),
    (b"data: a\r\rdata: b\r\r", [{"data": "a"}, {"data": "b"}]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [{"data": "a"}, {"data": "b"}]),
    # One byte order mark is dropped, at the very start
    (b"\xef\xbb\xbfdata: a\n\n", [{"data": "a"}]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [{"data": "b"}]),
    (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [{"data": "a"}]),
    # Blank lines and heartbeats are nothing
    (b"\n\n:\n\n:\n:\n\ndata: a\n:\n\n", [{"data": "a"}]),
    (OK + b"data: a\n\n", [{"comment": "ok"}, {"data": "a"}]),
    # What the standard says to ignore
    (b"foo: bar\nDATA: no\ndata : no\ndata: a\n\n", [{"data": "a"}]),
    (b"id: 1\0\ndata: a\n\n", [{"data": "a"}]),
    (b"retry: soon\nretry: -1\nretry: 1.5\nretry:\ndata: a\n\n", [{"data": "a"}]),
    ("retry: ١٢\nretry: ²\n\n".encode(), []),
    (b"retry: " + b"9" * 5000 + b"\n\n", []),
    (b"event:\ndata: a\n\n", [{"data": "a"}]),
    # The last one counts
    (
        b"id: 1\nid: 2\nevent: a\nevent: b\nretry: 1\nretry: 2\n\n",
        [{"event": "b", "id": "2", "retry": 2}],
    ),
    (b"data: \xff\xc3\n\n", [{"data": "\ufffd\ufffd"}]),
]

READ = [(row[1], [row[-1] if len(row) == 3 else row[0]]) for row in BOTH_WAYS] + ONLY_READ


def decode(*data: bytes) -> list[dict[str, str | int]]:
    decoder = Decoder()
    return [message for piece in data for message in decoder.feed(piece)]


@pytest.mark.parametrize(("message", "frame"), [row[:2] for row in BOTH_WAYS])
def test_a_message_has_these_bytes(message: dict[str, Any], frame: bytes) -> None:
    assert encode(message) == frame


@pytest.mark.parametrize(("data", "messages"), READ)
def test_these_bytes_are_these_messages(data: bytes, messages: list[Any]) -> None:
    assert decode(data) == messages


@pytest.mark.parametrize(("data", "messages"), READ)
def test_bytes_may_come_one_by_one(data: bytes, messages: list[Any]) -> None:
    assert decode(*(data[i : i + 1] for i in range(len(data)))) == messages
    assert (
        decode(*(piece for i in range(len(data)) for piece in (b"", data[i : i + 1]))) == messages
    )


@pytest.mark.parametrize(("data", "messages"), READ)
def test_bytes_may_have_a_tail_behind_them(data: bytes, messages: list[Any]) -> None:
    tail = b"data: tail\n\ndata: not yet\nid: 9\n"
    assert decode(data + tail) == [*messages, {"data": "tail"}]
    assert decode(data, tail) == [*messages, {"data": "tail"}]


@pytest.mark.parametrize("cut", range(1, len("data: 한😀\r\n\r\n".encode())))
def test_a_cut_inside_a_character_or_a_line_end_does_no_harm(cut: int) -> None:
    data = "data: 한😀\r\n\r\n".encode()
    assert decode(data[:cut], data[cut:], b"data: b\n\n") == [{"data": "한😀"}, {"data": "b"}]


def test_a_message_without_its_blank_line_has_not_come_yet() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data:  third event") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\n") == [{"data": " third event"}]


@pytest.mark.parametrize("row", BOTH_WAYS)
def test_two_frames_in_a_row_are_two_messages(row: tuple[Any, ...]) -> None:
    frame, arrived = row[1], row[-1] if len(row) == 3 else row[0]
    assert decode(encode(row[0]) + encode(row[0])) == [arrived, arrived]
    assert decode(OK + frame + b":\n" + encode({"data": "b"})) == [
        {"comment": "ok"},
        arrived,
        {"data": "b"},
    ]


# -- what is plain underneath is sent plain


class Word(str, enum.Enum):
    TEA = "tea"


class Number(enum.IntEnum):
    SEVEN = 7


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"

    def __format__(self, spec: str) -> str:
        return "LOUD"

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        return b"LOUD"


@pytest.mark.parametrize("field", ["comment", "event", "id", "data"])
@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Word.TEA, "tea"),
        (Loud("tea"), "tea"),
        (Markup("<b>&"), "<b>&"),
        (Markup('"quoted"'), '"quoted"'),
        (LocalProxy(lambda: "tea"), "tea"),
    ],
)
def test_every_kind_of_str_is_sent_as_plain_text(field: str, value: Any, plain: str) -> None:
    assert decode(encode({field: value})) == [{field: plain}]


@pytest.mark.parametrize("field", ["id", "retry", "data"])
@pytest.mark.parametrize("value", [Number.SEVEN, re.RegexFlag(7), 7])
def test_every_kind_of_int_is_sent_as_its_number(field: str, value: Any) -> None:
    assert encode({field: value}) == f"{field}: 7\n\n".encode()


@pytest.mark.parametrize("field", ["id", "retry"])
def test_a_proxy_of_an_int_is_sent_as_its_number(field: str) -> None:
    assert encode({field: LocalProxy(lambda: 7)}) == f"{field}: 7\n\n".encode()


class Sly(str):
    """One whose methods say that there is nothing in it, and give something else."""

    def __str__(self) -> str:
        return self

    def __format__(self, spec: str) -> str:
        return self

    def __contains__(self, other: object) -> bool:
        return False

    def __getitem__(self, key: Any) -> str:
        return self

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        return FORGED

    def lower(self) -> str:
        return self


class SlyBytes(bytes):
    def __bytes__(self) -> bytes:
        return self

    def __len__(self) -> int:
        return 0

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return Sly("x\n\ndata: forged\n\n")


class SlyArray(bytearray):
    def __bytes__(self) -> bytes:
        return SlyBytes(b"x")

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return Sly("x\n\ndata: forged\n\n")


class SlyInt(int):
    def __str__(self) -> str:
        return Sly("7\n\ndata: forged\n\n")

    def __lt__(self, other: object) -> bool:
        return False

    __repr__ = __str__


class SlyTime(timedelta):
    def __floordiv__(self, other: Any) -> Any:
        return SlyInt(-7)


FORGED = b"x\n\ndata: forged\n\n"
SLY = Sly("x\n\ndata: forged\n\n")


def released(*values: bytes) -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


@pytest.mark.parametrize("proxied", [False, True], ids=["itself", "behind a proxy"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, SLY) for field in ("comment", "event", "id", "data")),
        *(("data", each) for each in (SlyBytes(b"x"), SlyBytes(FORGED), SlyArray(b"x"))),
        *((field, SlyInt(sign * 7)) for field in ("id", "retry", "data") for sign in (1, -1)),
        ("retry", SlyTime(1)),
    ],
    ids=lambda value: value if type(value) is str else type(value).__name__,
)
def test_no_method_of_a_value_adds_a_message(field: str, value: Any, proxied: bool) -> None:
    given = LocalProxy(lambda: value) if proxied else value
    frame = b""
    with contextlib.suppress(MessageError):
        frame = encode({"comment": "before", field: given})
    assert len(decode(frame)) == bool(frame)
    assert b"\ndata: forged\n" not in frame or field == "data"
    assert b"retry: -" not in frame


@pytest.mark.parametrize("text", [SLY, LocalProxy(lambda: SLY)])
def test_nor_does_what_a_json_provider_gives(text: Any) -> None:
    (message,) = decode(encode({"data": {"a": 1}}, lambda value: text))
    assert message == {"data": "x\n\ndata: forged\n\n"}


def test_bytes_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(MessageError, match=r"'data' cannot be read: .*released") as caught:
        encode({"data": released()})
    assert caught.value.field == "data"


def test_a_key_of_ten_megabytes_is_refused_at_once() -> None:
    def refusal() -> float:
        began = time.process_time()
        tracemalloc.start()
        try:
            with pytest.raises(MessageError, match="unknown field 'dddd"):
                encode({"d" * 10**7: 1})
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 15 * 10**6
        return time.process_time() - began

    at_best(refusal, 0.3)


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType, MultiDict, LocalProxy])
def test_every_kind_of_mapping_is_a_message(kind: Any) -> None:
    plain = {"data": "x"}
    assert (
        encode(LocalProxy(lambda: plain) if kind is LocalProxy else kind(plain)) == b"data: x\n\n"
    )


def test_a_message_is_left_as_it_is() -> None:
    message = defaultdict(list, {"data": "x"})
    encode(message)
    assert message == {"data": "x"}


# -- what is refused


class Name(str, enum.Enum):
    """Its members equal their text, but have other hashes."""

    __hash__ = enum.Enum.__hash__
    DATA = "data"


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _circular() -> Any:
    data: list[Any] = []
    data.append({"a": data})
    return data


def _deep() -> Any:
    data: list[Any] = []
    for _ in range(100_000):
        data = [data]
    return data


HUGE = 10**5000

# The message, the field that MessageError.field names, a part of its text.
BAD = [
    ({"datas": "x"}, "datas", "did you mean 'data'?"),
    ({"Data": "x"}, "Data", "did you mean 'data'?"),
    ({"evnt": "x"}, "evnt", "did you mean 'event'?"),
    ({"ids": 1}, "ids", "did you mean 'id'?"),
    ({"data": "x", "foo": 1}, "foo", "unknown field 'foo'; the fields are comment, event"),
    ({"data": "x", "": 1}, "", "unknown field ''"),
    ({"data": "x", 5: 1}, 5, "field"),
    ({Name.DATA: "x"}, None, "nothing in it"),
    ({"data": "x", None: 1}, None, "field"),
    ({b"data": "x"}, b"data", "field"),
    ({"data": "x", "foo": None}, "foo", "unknown field 'foo'"),
    ({"data\n": "x"}, "data\n", "unknown field"),
    ({"\ud800": "x"}, "\ud800", "unknown field"),
    ({"data": "x", HUGE: 1}, HUGE, "field"),
    ({"data": "x", "y" * 1_000_000: 1}, "y" * 1_000_000, "unknown field"),
    ("data", None, "not str"),
    (b"data: x\n\n", None, "not bytes"),
    (None, None, "not None"),
    ([("data", "x")], None, "not list"),
    (5, None, "not int"),
    ({}, None, "nothing in it"),
    ({"data": None}, None, "nothing in it"),
    (dict.fromkeys(FIELDS), None, "nothing in it"),
    ({"event": ""}, None, "nothing in it"),
    ({"comment": "", "event": ""}, None, "nothing in it"),
    ({"comment": 5}, "comment", "must be str, not int"),
    ({"comment": b"x"}, "comment", "must be str, not bytes"),
    ({"event": 5}, "event", "must be str, not int"),
    ({"event": b"x"}, "event", "must be str, not bytes"),
    ({"event": "a\nb"}, "event", "a line feed"),
    ({"event": "a\rb"}, "event", "a carriage return"),
    ({"event": "x\ndata: y\n\n"}, "event", "a line feed"),
    ({"event": Markup("a\nb")}, "event", "a line feed"),
    ({"id": "1\n2"}, "id", "a line feed"),
    ({"id": "1\r"}, "id", "a carriage return"),
    ({"id": "1\0"}, "id", "NUL"),
    ({"id": True}, "id", "must be str or int, not bool"),
    ({"id": 1.5}, "id", "must be str or int, not float"),
    ({"id": 1e21}, "id", "must be str or int, not float"),
    ({"id": float("nan")}, "id", "must be str or int, not float"),
    ({"id": b"1"}, "id", "must be str or int, not bytes"),
    ({"id": HUGE}, "id", "too large"),
    ({"id": -HUGE}, "id", "too large"),
    ({"retry": True}, "retry", "must be int milliseconds or timedelta, not bool"),
    ({"retry": 1.5}, "retry", "must be int milliseconds or timedelta, not float"),
    ({"retry": -1.0}, "retry", "must not be negative"),
    ({"retry": float("inf")}, "retry", "must be int milliseconds or timedelta, not float"),
    ({"retry": ""}, "retry", "as str must be digits"),
    ({"retry": "-1"}, "retry", "as str must be digits"),
    ({"retry": "1\n"}, "retry", "as str must be digits"),
    ({"retry": "\u0663"}, "retry", "as str must be digits"),
    ({"retry": "1" * 4301}, "retry", "as str must be digits"),
    ({"retry": -1}, "retry", "must not be negative"),
    ({"retry": timedelta(microseconds=-1)}, "retry", "must not be negative"),
    ({"retry": timedelta.min}, "retry", "must not be negative"),
    ({"retry": HUGE}, "retry", "too large"),
    ({"retry": -HUGE}, "retry", "must not be negative"),
    ({"comment": "\ud800"}, "comment", "a lone surrogate (U+D800)"),
    ({"event": "\udfff"}, "event", "a lone surrogate (U+DFFF)"),
    ({"id": "a\udc80"}, "id", "a lone surrogate (U+DC80)"),
    ({"data": "a\n\ud83d"}, "data", "a lone surrogate (U+D83D)"),
    ({"data": "\ude00\ud83d"}, "data", "a lone surrogate (U+DE00)"),
    ({"data": {"a": ["\ud800"]}}, "data", "a lone surrogate (U+D800)"),
    ({"data": {"\ud800": 1}}, "data", "a lone surrogate (U+D800)"),
    ({"data": b"abc\xff"}, "data", "must be UTF-8, and byte 3 is not"),
    ({"data": bytearray(b"\xed\xa0\x80")}, "data", "must be UTF-8"),
    ({"data": math.nan}, "data", "cannot be JSON"),
    ({"data": {"a": [1, math.inf]}}, "data", "cannot be JSON"),
    ({"data": [-math.inf]}, "data", "cannot be JSON"),
    ({"data": {math.nan: 1}}, "data", "cannot be JSON"),
    ({"data": _circular()}, "data", "cannot be JSON"),
    ({"data": _deep()}, "data", "cannot be JSON"),
    ({"data": HUGE}, "data", "cannot be JSON"),
    ({"data": [b"x"]}, "data", "cannot be JSON"),
    ({"data": {1, 2}}, "data", "cannot be JSON"),
    ({"data": object()}, "data", "cannot be JSON"),
    ({"data": Rude()}, "data", "cannot be JSON"),
    ({"data": {(1, 2): 3}}, "data", "cannot be JSON"),
    ({"data": 1j}, "data", "cannot be JSON"),
    ({"data": (x for x in "ab")}, "data", "cannot be JSON"),
    ({"data": iter("ab")}, "data", "cannot be JSON"),
    # The first wrong field in the order of the wire is named
    ({"data": {1}, "id": True}, "id", "not bool"),
]


@pytest.mark.parametrize(
    ("message", "field", "word"),
    # Some of them cannot be printed for an id.
    [pytest.param(*row, id=f"{number}: {row[2]}") for number, row in enumerate(BAD)],
)
def test_a_bad_message_is_refused_with_the_field_and_the_reason(
    message: Any, field: object, word: str
) -> None:
    with pytest.raises(MessageError, match=re.escape(word)) as caught:
        encode(message)
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 300


def test_a_provider_may_give_bytes() -> None:
    for text in (b'{"a":"\xc3\xa9"}', SlyBytes(b'{"a":"\xc3\xa9"}')):
        assert encode({"data": [1]}, lambda value, text=text: text) == b"data: %b\n\n" % text
    assert encode({"data": [1]}, lambda value: b"1\n2") == b"data: 1\ndata: 2\n\n"


@pytest.mark.parametrize(
    ("given", "word"),
    [([1], "the app's JSON provider gave list"), (None, "gave None"), (b"\xff", "can't decode")],
)
def test_a_provider_that_does_not_give_text_is_named(given: Any, word: str) -> None:
    with pytest.raises(MessageError, match=word) as caught:
        encode({"data": [1]}, lambda value: given)
    assert caught.value.field == "data"


def test_json_over_several_lines_becomes_several_data_lines() -> None:
    frame = encode({"data": {"a": [1]}}, lambda value: json.dumps(value, indent=1))
    [message] = decode(frame)
    assert frame.count(b"data: ") == 5
    assert json.loads(message["data"]) == {"a": [1]}


# -- the divergences from npm's ssestream that need no Node to be seen; the
#    others, and what Node does, are in test_node_bytes.py


def test_divergence_1_a_line_end_in_event_or_id_is_refused() -> None:
    for bad in ({"event": "a\nb"}, {"event": "a\rb"}, {"id": "a\nb"}, {"id": "a\rb"}, {"id": "\0"}):
        with pytest.raises(MessageError):
            encode({**bad, "data": "x"})


def test_divergence_2_each_line_of_a_comment_is_a_comment() -> None:
    assert encode({"comment": "a\ndata: b\r\nc"}) == b": a\n: data: b\n: c\n\n"


def test_divergence_3_what_is_empty_or_zero_is_sent() -> None:
    for message, frame in [
        ({"data": ""}, b"data: \n\n"),
        ({"data": 0}, b"data: 0\n\n"),
        ({"data": False}, b"data: false\n\n"),
        ({"id": 0}, b"id: 0\n\n"),
        ({"id": ""}, b"id: \n\n"),
        ({"retry": 0}, b"retry: 0\n\n"),
    ]:
        assert encode(message) == frame


def test_divergence_4_numbers_and_booleans_are_json() -> None:
    assert encode({"data": 5}) == b"data: 5\n\n"
    assert encode({"data": True}) == b"data: true\n\n"


def test_divergence_5_what_cannot_arrive_is_refused() -> None:
    for message in ({}, {"datas": "x"}, {"retry": "soon"}, {"data": "\ud800"}):
        with pytest.raises(MessageError):
            encode(message)


def test_divergence_6_not_a_number_is_refused() -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(MessageError):
            encode({"data": [value]})


def test_divergence_7_bytes_are_text_and_json_is_as_python_writes_it() -> None:
    assert encode({"data": b"abc"}) == b"data: abc\n\n"
    assert encode({"data": [1.0, {"b": 1, "10": 2, "9": 3}]}) == (
        b'data: [1.0,{"b":1,"10":2,"9":3}]\n\n'
    )


# -- for any message at all


@settings(max_examples=500)
@given(any_messages)
@example({"data": "\r"})
@example({"event": "x\ndata: y\n\n"})
@example({"comment": "\n"})
def test_any_message_arrives_as_itself_or_is_refused(message: dict[Any, Any]) -> None:
    try:
        frame = encode(message)
    except MessageError:
        return
    assert decode(frame) == [arrival(message)]


def one_by_one(message: dict[Any, Any]) -> bytes:
    """The frame of *message*, made of frames with one field each."""
    lines = []
    for field in FIELDS:
        try:
            lines.append(encode({field: message.get(field)}).removesuffix(b"\n"))
        except MessageError as error:
            if error.field is not None:  # None: there is nothing in it
                raise
    return b"".join(lines) + b"\n" if lines else encode({})


def outcome(function: Any, message: dict[Any, Any]) -> Any:
    try:
        return function(message)
    except MessageError as error:
        return str(error), error.field


@pytest.mark.long
@settings(max_examples=500)
@given(any_messages)
@example({"event": "\ud800", "data": {1}})
@example({"id": "\udfff", "retry": -1, "data": "x"})
@example({"comment": "x", "data": b"\xff"})
def test_fields_together_are_what_they_are_one_by_one(message: dict[Any, Any]) -> None:
    assume(set(message) <= set(FIELDS))
    assert outcome(encode, message) == outcome(one_by_one, message)
    # The fields of a mapping that is no dict, in any order.
    other = MappingProxyType(dict(reversed(message.items())))
    assert outcome(encode, other) == outcome(encode, message)


@given(right_messages)
def test_no_right_message_is_refused(message: dict[str, Any]) -> None:
    arrived = arrival(message)
    if arrived:
        assert decode(encode(message)) == [arrived]
    else:
        with pytest.raises(MessageError, match="nothing in it"):
            encode(message)


@given(st.lists(right_messages.filter(arrival), max_size=4), cuts)
def test_messages_arrive_however_they_are_cut(messages: list[Any], lengths: list[int]) -> None:
    stream = OK + b"".join(map(encode, messages))
    arrived = decode(*pieces(stream, lengths))
    assert arrived == [{"comment": "ok"}, *map(arrival, messages)]


@given(json_values.filter(lambda value: value is not None and not isinstance(value, str)))
def test_json_comes_back_as_the_same_value(value: Any) -> None:
    [message] = decode(encode({"data": value}))
    assert json.loads(message["data"]) == value


@settings(max_examples=500)
@given(any_bytes, cuts)
def test_a_decoder_takes_any_bytes_and_cuts_do_not_matter(data: bytes, lengths: list[int]) -> None:
    assert decode(*pieces(data, lengths)) == decode(data)
    assert decode(*pieces(data, [1] * len(data))) == decode(data)


# -- a second reader: httpx-sse


def _by_httpx_sse(frame: bytes) -> list[dict[str, Any]]:
    headers = {"content-type": "text/event-stream"}
    events = EventSource(httpx.Response(200, headers=headers, content=frame)).iter_sse()
    return [{"event": e.event, "data": e.data, "id": e.id, "retry": e.retry} for e in events]


def _for_httpx_sse(message: dict[str, Any]) -> list[dict[str, Any]]:
    arrived = arrival(message)
    # It fires for any field but a comment and an empty id.
    if not (arrived.get("id") or arrived.keys() & {"data", "event", "retry"}):
        return []
    return [
        {
            "event": arrived.get("event", "message"),
            "data": arrived.get("data", ""),
            "id": arrived.get("id", ""),
            "retry": arrived.get("retry"),
        }
    ]


@pytest.mark.parametrize("row", BOTH_WAYS)
def test_httpx_sse_reads_these_bytes_alike(row: tuple[Any, ...]) -> None:
    arrived = row[-1] if len(row) == 3 else row[0]
    assert _by_httpx_sse(row[1]) == _for_httpx_sse(arrived)


@given(any_messages)
def test_httpx_sse_gets_any_message_as_itself(message: dict[Any, Any]) -> None:
    try:
        frame = encode(message)
    except MessageError:
        return
    assert _by_httpx_sse(frame) == _for_httpx_sse(message)


# -- size


def test_a_megabyte_is_one_message() -> None:
    text = "0123456789abcde\n" * 65_536
    frame = encode({"id": 1, "data": text})
    assert decode(frame) == [{"id": "1", "data": text}]
    assert decode(*(frame[i : i + 999] for i in range(0, len(frame), 999))) == [
        {"id": "1", "data": text}
    ]


def test_a_line_of_a_megabyte_may_come_in_small_pieces() -> None:
    frame = encode({"data": "x" * 1_000_000})
    pieces = [frame[i : i + 10] for i in range(0, len(frame), 10)]
    assert decode(*pieces) == [{"data": "x" * 1_000_000}]
