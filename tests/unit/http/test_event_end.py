"""Where bytes of an event stream stop, and what waits for the end of an event."""

import pytest

from ssestream.http.event_end import BETWEEN, IN_EVENT, IN_LINE, Half, end_of
from ssestream.wire import come_back_block, id_block


@pytest.mark.parametrize("before", [BETWEEN, IN_EVENT, IN_LINE])
@pytest.mark.parametrize(
    ("frame", "end"),
    [
        (b"data: x\n\n", BETWEEN),
        (b":\r\n\r\n", BETWEEN),
        (b"data: x\r\r", BETWEEN),
        (b"data: x\n", IN_EVENT),
        (b"data: x\r\n", IN_EVENT),
        (b"data: x", IN_LINE),
        (b"data: x\r", IN_LINE),
    ],
)
def test_most_bytes_show_where_they_stop(frame: bytes, end: int, before: int) -> None:
    assert end_of(frame, before) == end


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_the_end_of_a_line_alone_ends_an_event_or_only_the_line(line_end: bytes) -> None:
    assert end_of(line_end, BETWEEN) == end_of(line_end, IN_EVENT) == BETWEEN
    assert end_of(line_end, IN_LINE) == IN_EVENT


def test_blocks_wait_in_order_until_the_event_ends() -> None:
    half = Half(IN_LINE)
    half.hold(id_block("a=1"))
    assert not half.is_ended_by(b" and\n")
    half.hold(id_block("a=2"))
    assert not half.is_ended_by(b"data: more")
    assert half.is_ended_by(b"\n\n")
    assert half.blocks_after(b"\n\n") == id_block("a=1") + id_block("a=2")


def test_an_id_that_came_meanwhile_is_newer() -> None:
    half = Half(IN_LINE)
    half.hold(id_block("a=1"))
    assert half.blocks_after(b"id: a=2\ndata: x\n\n") == b""


def test_only_blocks_of_the_package_at_the_beginning_of_frames_wait() -> None:
    half = Half(IN_EVENT)
    blocks = id_block("a=1") + id_block("a=1,b=7") + come_back_block(500)
    messages = b"id: a=2\ndata: x\n\n" + id_block("a=3")
    assert half.hold_first(blocks + messages) == messages
    assert half.hold_first(messages) == messages
    assert b"".join(half.blocks) == blocks


@pytest.mark.parametrize("end", [IN_EVENT, IN_LINE])
def test_in_an_event_that_never_ends_the_blocks_are_lines(end: int) -> None:
    half = Half(end)
    assert half.last_lines() == b""
    half.hold(id_block("a=1"))
    half.hold(come_back_block(500))
    lines = b"id: a=1\nevent: ssestream-retry\nretry: 500\n"
    assert half.last_lines() == (b"\n" if end == IN_LINE else b"") + lines


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_no_line_end_of_an_apps_last_message_is_a_blank_line(end: str) -> None:
    half = Half(IN_EVENT)
    half.hold(f"data: x{end}{end}data: y{end}{end}".encode())
    assert half.last_lines() == b"data: x\ndata: y\n"
