"""Event-stream text in a source: parsed, checked, and split anywhere."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssestream import MessageError, ServerResponse, SseStream, pipeline
from ssestream.text_source import Messages
from ssestream.wire import Decoder, encode
from tests.kit.visit import Visit, on_threads_and_greenlets, until

MOST = 1024

TEXT = (
    "\ufeffid: 7\r\nevent: tick\rdata: one\ndata:  zwei ä€😀\r\n\r\n"
    ": a comment\nretry: 3000\n\n"
    'data: {"a":\u2028"b"}\r\rdata\n\nid\n\n:\n:ping\n\n'
)

MESSAGES: list[dict[str, Any]] = [
    {"event": "tick", "id": "7", "data": "one\n zwei ä€😀"},
    {"comment": "a comment", "retry": 3000},
    {"data": '{"a":\u2028"b"}'},
    {"data": ""},
    {"id": ""},
    {"comment": "ping"},
]


def messages_of(items: Iterable[Any], most: int = MOST) -> Iterator[Any]:
    messages = Messages(most)
    for item in items:
        yield from messages.of(item)
    yield from messages.rest(None)


# -- what the text says


@pytest.mark.parametrize("kind", [str.encode, str, bytearray, memoryview], ids=repr)
def test_text_is_parsed_into_messages(kind: Any) -> None:
    part = kind(TEXT.encode()) if kind in (bytearray, memoryview) else kind(TEXT)
    assert list(messages_of([part])) == MESSAGES


def test_text_may_be_split_at_any_byte_and_character() -> None:
    data = TEXT.encode()
    for at in range(len(data) + 1):
        assert list(messages_of([data[:at], data[at:]])) == MESSAGES
    for at in range(len(TEXT) + 1):
        assert list(messages_of([TEXT[:at], "", TEXT[at:]])) == MESSAGES
    assert list(messages_of([data[n : n + 1] for n in range(len(data))])) == MESSAGES


@given(st.lists(st.integers(1, 9)), st.booleans())
def test_text_may_be_split_into_parts_of_any_size(sizes: list[int], as_text: bool) -> None:
    rest: Any = TEXT if as_text else TEXT.encode()
    parts = []
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    assert list(messages_of([*parts, rest])) == MESSAGES


def test_messages_may_stand_between_whole_events_of_text() -> None:
    source = [{"data": 1}, "data: 2\n\n", b"data: 3\r\n", b"\r\n", {"data": 4}, "data: 5\n\n"]
    got = list(messages_of(source))
    assert [str(each["data"]) for each in got] == ["1", "2", "3", "4", "5"]


def test_a_message_without_text_is_handed_on_as_it_is() -> None:
    message = {"data": 1}
    assert next(messages_of([message])) is message


@pytest.mark.parametrize("end", [[], [{"data": "mine"}]], ids=["end", "message"])
def test_a_comment_needs_no_blank_line(end: list[Any]) -> None:
    got = list(messages_of(["data: x\n\n: ping\n", *end]))
    assert got == [{"data": "x"}, {"comment": "ping"}, *end]


@pytest.mark.parametrize("beat", [":\n", ":\n\n", ": \n\n", "\n", "\r\n\r\n"])
def test_the_heartbeat_of_another_program_is_no_message(beat: str) -> None:
    got = list(messages_of([beat, "data: x\n\n", beat, {"data": "y"}, beat]))
    assert got == [{"data": "x"}, {"data": "y"}]


# -- what is refused


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        (["hello"], "'hello' is no field. To send a text, give the message"),
        (["hello\n\n"], "'hello' is no field"),
        (["Hel", "lo"], "'Hel' is no field"),
        (["d", "og"], "'dog' is no field"),
        (["da", "ta", "x: 1\n\n"], "'datax: 1' is no field"),
        (["database"], "'database' is no field"),
        ([" data: x\n\n"], "' data: x' is no field"),
        (["Data: x\n\n"], "'Data: x' is no field"),
        (['{"a": 1}'], "is no field"),
        ([b"\xff"], "the byte 0xff is not"),
        ([b"data: \xc3", "x\n\n"], "the byte 0xc3 is not"),
        (["data: \ud800\n\n"], r"a lone surrogate \(U\+D800\)"),
        (["id: 1\0\n\n"], "'id' must not hold NUL"),
        (["retry: soon\n\n"], "'retry' must be digits, not ' soon'"),
        (["retry: 1\nretry: -1\n\n"], "'retry' must be digits"),
        (["retry: " + "9" * 5000 + "\n\n"], "'retry' must be digits"),
    ],
)
def test_text_that_a_browser_would_ignore_is_an_error_behind_the_events_before_it(
    parts: list[Any], what: str
) -> None:
    first = parts[0]
    good = b"data: good\n\n" if isinstance(first, bytes) else "data: good\n\n"
    for source in ([good, *parts], [good + first, *parts[1:]]):
        given = messages_of(source)
        got = [next(given)]
        with pytest.raises(MessageError, match=what):
            got.append(next(given))
        assert got == [{"data": "good"}]


@pytest.mark.parametrize("beginning", ["", "d", "da", "data", "data:", "retr", "id", ":", "\ufeff"])
def test_what_can_become_a_field_is_waited_for(beginning: str) -> None:
    assert list(Messages(MOST).of(beginning)) == []


@pytest.mark.parametrize("part", ["data: half", b"data: half\n", "id: 7\n", b"data: \xc3", "da"])
def test_a_message_in_the_middle_of_an_event_of_text_is_an_error(part: Any) -> None:
    with pytest.raises(MessageError, match="in the middle of an event of text, which a blank line"):
        list(messages_of([part, {"data": "mine"}]))


@pytest.mark.parametrize("kind", [str, str.encode])
@pytest.mark.parametrize("part", ["data: x\n", ": x\n", "x"])
def test_an_event_without_an_end_is_bounded(part: str, kind: Any) -> None:
    taken: list[int] = []

    def parts() -> Iterator[Any]:
        yield kind("data: ")
        while True:
            taken.append(len(part))
            yield kind(part)

    with pytest.raises(MessageError, match=r"no end after \d+ bytes, and may have max_bytes"):
        list(messages_of(parts()))
    assert MOST - 10 <= sum(taken) <= MOST + 10


def test_one_whole_event_may_be_larger_than_the_bound() -> None:
    text = "x" * 10 * MOST
    assert list(messages_of([f"data: {text}\n\n"] * 3)) == [{"data": text}] * 3


def test_heartbeats_between_events_are_not_counted_together() -> None:
    messages = list(messages_of([":\n"] * MOST + ["data: x\n\n"] + [":\n"] * MOST))
    assert messages == [{"data": "x"}]
    # In the middle of an event they are bounded as all other lines are.
    with pytest.raises(MessageError, match="no end after"):
        list(messages_of(["data: x\n"] + [":\n"] * MOST))


def test_many_events_are_not_counted_together() -> None:
    part = "data: " + "x" * 100 + "\n\ndata: "
    messages = Messages(MOST)
    assert len([list(messages.of(part if n == 0 else part[6:])) for n in range(100)]) == 100


@pytest.mark.parametrize(
    "parts", [["data: half"], [b"data: one\n", b"id: 7\n"], [b"data: \xc3"], ["da"]]
)
def test_an_event_that_is_not_ended_is_dropped_and_logged(
    parts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    good: Any = "data: good\n\n" if isinstance(parts[0], str) else b"data: good\n\n"
    with caplog.at_level(logging.WARNING, "ssestream"):
        assert list(messages_of([good, *parts])) == [{"data": "good"}]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "has ended in the middle of an event of text" in caplog.text
    # As a browser does.
    text = b"".join(part.encode() if isinstance(part, str) else part for part in [good, *parts])
    assert Decoder().feed(text) == [{"data": "good"}]


# -- in a pipeline


def app_of(source: Any, **options: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        stream = SseStream(environ, **options)
        return pipeline(source, stream, ServerResponse())(environ, start_response)

    return app


@on_threads_and_greenlets
def test_text_in_a_pipeline_is_written_as_messages_are() -> None:
    data = TEXT.encode()
    parts = [data[n : n + 5] for n in range(0, len(data), 5)]
    with Visit(app_of([*parts, {"data": {"my": "own"}}])) as visit:
        visit.read_to_end()
        own = {"data": '{"my":"own"}'}
        assert Decoder().feed(visit.body) == [{"comment": "ok"}, *MESSAGES, own]
        assert visit.body == b":ok\n\n" + b"".join(map(encode, [*MESSAGES, own]))


@on_threads_and_greenlets
def test_tokens_in_a_pipeline_are_an_error_that_says_what_to_yield(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(app_of(["Hello", " world"])) as visit:
        visit.read_to_end()
        assert b"Hello" not in visit.body
        until(lambda: caplog.records, "the log")
    assert "To send a text, give the message {'data': text}" in caplog.text


@on_threads_and_greenlets
def test_the_bound_of_an_unended_event_is_the_streams(caplog: pytest.LogCaptureFixture) -> None:
    def endless() -> Iterator[str]:
        yield "data: "
        while True:
            yield "x" * 100

    app = app_of(endless(), max_bytes=5000)
    with caplog.at_level(logging.ERROR, "ssestream"), Visit(app) as visit:
        visit.read_to_end()
        until(lambda: caplog.records, "the log")
    assert "may have max_bytes (5000)" in caplog.text


@on_threads_and_greenlets
def test_a_source_of_parts_that_complete_nothing_is_closed_when_the_client_leaves() -> None:
    begun: list[bool] = []
    closed: list[bool] = []

    def source() -> Iterator[str]:
        begun.append(True)
        try:
            while True:
                yield ":\n"
        finally:
            closed.append(True)

    with Visit(app_of(source())) as visit:
        visit.read_until(b":ok\n\n")
        # A generator that has not begun has no ``finally`` to run.
        until(lambda: begun, "the source's start")
    until(lambda: closed, "the source's end")
