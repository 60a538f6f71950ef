"""A response may come in any pieces, and its framing tells a whole one from a broken one."""

import pytest

from ssestream.testing.http_reader import HttpReader

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nA;x=y\r\n, chunked!\r\n0\r\n\r\n"
)
MEASURED = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhello"
)
ENDLESS = b"HTTP/1.0 200 OK\r\n\r\nhello"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("sent", "body"), [(CHUNKED, b"hello, chunked!"), (MEASURED, b"hello"), (ENDLESS, b"hello")]
)
def test_the_pieces_do_not_matter(sent: bytes, body: bytes, size: int) -> None:
    reader, got = HttpReader("GET"), b""
    for start in range(0, len(sent), size):
        assert not reader.is_complete
        reader.feed(sent[start : start + size])
        if start % 2:
            got += reader.take()
    reader.close()
    got += reader.take()
    assert (got, reader.is_complete) == (body, True)


@pytest.mark.parametrize("sent", [CHUNKED[:-1], CHUNKED[:-3], MEASURED[:-1], CHUNKED[:20]])
def test_one_that_breaks_off_is_not_complete(sent: bytes) -> None:
    reader = HttpReader("GET")
    reader.feed(sent)
    reader.close()
    assert not reader.is_complete


def test_headers_of_the_same_name_are_kept() -> None:
    reader = HttpReader("GET")
    reader.feed(MEASURED)
    assert reader.head is not None
    assert (reader.head[0], reader.head[1].getlist("set-cookie")) == (200, ["a=1", "b=2"])


def test_a_response_without_a_body_is_complete_with_its_head() -> None:
    for method, status in (("GET", b"204 No Content"), ("HEAD", b"200 OK")):
        reader = HttpReader(method)
        reader.feed(b"HTTP/1.1 " + status + b"\r\n\r\n")
        assert reader.is_complete


def test_an_early_hint_is_passed_over() -> None:
    reader = HttpReader("GET")
    reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + MEASURED)
    assert reader.head is not None
    assert (reader.head[0], reader.take()) == (200, b"hello")


def test_a_chunk_of_a_negative_size_is_refused() -> None:
    reader = HttpReader("GET")
    with pytest.raises(ValueError, match="size -5"):
        reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n")
