"""The same bytes as npm's ssestream, and where not; read by npm's eventsource-parser."""

import base64
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from ssestream import MessageError, ServerResponse, SseStream
from ssestream.wire import OK, encode
from tests.kit.messages import (
    any_messages,
    arrival,
    cuts,
    node_messages,
    pieces,
    right_messages,
)
from tests.kit.node_program import NodeScript

pytestmark = pytest.mark.node

SCRIPTS = Path(__file__).parent


@pytest.fixture(scope="module")
def encoder(node: str) -> Iterator[NodeScript]:
    """npm's ssestream."""
    script = NodeScript(node, SCRIPTS / "encode.js")
    yield script
    script.stop()


@pytest.fixture(scope="module")
def parser(node: str) -> Iterator[NodeScript]:
    """npm's eventsource-parser."""
    script = NodeScript(node, SCRIPTS / "parse.mjs")
    yield script
    script.stop()


def _bytes_of(answer: dict[str, str]) -> bytes | str:
    return base64.b64decode(answer["frame"]) if "frame" in answer else answer["error"]


# -- the same bytes


@pytest.mark.parametrize(
    "message",
    [
        {"data": "hello\nworld"},
        {"data": {"hello": "world"}},
        {
            "comment": "jibber jabber",
            "event": "tea-time",
            "id": "the-id",
            "retry": 222,
            "data": "x",
        },
        {"data": "a\r\nb\rc\n\nd\n\r\n"},
        {"data": "\u2028\u2029\x85\x0b\x0c\0\ufeff"},
        {"data": {"\u2028": ["\0\x08\x0c\x1f\x7f\x80\ufeff", "한😀", '"\\/', None, True]}},
        {"data": []},
        {"data": {"a": [], "b": {}, "": [[-(2**53), 2**53, 0]]}},
        {"id": 5, "data": "x"},
        {"id": "5", "retry": "3000", "data": "x"},
        {"id": 1764330000000.0, "retry": 3000.0, "data": "x"},
        {"event": "\0", "data": " x"},
        {"data": None, "event": "x"},
        {"event": "", "comment": "", "data": "x"},
    ],
)
def test_a_message_has_the_bytes_that_node_gives_it(
    encoder: NodeScript, message: dict[str, Any]
) -> None:
    [answer] = encoder.ask({"messages": [message]})
    assert encode(message) == _bytes_of(answer)


@pytest.mark.long
@settings(max_examples=3000)
@given(node_messages)
def test_thousands_of_messages_have_the_bytes_that_node_gives_them(
    encoder: NodeScript, message: dict[str, Any]
) -> None:
    [answer] = encoder.ask({"messages": [message]})
    assert encode(message) == _bytes_of(answer)


# -- where the two differ: the numbers are those in wire.py

# A rule, the message in JavaScript, what Node makes of it (text is what it
# throws), the message here, its bytes (text is in the MessageError).
DIVERGENCES: list[tuple[str, str, bytes | str, Any, bytes | str]] = [
    (
        "1 a line end in event adds fields there and is refused here",
        r"{event: 'a\ndata: evil\n', data: 'x'}",
        b"event: a\ndata: evil\n\ndata: x\n\n",
        {"event": "a\ndata: evil\n", "data": "x"},
        "a line feed",
    ),
    (
        "1 a line end in id adds fields there and is refused here",
        r"{id: '1\revent: evil', data: 'x'}",
        b"id: 1\revent: evil\ndata: x\n\n",
        {"id": "1\revent: evil", "data": "x"},
        "a carriage return",
    ),
    (
        "1 a NUL in id is sent there, where it makes the id void, and is refused here",
        r"{id: '1\0', data: 'x'}",
        b"id: 1\0\ndata: x\n\n",
        {"id": "1\0", "data": "x"},
        "NUL",
    ),
    (
        "2 a line end in comment adds fields there and is a second comment line here",
        r"{comment: 'a\ndata: evil', data: 'x'}",
        b": a\ndata: evil\ndata: x\n\n",
        {"comment": "a\ndata: evil", "data": "x"},
        b": a\n: data: evil\ndata: x\n\n",
    ),
    ("3 empty data vanishes there", "{data: ''}", b"\n", {"data": ""}, b"data: \n\n"),
    ("3 zero as data vanishes there", "{data: 0}", b"\n", {"data": 0}, b"data: 0\n\n"),
    ("3 false as data vanishes there", "{data: false}", b"\n", {"data": False}, b"data: false\n\n"),
    (
        "3 an id of zero vanishes there",
        "{id: 0, data: 'x'}",
        b"data: x\n\n",
        {"id": 0, "data": "x"},
        b"id: 0\ndata: x\n\n",
    ),
    (
        "3 an empty id vanishes there, and resets the client's here",
        "{id: '', data: 'x'}",
        b"data: x\n\n",
        {"id": "", "data": "x"},
        b"id: \ndata: x\n\n",
    ),
    (
        "3 a retry of zero vanishes there",
        "{retry: 0, data: 'x'}",
        b"data: x\n\n",
        {"retry": 0, "data": "x"},
        b"retry: 0\ndata: x\n\n",
    ),
    (
        "3 an empty event or comment is none on both",
        "{event: '', comment: '', data: 'x'}",
        b"data: x\n\n",
        {"event": "", "comment": "", "data": "x"},
        b"data: x\n\n",
    ),
    (
        "4 a number as data throws there",
        "{data: 5}",
        "data.split is not a function",
        {"data": 5},
        b"data: 5\n\n",
    ),
    (
        "4 true as data throws there",
        "{data: true}",
        "data.split is not a function",
        {"data": True},
        b"data: true\n\n",
    ),
    ("5 an empty message is a blank line there", "{}", b"\n", {}, "nothing in it"),
    (
        "5 an unknown key is left out there",
        "{datas: 'x'}",
        b"\n",
        {"datas": "x"},
        "did you mean 'data'?",
    ),
    ("5 a text for a message is a blank line there", "'text'", b"\n", "text", "not str"),
    (
        "5 a wrong retry is sent as it prints there",
        "{retry: 'soon', data: 'x'}",
        b"retry: soon\ndata: x\n\n",
        {"retry": "soon", "data": "x"},
        "'retry' as str must be digits, not 'soon'",
    ),
    (
        "5 a negative retry is sent there, and every client ignores it",
        "{retry: -1, data: 'x'}",
        b"retry: -1\ndata: x\n\n",
        {"retry": -1, "data": "x"},
        "must not be negative",
    ),
    (
        "5 an object as event is sent as it prints there",
        "{event: {}, data: 'x'}",
        b"event: [object Object]\ndata: x\n\n",
        {"event": {}, "data": "x"},
        "'event' must be str, not dict",
    ),
    (
        "5 a number as event is sent as it prints there",
        "{event: 5, data: 'x'}",
        b"event: 5\ndata: x\n\n",
        {"event": 5, "data": "x"},
        "'event' must be str, not int",
    ),
    (
        "5 a lone surrogate becomes U+FFFD there",
        r"{data: '\ud800'}",
        b"data: \xef\xbf\xbd\n\n",
        {"data": "\ud800"},
        "a lone surrogate (U+D800)",
    ),
    (
        "5 a lone surrogate in JSON becomes an escape there",
        r"{data: ['\ud800']}",
        b'data: ["\\ud800"]\n\n',
        {"data": ["\ud800"]},
        "a lone surrogate (U+D800)",
    ),
    (
        "6 not-a-number and the infinities become null there",
        "{data: [NaN, Infinity, -Infinity]}",
        b"data: [null,null,null]\n\n",
        {"data": [math.nan, math.inf, -math.inf]},
        "'data' cannot be JSON",
    ),
    (
        "7 bytes become an object with a list of numbers there",
        "{data: Buffer.from('hi')}",
        b'data: {"type":"Buffer","data":[104,105]}\n\n',
        {"data": b"hi"},
        b"data: hi\n\n",
    ),
    (
        "7 a float without a fraction is printed as an integer there",
        "{data: [1.0, 1e16, 1e-7]}",
        b"data: [1,10000000000000000,1e-7]\n\n",
        {"data": [1.0, 1e16, 1e-7]},
        b"data: [1.0,1e+16,1e-07]\n\n",
    ),
    (
        "7 keys that look like integers come first there",
        "{data: {b: 1, 10: 2, 9: 3}}",
        b'data: {"9":3,"10":2,"b":1}\n\n',
        {"data": {"b": 1, "10": 2, "9": 3}},
        b'data: {"b":1,"10":2,"9":3}\n\n',
    ),
    (
        "7 integers beyond 2**53 are rounded there",
        "{data: [9007199254740993]}",
        b"data: [9007199254740992]\n\n",
        {"data": [2**53 + 1]},
        b"data: [9007199254740993]\n\n",
    ),
]


@pytest.mark.parametrize(
    ("source", "theirs", "message", "ours"),
    [pytest.param(*row[1:], id=f"divergence {row[0]}") for row in DIVERGENCES],
)
def test_divergence(
    encoder: NodeScript, source: str, theirs: bytes | str, message: Any, ours: bytes | str
) -> None:
    [answer] = encoder.ask({"sources": [source]})
    assert _bytes_of(answer) == theirs
    if isinstance(ours, bytes):
        assert encode(message) == ours
    else:
        with pytest.raises(MessageError, match=re.escape(ours)):
            encode(message)


def test_divergence_8_no_hop_by_hop_header_is_set(node: str) -> None:
    source = """
        const SseStream = require('ssestream').default
        const response = {
          writeHead: (status, headers) => console.log(JSON.stringify([status, headers])),
          flushHeaders() {}, write() {}, on() {}, once() {}, emit() {}, end() {},
          prependListener() {},
        }
        new SseStream().pipe(response)
    """
    done = subprocess.run([node, "-e", source], cwd=SCRIPTS, capture_output=True, check=True)
    assert json.loads(done.stdout) == [
        200,
        {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Transfer-Encoding": "identity",
            "Cache-Control": "no-cache",
            "Connection": "keep-alive",
        },
    ]
    response = SseStream().pipe(ServerResponse())
    assert response.status_code == 200
    assert dict(response.get_wsgi_headers({})) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
    }


def test_divergence_9_a_message_is_one_entry_of_a_buffer(node: str) -> None:
    source = """
        const SseStream = require('ssestream').default
        const sse = new SseStream()
        for (let n = 0; n < 8; n++) sse.write({ data: 'x' })
        const full = [sse.readableLength, sse.writableLength]
        let n = 8
        while (sse.write({ data: 'x' })) n++
        for (let more = 0; more < 1000; more++) sse.write({ data: 'x' })
        console.log(JSON.stringify([full, n + 1, sse.writableLength]))
    """
    done = subprocess.run([node, "-e", source], cwd=SCRIPTS, capture_output=True, check=True)
    # Eight messages of one field and a blank line fill the first buffer; the
    # second one holds fifteen more before write() says false, and no bound.
    assert json.loads(done.stdout) == [[16, 1], 23, 1016]
    stream = SseStream()
    messages = 1
    while stream.write({"event": "e", "id": messages, "retry": 1, "data": "x"}):
        messages += 1
    assert messages == stream.writable_length == 16


# -- read by a second parser


def _events(message: dict[str, Any]) -> list[list[Any]]:
    """What eventsource-parser calls back with for *message*."""
    arrived = arrival(message)
    events: list[list[Any]] = []
    if "comment" in arrived:
        events += [["comment", line] for line in str(arrived["comment"]).split("\n")]
    if "retry" in arrived:
        events.append(["retry", _number(arrived["retry"])])
    if "data" in arrived:
        names = ("id", "event", "data")
        events.append(["event", {name: arrived[name] for name in names if name in arrived}])
    return events


def _found(parser: NodeScript, *streams: list[bytes]) -> list[list[list[Any]]]:
    """What eventsource-parser calls back with for each of *streams*, which come in pieces."""
    found: list[list[list[Any]]] = parser.ask(
        [[base64.b64encode(piece).decode() for piece in stream] for stream in streams]
    )
    return [
        [[kind, _number(value) if kind == "retry" else value] for kind, value in events]
        for events in found
    ]


def _number(digits: str | int) -> float:
    """As JavaScript has it."""
    try:
        return float(digits)
    except OverflowError:
        return math.inf


@pytest.mark.long
@settings(max_examples=1000)
@given(right_messages | any_messages, cuts)
@example({"data": "\r\n\r\ndata: x\n\n", "comment": "\r", "id": "\u2028", "event": "\0"}, [1, 2])
@example({"retry": 10**400}, [])
def test_any_message_is_that_message_to_eventsource_parser(
    parser: NodeScript, message: dict[Any, Any], lengths: list[int]
) -> None:
    try:
        frame = encode(message)
    except MessageError:
        return
    events = _events(message)
    assert _found(parser, [frame], pieces(frame, lengths)) == [events, events]


def test_messages_in_a_row_are_apart_to_eventsource_parser(parser: NodeScript) -> None:
    messages = [{"data": ""}, {"id": 0, "data": "a"}, {"event": "x", "data": "\n"}, {"data": "b"}]
    stream = OK + b"".join(map(encode, messages))
    expected = [["comment", "ok"], *(e for message in messages for e in _events(message))]
    assert _found(parser, pieces(stream, [1] * len(stream))) == [expected]


def test_a_megabyte_is_one_message_to_eventsource_parser(parser: NodeScript) -> None:
    message = {"id": 1, "data": "0123456789abcde\n" * 65_536}
    frame = encode(message)
    assert _found(parser, pieces(frame, [9999] * (len(frame) // 9999))) == [_events(message)]
