"""The queue of bytes: its order, its mark, its chunks, its reader, and what may go between."""

import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from ssestream.http.output import CHUNK, STUCK, OutputBuffer
from ssestream.runtime.waker import Wakeable
from ssestream.wire import HEARTBEAT, id_block
from tests.kit.visit import until


class Reader(Wakeable):
    """A reader that counts how often it is woken."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def wake_now(self, _: None = None) -> None: ...


@pytest.fixture
def buffer() -> OutputBuffer:
    return OutputBuffer(100)


def drained(buffer: OutputBuffer) -> bytes:
    """All that waits, as a reader takes it."""
    data, reader = b"", Reader()
    while chunk := buffer.take_nowait(reader):
        data += chunk
        buffer.mark_sent()
    return data


def test_what_was_put_together_leaves_as_one_chunk_in_order(buffer: OutputBuffer) -> None:
    for number in range(3):
        assert buffer.put(b"data: %d\n\n" % number)
    assert buffer.length == 27
    assert buffer.take() == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    # Until the reader comes back, the kernel need not have it.
    assert (buffer.length, buffer.sent()) == (27, (0, 0))
    buffer.mark_sent()
    assert (buffer.length, buffer.sent()) == (0, (3, 27))


def test_at_the_mark_a_writer_has_to_wait_and_drain_is_due_once(buffer: OutputBuffer) -> None:
    assert buffer.put(b"x" * 99)
    assert not buffer.need_drain
    assert buffer.put(b"x") is False
    assert buffer.need_drain
    buffer.take()
    assert buffer.need_drain
    assert buffer.mark_sent() is True
    assert not buffer.need_drain
    assert buffer.mark_sent() is False


def test_drain_is_not_due_while_something_waits(buffer: OutputBuffer) -> None:
    buffer.put(b"x" * 100)
    buffer.take()
    buffer.put(b"y")
    assert buffer.mark_sent() is False
    buffer.take()
    assert buffer.mark_sent() is True


@pytest.mark.parametrize("sizes", [[3 * CHUNK], [CHUNK, 1], [CHUNK - 1, 2, CHUNK], [1000] * 200])
def test_no_chunk_is_larger_than_may_be_in_hand_and_nothing_is_lost(sizes: list[int]) -> None:
    buffer = OutputBuffer(1)
    frames = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    for frame in frames:
        buffer.put(frame)
    chunks, reader = [], Reader()
    while chunk := buffer.take_nowait(reader):
        assert len(chunk) <= CHUNK
        chunks.append(chunk)
        buffer.mark_sent()
    assert b"".join(chunks) == b"".join(frames)
    assert buffer.sent() == (len(frames), sum(sizes))


def test_a_message_of_several_chunks_counts_when_its_last_byte_is_sent() -> None:
    buffer = OutputBuffer(1)
    buffer.put(b"a" * (2 * CHUNK))
    buffer.put(b"b")
    counts = []
    for _ in range(3):
        buffer.take()
        buffer.mark_sent()
        counts.append(buffer.sent()[0])
    assert counts == [0, 1, 2]


def test_a_reader_that_finds_nothing_is_woken_once_by_the_next_writer(
    buffer: OutputBuffer,
) -> None:
    reader = Reader()
    assert buffer.take_nowait(reader) == b""
    buffer.put(b"one")
    buffer.put(b"two")
    assert reader.woken == 1
    assert buffer.take_nowait(reader) == b"onetwo"
    buffer.put(b"three")
    assert reader.woken == 1  # it is awake


@pytest.mark.parametrize("sleeper", ["thread", "greenlet"])
def test_a_reader_that_sleeps_gets_what_another_thread_puts(sleeper: str) -> None:
    buffer = OutputBuffer(100)
    got: list[bytes | None] = []

    def read() -> None:
        for _ in range(2):
            got.append(buffer.take())
            buffer.mark_sent()

    reader = threading.Thread(target=read) if sleeper == "thread" else gevent.spawn(read)
    if isinstance(reader, threading.Thread):
        reader.start()
    for call, args in ((buffer.put, (b"data: x\n\n",)), (buffer.end, ())):
        until(lambda: buffer.waiting_reader, "the reader's sleep")
        writer = threading.Thread(target=call, args=args)
        writer.start()
        writer.join()
    until(lambda: len(got) == 2, "both")
    assert got == [b"data: x\n\n", None]


def test_after_the_end_what_waits_is_sent_and_nothing_is_taken(buffer: OutputBuffer) -> None:
    buffer.put(b"last")
    buffer.end()
    assert buffer.put(b"late") is False
    assert buffer.put_if_clear(b"late", 1) is False
    assert buffer.put_into_silence(HEARTBEAT) is False
    assert buffer.take() == b"last"
    buffer.mark_sent()
    assert buffer.take() is None


def test_a_buffer_that_is_closed_drops_what_waits_and_is_in_hand(buffer: OutputBuffer) -> None:
    buffer.put(b"in hand")
    buffer.take()
    buffer.put(b"waits")
    buffer.close()
    assert (buffer.length, buffer.taken_at) == (0, 0.0)
    assert buffer.put(b"late") is False
    buffer.mark_sent()
    assert (buffer.take(), buffer.sent()) == (None, (0, 0))


@pytest.mark.parametrize("sleeps", [True, False])
def test_the_guard_is_woken_when_the_buffer_is_closed_and_not_when_it_ends(
    buffer: OutputBuffer, sleeps: bool
) -> None:
    guard, reader = Reader(), Reader()
    buffer.guard_with(guard)
    if sleeps:
        buffer.take_nowait(reader)
    buffer.end()
    assert (guard.woken, reader.woken) == (0, int(sleeps))
    buffer.close()
    assert (guard.woken, reader.woken) == (1, int(sleeps))
    buffer.guard_with(None)
    buffer.close()
    assert guard.woken == 1


def test_a_frame_that_must_not_wait_is_refused_at_the_mark(buffer: OutputBuffer) -> None:
    assert buffer.put_if_clear(b"a" * 60, 2) is True
    assert buffer.put_if_clear(b"", 1) is False
    assert buffer.put_if_clear(b"b" * 60, 1) is True
    assert buffer.put_if_clear(b"c", 1) is False
    assert drained(buffer) == b"a" * 60 + b"b" * 60
    assert buffer.sent() == (3, 120)


@pytest.mark.parametrize(
    ("before", "taken"),
    [
        (b"", True),
        (b"data: x\n\n", True),
        (b"data: x\r\n\r\n", True),
        (b"data: x\r\r", True),
        (b"data: x\n", True),
        (b"data: x", False),
        (b"data: x\r", False),
    ],
)
def test_a_comment_goes_into_silence_and_into_no_line(
    buffer: OutputBuffer, before: bytes, taken: bool
) -> None:
    if before:
        buffer.put(before)
        # Behind bytes that wait, or are in hand, it would tell the client nothing.
        assert buffer.put_into_silence(HEARTBEAT) is False
        buffer.take()
        assert buffer.put_into_silence(HEARTBEAT) is False
        buffer.mark_sent()
    assert buffer.put_into_silence(HEARTBEAT) is taken
    assert drained(buffer) == (HEARTBEAT if taken else b"")


@pytest.mark.parametrize(
    ("before", "taken", "last"),
    [
        (b"", False, b"retry: 5\n\n"),
        (b"data: x\n\n", True, b"retry: 5\n\n"),
        (b"data: x\n", True, b"retry: 5\n"),
        (b"data: x", True, b"\nretry: 5\n"),
    ],
)
def test_the_last_frame_completes_no_event_of_the_apps(
    buffer: OutputBuffer, before: bytes, taken: bool, last: bytes
) -> None:
    if taken:
        buffer.put(before)
        buffer.take()
        buffer.mark_sent()
    assert buffer.put_together(b"retry: 5\n\n", 0, [])
    buffer.end()
    assert drained(buffer) == last
    assert buffer.put(b"late") is False


#: How a block of the package comes into a buffer.
WAYS: dict[str, Callable[[OutputBuffer, bytes], object]] = {
    "alone": lambda buffer, block: buffer.put_if_clear(block, 0),
    "with others": lambda buffer, block: buffer.put_together(block, 1, []),
}

by_any_way = pytest.mark.parametrize("way", WAYS)


@by_any_way
@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("first", [b"data: half", b"data: half\n"])
def test_a_block_comes_after_an_event_that_has_begun(
    buffer: OutputBuffer, first: bytes, taken: bool, way: str
) -> None:
    buffer.put(first)
    got = drained(buffer) if taken else b""
    assert WAYS[way](buffer, id_block("a=1")) is True
    got += drained(buffer)
    buffer.put(b" and half\n\n")
    got += drained(buffer)
    assert got == first + b" and half\n\n" + id_block("a=1")
    assert buffer.sent()[0] == 2
    WAYS[way](buffer, id_block("a=2"))
    assert drained(buffer) == id_block("a=2")


@by_any_way
def test_a_reader_that_sleeps_is_not_disturbed_by_a_block_that_waits(
    buffer: OutputBuffer, way: str
) -> None:
    buffer.put(b"data: half")
    drained(buffer)
    reader = Reader()
    assert buffer.take_nowait(reader) == b""
    WAYS[way](buffer, id_block("a=1"))
    assert buffer.take_nowait(reader) == b""
    woken = reader.woken
    buffer.put(b"\n\n")
    assert reader.woken == woken + 1
    assert drained(buffer) == b"\n\n" + id_block("a=1")


#: How events of a channel reach a client; each has an id.
EVENTS: dict[str, Callable[[OutputBuffer, bytes], object]] = {
    "alone": lambda buffer, event: buffer.put_if_clear(event, 1),
    "with others": lambda buffer, event: buffer.put_together(event, 1, []),
    "to the reader": lambda buffer, event: buffer.hand_to_reader(event, 1, 1.0),
    "past the buffer": lambda buffer, event: buffer.sent_past(1, len(event), 1.0),
    "past it in part": lambda buffer, event: buffer.take_unput(len(event), 1),
}


@pytest.mark.parametrize("way", EVENTS)
def test_an_id_that_waits_does_not_come_after_that_of_a_later_event(
    buffer: OutputBuffer, way: str
) -> None:
    buffer.put(b"data: half")
    drained(buffer)
    buffer.put_if_clear(id_block("a=1"), 0)
    buffer.take_nowait(Reader())
    EVENTS[way](buffer, b"id: a=2\ndata: x\n\n")
    drained(buffer)
    buffer.mark_sent()
    # The event has ended the half: a comment may come, and blocks wait no more.
    assert buffer.put_into_silence(HEARTBEAT) is True
    assert buffer.put_if_clear(id_block("a=3"), 0) is True
    assert drained(buffer) == HEARTBEAT + id_block("a=3")


def test_at_the_end_a_block_that_waits_completes_no_event(buffer: OutputBuffer) -> None:
    buffer.put(b"data: half")
    buffer.put_if_clear(id_block("a=1"), 0)
    buffer.end()
    buffer.end()
    assert drained(buffer) == b"data: half\nid: a=1\n"


def test_a_buffer_that_is_closed_drops_the_blocks_that_wait(buffer: OutputBuffer) -> None:
    buffer.put(b"data: half")
    buffer.put_if_clear(id_block("a=1"), 0)
    buffer.close()
    buffer.end()
    assert (buffer.length, buffer.take()) == (0, None)


def test_the_blocks_that_wait_are_returned_with_what_is_cleared(buffer: OutputBuffer) -> None:
    buffer.put(b"data: half")
    buffer.put_if_clear(id_block("a=1"), 0)
    assert buffer.clear() == [b"data: half", id_block("a=1")]
    buffer.put(b"\n\n")
    assert drained(buffer) == b"\n\n"


def test_the_opening_goes_before_an_event_that_has_begun(buffer: OutputBuffer) -> None:
    buffer.put(b"data: half")
    buffer.put_opening(b"retry: 5\n\n")
    buffer.put(b" and half\n\n")
    assert drained(buffer) == b"retry: 5\n\ndata: half and half\n\n"
    # Neither it nor the opening comment is a message.
    assert buffer.sent()[0] == 2


def test_the_opening_is_left_out_where_the_event_was_taken(buffer: OutputBuffer) -> None:
    buffer.put(b"data: half")
    buffer.take()
    buffer.put_opening(b"retry: 5\n\n")
    buffer.mark_sent()
    buffer.put(b" and half\n\n")
    assert drained(buffer) == b" and half\n\n"


def test_a_comment_that_was_written_as_a_message_can_be_discounted(buffer: OutputBuffer) -> None:
    buffer.put(b":ok\n\n")
    buffer.discount()
    buffer.put(b"data: x\n\n")
    drained(buffer)
    assert buffer.sent() == (1, 14)


def test_what_is_cleared_is_returned_and_the_rest_is_queued_as_before(
    buffer: OutputBuffer,
) -> None:
    buffer.put(b"data: one\n\n")
    buffer.put(b"data: ha")
    assert buffer.clear() == [b"data: one\n\n", b"data: ha"]
    assert buffer.length == 0
    # The half line is gone, so that a comment may come.
    assert buffer.put_into_silence(HEARTBEAT) is True
    buffer.put(b"data: two\n\n")
    assert drained(buffer) == HEARTBEAT + b"data: two\n\n"
    assert buffer.sent()[0] == 1


def test_a_chunk_that_another_way_took_in_part_counts_as_in_hand(buffer: OutputBuffer) -> None:
    reader = Reader()
    buffer.take_nowait(reader)
    buffer.take_unput(100, 2)
    assert (buffer.length, buffer.need_drain, buffer.sent()) == (100, True, (0, 0))
    buffer.put(b"x")
    assert reader.woken == 0
    assert buffer.mark_sent() is False
    assert buffer.sent() == (2, 100)


def test_a_trailer_counts_for_the_time_alone(
    buffer: OutputBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Now(monkeypatch)
    now.is_at = 50.0
    buffer.take_trailer()
    assert (buffer.taken_at, buffer.written_at) == (50.0, 50.0)
    assert (buffer.length, buffer.sent()) == (0, (0, 0))


class Now:
    """The time of the buffers, which stands until a test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_at = 10.0
        monkeypatch.setattr("ssestream.http.output.clock", self)

    def now(self) -> float:
        return self.is_at


def test_a_client_is_stuck_when_it_does_not_take_what_is_in_hand(
    buffer: OutputBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now: Any = Now(monkeypatch)
    buffer.put(b"x")
    assert not buffer.is_stuck(11.0)  # the reader had no time to come
    buffer.take()
    assert not buffer.is_stuck(10.0)
    assert buffer.is_stuck(10.5)
    now.is_at += STUCK
    assert buffer.is_stuck(0.0)
    buffer.mark_sent()
    assert not buffer.is_stuck(11.5)


def test_threads_that_write_at_once_lose_nothing() -> None:
    buffer, got = OutputBuffer(1000), []

    def write(name: int) -> None:
        for number in range(300):
            buffer.put(b"%d:%d " % (name, number))

    def read() -> None:
        while (chunk := buffer.take()) is not None:
            got.append(chunk)
            buffer.mark_sent()

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    buffer.end()
    until(lambda: not reader.is_alive(), "the reader's end")
    words = [word.split(b":") for word in b"".join(got).split()]
    for name in range(4):
        assert [int(n) for who, n in words if int(who) == name] == list(range(300))
    assert buffer.sent()[0] == 1200
