"""gzip: who takes it, and that each chunk can be read when it comes."""

import zlib

import pytest

from ssestream.http.compression import Gzip, accepts_gzip


@pytest.mark.parametrize(
    ("accept", "takes"),
    [
        ("gzip", True),
        ("br;q=1, gzip;q=0.2", True),
        ("*", True),
        ("gzip;q=0.5, identity;q=0.4", True),
        (None, False),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        # Plain text is preferred (RFC 9110, section 12.5.3).
        ("gzip;q=0.5, identity", False),
    ],
)
def test_who_takes_gzip(accept: str | None, takes: bool) -> None:
    environ = {} if accept is None else {"HTTP_ACCEPT_ENCODING": accept}
    assert accepts_gzip(environ) is takes


def test_each_chunk_can_be_read_before_the_next_and_the_whole_is_gzip() -> None:
    gzip, reader = Gzip(), zlib.decompressobj(31)
    for number in range(100):
        event = f"id: {number}\ndata: {'x' * number}\n\n".encode()
        assert reader.decompress(gzip.chunk(event)) == event
    assert not reader.eof
    assert reader.decompress(gzip.end()) == b""
    assert reader.eof


def test_a_stream_of_nothing_is_whole_gzip_too() -> None:
    assert zlib.decompress(Gzip().end(), 31) == b""


def test_what_repeats_costs_little() -> None:
    gzip = Gzip()
    event = b'event: price\ndata: {"symbol":"ACME","price":100}\n\n'
    first, *later = (len(gzip.chunk(event)) for _ in range(20))
    assert first > len(event) // 2
    assert max(later) < len(event) // 2


def test_two_streams_share_nothing() -> None:
    one, other = Gzip(), Gzip()
    one.chunk(b"data: secret\n\n")
    assert other.chunk(b"data: x\n\n") == Gzip().chunk(b"data: x\n\n")
