"""A stream, asked for as a browser does, and the times of its pieces."""

import gzip
import socket
import threading

import pytest

from ssestream.doctor.visit import NotHttp, Visit
from tests.kit.scripted import HEAD, Scripted, chunk
from tests.kit.servers import PATIENCE, free_port


def test_it_asks_as_a_browser_does() -> None:
    def script(sock: socket.socket, request: str) -> None:
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    cookie = ("Cookie", "session=1")
    with Scripted(script) as server, Visit(f"{server.url}news?a=1#part", [cookie]) as visit:
        assert visit.listen(lambda: visit.ended, PATIENCE)
        assert (visit.status, visit.ended) == (204, "clean")
    line, *headers = server.requests[0].strip().split("\r\n")
    assert line == "GET /news?a=1 HTTP/1.1"
    assert f"Host: {server.url[7:-1]}" in headers
    assert "Accept: text/event-stream" in headers
    assert "Cookie: session=1" in headers
    assert any("gzip" in header for header in headers)


def test_each_piece_has_its_time_and_each_message_too() -> None:
    gate = threading.Event()

    def script(sock: socket.socket, request: str) -> None:
        sock.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        sock.sendall(chunk(":ok\n\n"))
        assert gate.wait(PATIENCE)
        sock.sendall(chunk("id: 7\ndata: one\n\n") + chunk(""))

    with Scripted(script) as server, Visit(server.url) as visit:
        assert visit.listen(lambda: visit.messages, PATIENCE)
        before = visit.now
        gate.set()
        assert visit.listen(lambda: len(visit.messages) == 2, PATIENCE)
        visit.listen(lambda: visit.ended, PATIENCE)
    assert visit.head_after is not None
    assert visit.head_after <= visit.times[0] <= before <= visit.messages[1][0]
    assert [message for _, message in visit.messages] == [
        {"comment": "ok"},
        {"id": "7", "data": "one"},
    ]
    assert visit.ended == "clean"
    assert visit.ended_after is not None
    assert visit.ended_after >= before


def test_a_cut_is_no_clean_end() -> None:
    def script(sock: socket.socket, request: str) -> None:
        sock.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk(":ok\n\n"))

    with Scripted(script) as server, Visit(server.url) as visit:
        visit.listen(lambda: visit.ended, PATIENCE)
        assert visit.ended == "cut"


def test_a_connection_that_ends_a_body_of_no_length_is_a_clean_end() -> None:
    def script(sock: socket.socket, request: str) -> None:
        sock.sendall(f"{HEAD}\r\ndata: 1\n\n".encode())

    with Scripted(script) as server, Visit(server.url) as visit:
        visit.listen(lambda: visit.ended, PATIENCE)
        assert (visit.ended, [message for _, message in visit.messages]) == (
            "clean",
            [{"data": "1"}],
        )


def test_a_compressed_stream_is_read() -> None:
    def script(sock: socket.socket, request: str) -> None:
        body = gzip.compress(b"data: packed\n\n")
        sock.sendall(f"{HEAD}Content-Encoding: gzip\r\n\r\n".encode() + body)

    with Scripted(script) as server, Visit(server.url) as visit:
        assert visit.listen(lambda: visit.messages, PATIENCE)
        assert visit.messages[0][1] == {"data": "packed"}


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\nno number\r\n".encode(),
        f"{HEAD}Content-Encoding: gzip\r\n\r\nnot packed".encode(),
    ],
)
def test_what_is_no_http_is_said(answer: bytes) -> None:
    def script(sock: socket.socket, request: str) -> None:
        sock.sendall(answer)

    with Scripted(script) as server, Visit(server.url) as visit, pytest.raises(NotHttp):
        visit.listen(lambda: visit.ended, PATIENCE)


def test_waiting_ends_by_time_by_state_and_by_the_end() -> None:
    def script(sock: socket.socket, request: str) -> None:
        sock.sendall(f"{HEAD}\r\n".encode())
        server.stay(sock)

    with Scripted(script) as server, Visit(server.url) as visit:
        assert visit.listen(lambda: visit.status, PATIENCE)
        assert not visit.listen(lambda: visit.times, 0.01)
        assert visit.ended is None


def test_a_refused_connection_is_an_error_at_once() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        Visit(f"http://127.0.0.1:{port}/")
