"""The doctor before a server that never comes to an end: a finding, in time and with little memory.

How much the doctor holds is measured by the server: no more can have been sent than the doctor
reads before it leaves, besides the buffers of the sockets.
"""

import gzip
import time
from collections.abc import Iterator

import pytest

from ssestream.__main__ import main
from ssestream.doctor.finding import Finding
from ssestream.doctor.outside import Outside, examine_reload, examine_url
from ssestream.doctor.visit import MOST_BODY, MOST_HEAD
from tests.kit.promptness import at_best
from tests.kit.scripted import HEAD, SOCKETS, Endless, Scripted

OUTSIDE = Outside(wait=1.0, patience=1.0)

CHUNKED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()


def one_fault(found: Iterator[Finding]) -> Finding:
    (fault,) = [each for each in found if each.level == "fault"]
    return fault


def filled(line: bytes) -> bytes:
    """*line*, as often as 64 KiB hold."""
    return line * (65536 // len(line))


@pytest.mark.long_except("H")
@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 200 OK\r\n", HEAD.encode()])
def test_a_head_byte_by_byte_ends_with_the_patience_of_the_doctor(first: bytes) -> None:
    def attempt() -> float:
        began = time.monotonic()
        with Endless(first, b"x", pause=0.01) as endless:
            fault = one_fault(examine_url(endless.url, OUTSIDE))
        assert "bytes of a head came within 1 s, and no end" in fault.seen
        return time.monotonic() - began

    at_best(attempt, 2.0)


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"", b"x" * 65536),
        (HEAD.encode(), filled(b"X-More: yes\r\n")),
        (b"", filled(b"HTTP/1.1 100 Continue\r\n\r\n")),
        (HEAD.encode() + b"X-Long: ", b"y" * 65536),
    ],
)
def test_an_endless_head_is_left_soon(first: bytes, more: bytes) -> None:
    with Endless(first, more) as endless:
        fault = one_fault(examine_url(endless.url, OUTSIDE))
        assert "a head has more than 256 KiB" in fault.seen
    assert endless.sent < MOST_HEAD + SOCKETS


@pytest.mark.parametrize(
    "first", [CHUNKED, CHUNKED + b"5\r\n:ok\n\n\r\n3;", CHUNKED + b"5\r\n:ok\n\n\r\n0\r\n"]
)
def test_an_endless_line_between_two_chunks_is_left_soon(first: bytes) -> None:
    with Endless(first, b"1" * 65536) as endless:
        fault = one_fault(examine_url(endless.url, OUTSIDE))
        assert "a line between two chunks has more than 256 KiB" in fault.seen
    assert endless.sent < MOST_HEAD + SOCKETS


@pytest.mark.parametrize(
    "more",
    [
        b"x" * 65536,
        filled(b"data: x\n"),
        pytest.param(filled(b"id: 7\r"), marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("first", [pytest.param(b"", marks=pytest.mark.long), b":ok\n\ndata: "])
def test_an_event_without_an_end_is_left_soon(first: bytes, more: bytes) -> None:
    outside = Outside(wait=60.0)
    with Endless(f"{HEAD}\r\n".encode() + first, more) as endless:
        fault = one_fault(examine_url(endless.url, outside))
        assert "without the end of an event" in fault.seen
        assert "each event ends with an empty line" in fault.change
    assert endless.sent < MOST_BODY + SOCKETS


def test_a_body_that_unpacks_to_much_more_is_left_soon() -> None:
    packed = gzip.compress(b"data: " + b"x" * (64 << 20), compresslevel=1)
    head = f"{HEAD}Content-Encoding: gzip\r\n\r\n".encode()
    with Scripted(lambda sock, request: sock.sendall(head + packed)) as server:
        fault = one_fault(examine_url(server.url, OUTSIDE))
    assert f"{MOST_BODY:,} bytes came" in fault.seen


@pytest.mark.parametrize(
    "more",
    [
        filled(b"id: 7\ndata: 1\n\n"),
        *(pytest.param(filled(more), marks=pytest.mark.long) for more in (b":a\n\n", b":\n\n")),
    ],
)
def test_events_without_number_are_a_note_and_the_rest_is_looked_at(more: bytes) -> None:
    outside = Outside(wait=60.0)
    with Endless(f"{HEAD}\r\n".encode(), more) as endless:
        found = list(examine_url(endless.url, outside))
    notes = [each.seen for each in found if each.level == "note"]
    assert any("and the doctor left" in each for each in notes), notes
    assert any("browsers get HTTP/1.1" in each for each in notes)


def test_a_body_byte_by_byte_is_listened_to_for_its_time() -> None:
    def attempt() -> float:
        began = time.monotonic()
        with Endless(f"{HEAD}\r\n".encode(), b":", pause=0.01) as endless:
            found = list(examine_url(endless.url, OUTSIDE))
        assert any("the first byte of the body" in each.seen for each in found)
        return time.monotonic() - began

    at_best(attempt, 2.0)


@pytest.mark.parametrize("size", ["-5", "-fffff"])
def test_a_chunk_of_fewer_bytes_than_none_is_no_http(size: str) -> None:
    body = CHUNKED + f"{size}\r\nabc".encode()
    with Scripted(lambda sock, request: sock.sendall(body)) as server:
        assert "no valid response" in one_fault(examine_url(server.url, OUTSIDE)).seen


def test_a_reload_before_such_a_server_is_told() -> None:
    with Endless(b"", b"x" * 65536) as endless:
        (fault,) = examine_reload(endless.url, 2**30, OUTSIDE)
    assert "no reload: a head has more than" in fault.seen


@pytest.mark.parametrize("data", ["no JSON", "[" * 100_000, "[]", "{}", '{"sent": "now"}'])
def test_an_event_that_only_has_the_name_of_the_probe_is_one_of_the_app(data: str) -> None:
    text = f"event: ssestream-probe\ndata: {data}\n\n"
    body = f"{HEAD}\r\n{text}"
    with Scripted(lambda sock, request: sock.sendall(body.encode())) as server:
        found = list(examine_url(server.url, OUTSIDE))
    assert any("ended after" in each.seen for each in found)


def test_the_command_fails_with_the_code_of_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with Endless(b"", b"x" * 65536) as endless:
        assert main(["doctor", endless.url]) == 1
    assert "a head has more than" in capsys.readouterr().out
