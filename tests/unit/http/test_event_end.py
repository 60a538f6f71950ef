"""Where bytes of an event stream stop."""

import pytest

from ssestream.http.event_end import BETWEEN, IN_EVENT, IN_LINE, end_of


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
