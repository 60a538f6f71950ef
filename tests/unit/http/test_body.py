"""Events that a view writes by hand, in pieces, and what is sent beside them."""

import time
import zlib
from typing import Any

import gevent
import pytest

from ssestream import SseStream, statistics
from ssestream.http import body as room
from ssestream.http.connection import Connection
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.http.registry import registry
from ssestream.runtime.clock import clock
from ssestream.settings import Settings
from ssestream.stream import flow_of
from ssestream.wire import HEARTBEAT, Decoder, id_block

QUIET = Settings(heartbeat=None, send_timeout=None, tcp_user_timeout=None, retry=3000)

WHOLE = {"id": "1", "data": "first\nsecond"}

#: One event in two pieces, parted wherever a writer might.
HALVES = [
    ("id: 1\ndata: fir", "st\ndata: second\n\n"),
    ("id: 1\ndata: first", "\ndata: second\n\n"),
    ("id: 1\ndata: first\n", "data: second\n\n"),
    ("id: 1\ndata: first\ndata: second\n", "\n"),
    ("id: 1\r\ndata: first\r", "\ndata: second\r\n\r\n"),
    ("id: 1\r\ndata: first\r\ndata: second\r\n\r", "\n"),
    ("id: 1\rdata: first\r", "data: second\r\r"),
]

in_halves = pytest.mark.parametrize(("first", "second"), HALVES, ids=[ascii(h[0]) for h in HALVES])


def rest_of(message: OutgoingMessage) -> list[dict[str, Any]]:
    message.end()
    return Decoder().feed(b"".join(body_of(message)))


@in_halves
@pytest.mark.parametrize("before", ["", "data: before\n\n"])
def test_the_opening_retry_is_in_no_event(before: str, first: str, second: str) -> None:
    message = OutgoingMessage()
    message.write(before)
    message.write(first)
    body_of(message).open(Connection(), QUIET)
    message.write(second)
    got = rest_of(message)
    assert [each for each in got if "data" in each][-1] == WHOLE
    assert {"retry": 3000} in got
    assert len(got) == 2 + bool(before)


@in_halves
def test_nor_is_what_opens_a_piped_stream(first: str, second: str) -> None:
    message = OutgoingMessage()
    message.write(first)
    sse_stream = SseStream()
    sse_stream.pipe(message)
    body_of(message).open(Connection(), QUIET)
    message.write(second)
    sse_stream.write({"data": "piped"})
    got = rest_of(message)
    assert [each for each in got if "data" in each] == [WHOLE, {"data": "piped"}]
    assert got[0] in ({"retry": 3000}, {"comment": "ok"})
    assert len(got) == 4


@in_halves
def test_a_beat_is_in_no_line(first: str, second: str) -> None:
    message = OutgoingMessage()
    body_of(message).open(Connection(), QUIET)
    body = body_of(message)
    received = next(body)
    for piece in (first, second):
        message.write(piece)
        received += next(body)
        body_of(message).buffer.mark_sent()
        if body_of(message).buffer.put_into_silence(HEARTBEAT):
            received += next(body)
            body_of(message).buffer.mark_sent()
    assert Decoder().feed(received) == [{"retry": 3000}, WHOLE]
    assert received.endswith(HEARTBEAT)
    body.close()


@in_halves
@pytest.mark.parametrize("cause", ["age", "shutdown"])
def test_half_an_event_is_not_ended_by_the_last_retry(cause: Any, first: str, second: str) -> None:
    """A browser that comes back is given the whole of it, as the half did not count."""
    message = OutgoingMessage()
    body_of(message).open(Connection(), QUIET)
    message.write("data: before\n\n")
    message.write(first)
    body_of(message).retire(cause)
    assert message.write(second) is False
    received = b"".join(body_of(message))
    decoder = Decoder()
    # Of one that is parted in its last line end, the half is the whole.
    half = Decoder().feed(first.encode())
    assert decoder.feed(received) == [{"retry": 3000}, {"data": "before"}, *half]
    assert decoder.feed(b"\n")[0]["retry"] in range(1000, 5001)


def waiting(*frames: bytes) -> OutgoingMessage:
    """A response that is full. A stream with *frames* waits for it."""
    message = OutgoingMessage(high_water_mark=10)
    sse_stream = SseStream()
    sse_stream.pipe(message)
    body_of(message).open(Connection(), QUIET)
    message.write("data: before\n\n")
    for frame in frames:
        flow_of(sse_stream).write_uncounted(frame)
    assert sse_stream.writable_length == len(frames)
    return message


@in_halves
def test_nor_is_an_id_that_waits_in_a_stream(first: str, second: str) -> None:
    message = waiting(id_block("a=1"), id_block("a=2"))
    message.write(first)
    received = next(body_of(message))
    body_of(message).mark_sent()
    message.write(second)
    message.write("data: next\n\n")
    message.end()
    got = Decoder().feed(received + b"".join(body_of(message)))
    events = [each for each in got if "data" in each]
    assert events == [{"data": "before"}, WHOLE, {"data": "next"}]
    assert [each for each in got if each.keys() == {"id"}] == [{"id": "a=1"}, {"id": "a=2"}]


@in_halves
@pytest.mark.parametrize("cause", ["age", "shutdown"])
def test_half_an_event_is_not_ended_by_an_id_that_waits(
    cause: Any, first: str, second: str
) -> None:
    message = waiting(id_block("a=1"), id_block("a=2"))
    message.write(first)
    body_of(message).retire(cause)
    got = Decoder().feed(b"".join(body_of(message)))
    half = Decoder().feed(first.encode())
    assert [each for each in got if "data" in each] == [{"data": "before"}, *half]
    assert not any(each.get("id", "").startswith("a=") for each in got)


@in_halves
def test_an_id_of_a_stream_that_is_piped_late_is_in_no_event(first: str, second: str) -> None:
    message, sse_stream = OutgoingMessage(), SseStream()
    message.write(first)
    flow_of(sse_stream).write_uncounted(id_block("a=1"))
    sse_stream.pipe(message)
    body_of(message).open(Connection(), QUIET)
    message.write(second)
    message.write("data: next\n\n")
    got = rest_of(message)
    assert [each for each in got if "data" in each] == [WHOLE, {"data": "next"}]
    assert {"id": "a=1"} in got


@pytest.mark.parametrize("beats", [False, True])
def test_between_two_events_the_last_retry_is_a_block_of_its_own(beats: bool) -> None:
    message = OutgoingMessage()
    body_of(message).open(Connection(), QUIET)
    message.write("data: whole\n\n")
    received = body_of(message).buffer.take() or b""
    body_of(message).buffer.mark_sent()
    assert not beats or body_of(message).buffer.put_into_silence(HEARTBEAT)
    body_of(message).retire("shutdown")
    received += b"".join(body_of(message))
    beat = HEARTBEAT if beats else b""
    assert received.startswith(
        b"retry: 3000\n\ndata: whole\n\n" + beat + b"event: ssestream-retry\nretry: "
    )
    assert received.endswith(b"\n\n")


def test_one_that_is_refused_is_told_nothing_of_its_half() -> None:
    message = OutgoingMessage()
    message.write("id: 1\ndata: half")
    body_of(message).buffer.clear()
    body_of(message).buffer.put_together(b"retry: 5\n\n", 0, [])
    assert body_of(message).buffer.take() == b"retry: 5\n\n"


def test_a_writer_of_carriage_returns_gets_its_beats() -> None:
    message = OutgoingMessage()
    settings = Settings(heartbeat=0.02, send_timeout=None, tcp_user_timeout=None)
    # Before the first beat may be due.
    message.write("data: x\r\r")
    body_of(message).open(Connection(), settings)
    body = body_of(message)
    deadline = time.monotonic() + 60
    received = b""
    while HEARTBEAT not in received and time.monotonic() < deadline:
        received += next(body)
        gevent.sleep(0)
    assert received == b"data: x\r\r" + HEARTBEAT
    message.destroy()


def test_one_that_is_destroyed_while_it_is_opened_is_counted_as_that() -> None:
    class Racing(Connection):
        def watch(self, *args: Any) -> None:
            message.destroy()

    message = OutgoingMessage()
    before = statistics()
    body_of(message).open(Racing(), Settings())
    after = statistics()
    assert after.closed["error"] == before.closed.get("error", 0) + 1
    assert (after.opened, after.open) == (before.opened + 1, before.open)


# -- the end of the worker


OWN = b"event: interrupted\ndata: own\n\n"


def answering(on_shutdown: Any = "finish", **more: Any) -> tuple[SseStream, OutgoingMessage]:
    """A stream in a response that is being sent, with one message that waits in each."""
    message, sse_stream = OutgoingMessage(), SseStream()
    sse_stream.pipe(message)
    body_of(message).open(Connection(), Settings(on_shutdown=on_shutdown, **more))
    sse_stream.write({"data": "waits"})
    return sse_stream, message


@pytest.fixture
def draining(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry of this test alone, which drains."""
    own = type(registry)()
    monkeypatch.setattr(room, "registry", own)
    return own


@pytest.mark.parametrize("interrupted", [None, OWN, {"event": "interrupted", "data": "own"}])
@pytest.mark.parametrize("on_shutdown", [None, "reconnect", "finish", "cut"])
def test_the_end_of_the_worker_means_what_the_stream_says(
    on_shutdown: Any, interrupted: Any, draining: Any
) -> None:
    _, message = answering(on_shutdown, interrupted=interrupted)
    body = body_of(message)
    draining.begin_draining()
    body.retire("shutdown")
    received = b"".join(_until_it_breaks(body))
    if on_shutdown == "cut":
        assert (received, body.cause, body.finished) == (b"", "shutdown", False)
    elif on_shutdown == "finish":
        assert received == b":ok\n\ndata: waits\n\n" + (OWN if interrupted else b"")
        assert (body.cause, body.finished) == ("interrupted", False)
    else:
        assert received.startswith(b":ok\n\ndata: waits\n\nevent: ssestream-retry\nretry: ")
        assert (body.cause, body.finished) == ("shutdown", True)


def _until_it_breaks(body: Any) -> Any:
    """The chunks of *body*, which has no socket, and so can only be broken off by an exception."""
    try:
        yield from body
    except ConnectionResetError:
        assert not body.finished


def test_a_stream_that_finishes_goes_on_until_its_time_is_over(draining: Any) -> None:
    sse_stream, message = answering()
    body = body_of(message)
    draining.begin_draining(clock.now() + 1000)
    body.retire("shutdown")
    assert body.goes_on
    assert sse_stream.write({"data": "more"})
    assert next(body) == b":ok\n\ndata: waits\n\ndata: more\n\n"
    draining.begin_draining()
    body.retire("shutdown")
    assert not body.goes_on
    assert sse_stream.write({"data": "late"}) is False
    # The end of a response that is broken off does not make it whole.
    message.end()
    with pytest.raises(ConnectionResetError):
        next(body)
    assert not body.finished


@pytest.mark.parametrize("who", ["stream", "response"])
def test_an_answer_that_was_ended_is_whole_however_slow_its_client_is(
    who: str, draining: Any
) -> None:
    sse_stream, message = answering(interrupted=OWN)
    body = body_of(message)
    next(body)
    # Too much for the response, so that the last messages wait in the stream.
    for _ in range(5):
        sse_stream.write({"data": "x" * 10_000})
    assert (sse_stream if who == "stream" else message).end() is None
    draining.begin_draining()
    body.retire("shutdown")
    received = b"".join(body)
    assert received.count(b"data: ") == (5 if who == "stream" else received.count(b"xx\n\n"))
    assert received.endswith(b"x\n\n")
    assert (body.cause, body.finished) == ("shutdown", True)


def test_a_stream_that_does_not_end_its_response_does_not_make_it_whole(draining: Any) -> None:
    message, sse_stream = OutgoingMessage(), SseStream()
    sse_stream.pipe(message, end=False)
    body = body_of(message)
    body.open(Connection(), Settings(on_shutdown="finish"))
    sse_stream.end({"data": "all of this stream"})
    draining.begin_draining()
    body.retire("shutdown")
    assert b"".join(_until_it_breaks(body)) == b":ok\n\ndata: all of this stream\n\n"
    assert not body.finished


@pytest.mark.parametrize("on_shutdown", ["reconnect", "finish", "cut"])
def test_a_refused_answer_does_not_look_like_an_empty_one(on_shutdown: Any) -> None:
    _, message = answering(on_shutdown)
    body = body_of(message)
    body.retire("refused")
    received = b"".join(_until_it_breaks(body))
    assert received.startswith(b"event: ssestream-retry\nretry: ")
    assert body.finished == (on_shutdown == "reconnect")


@pytest.mark.parametrize("cause", ["error", "interrupted"])
def test_a_compressed_answer_that_is_broken_off_has_no_end_of_its_gzip_data(cause: Any) -> None:
    _, message = answering()
    body = body_of(message)
    body.compress()
    unzip = zlib.decompressobj(31)
    body.retire(cause)
    assert unzip.decompress(b"".join(_until_it_breaks(body))).endswith(b"data: waits\n\n")
    assert not unzip.eof
