"""Events that a view writes by hand, in pieces, and what is sent beside them."""

import time
from typing import Any

import gevent
import pytest

from ssestream import SseStream, statistics
from ssestream.http.connection import Connection
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.settings import Settings
from ssestream.wire import HEARTBEAT, Decoder

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
    assert received.startswith(b"retry: 3000\n\ndata: whole\n\n" + beat + b"retry: ")
    assert received.endswith(b"\n\n")


def test_one_that_is_refused_is_told_nothing_of_its_half() -> None:
    message = OutgoingMessage()
    message.write("id: 1\ndata: half")
    body_of(message).buffer.clear()
    body_of(message).buffer.put_last(b"retry: 5\n\n")
    assert body_of(message).buffer.take() == b"retry: 5\n\n"


def test_a_writer_of_carriage_returns_gets_its_beats() -> None:
    message = OutgoingMessage()
    settings = Settings(heartbeat=0.02, send_timeout=None, tcp_user_timeout=None)
    body_of(message).open(Connection(), settings)
    message.write("data: x\r\r")
    body = body_of(message)
    deadline = time.monotonic() + 10
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
