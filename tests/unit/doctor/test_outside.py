"""All that a client can see of a stream, from a server that does exactly one thing wrong."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ssestream.doctor.finding import Finding
from ssestream.doctor.outside import Outside, examine_reload, examine_url
from tests.kit.scripted import HEAD, Scripted, chunk
from tests.kit.servers import free_port

CHUNKED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()

#: Listens for so long that all of a script has come.
OUTSIDE = Outside(wait=0.5)

Answer = Callable[[Scripted, socket.socket, str], None]


@contextmanager
def answering(answer: Answer) -> Iterator[Scripted]:
    with Scripted(lambda sock, request: answer(server, sock, request)) as server:
        yield server


def findings(answer: Answer, outside: Outside = OUTSIDE, is_last: bool = True) -> list[Finding]:
    with answering(answer) as server:
        return list(examine_url(server.url, outside, is_last))


def levels(found: list[Finding]) -> list[str]:
    return [each.level for each in found]


def stream(*pieces: str) -> Answer:
    """A stream of *pieces* that stays open."""

    def answer(server: Scripted, sock: socket.socket, request: str) -> None:
        sock.sendall(CHUNKED)
        for piece in pieces:
            sock.sendall(chunk(piece))
        server.stay(sock)

    return answer


# -- before the body


def test_a_server_that_is_not_there() -> None:
    port = free_port()
    (finding,) = examine_url(f"http://127.0.0.1:{port}/", OUTSIDE)
    assert finding.level == "fault"
    assert f"no connection to 127.0.0.1:{port}" in finding.seen


def test_a_server_of_something_else() -> None:
    (finding,) = findings(lambda server, sock, request: sock.sendall(b"220 mail\r\n\r\n"))
    assert finding.level == "fault"
    assert "no valid response" in finding.seen


def test_a_server_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    # This server waits for the end of the head, which is none.
    monkeypatch.setattr("ssestream.doctor.visit.CONNECT_WITHIN", 0.2)
    with answering(stream()) as server:
        (finding,) = examine_url(server.url.replace("http", "https"), OUTSIDE)
    assert finding.level == "fault"
    assert "TLS with 127.0.0.1 fails" in finding.seen


def test_a_server_that_never_answers() -> None:
    found = findings(lambda server, sock, request: server.stay(sock), Outside(patience=0.2))
    assert levels(found) == ["fault"]
    assert "no head within" in found[0].seen


def test_a_login_page() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"
    (finding,) = findings(lambda server, sock, request: sock.sendall(answer))
    assert finding.level == "fault"
    assert "status 302, to '/login'" in finding.seen


# -- the body


def test_a_body_that_never_begins() -> None:
    found = findings(stream(), Outside(patience=2.0, wait=2.5))
    assert levels(found)[:2] == ["ok", "fault"]
    assert "no byte of the body" in found[1].seen


def test_a_stream_without_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssestream.doctor.outside.HEARTBEAT_WITHIN", 0.2)
    found = findings(stream(":ok\n\n"))
    (finding,) = (each for each in found if each.level == "fault")
    assert re.search(r"no byte for \d+\.\d", finding.seen)
    assert "SSESTREAM_HEARTBEAT" in finding.change


def test_who_does_not_wait_for_a_heartbeat_is_told_so() -> None:
    found = findings(stream(":ok\n\n"), Outside(wait=0.1))
    assert any("listened for 0 s only" in each.seen for each in found)
    assert "fault" not in levels(found)


def cut_after(silence: float) -> Answer:
    def answer(server: Scripted, sock: socket.socket, request: str) -> None:
        sock.sendall(CHUNKED + chunk(":ok\n\n"))
        time.sleep(silence)

    return answer


def test_a_proxy_that_cuts_silent_connections() -> None:
    found = findings(cut_after(1.2), Outside(wait=5))
    (finding,) = (each for each in found if each.level == "fault")
    assert re.search(r"without its last chunk, after [1-9]", finding.seen)
    assert "of silence" in finding.seen
    assert "proxy_read_timeout" in finding.change


def test_a_stream_that_is_cut_at_once() -> None:
    (finding,) = (each for each in findings(cut_after(0.0)) if each.level == "fault")
    assert "without its last chunk" in finding.seen
    assert "silence" not in finding.seen


def test_a_stream_that_ends_by_itself() -> None:
    def answer(server: Scripted, sock: socket.socket, request: str) -> None:
        sock.sendall(CHUNKED + chunk(":ok\n\n") + chunk("retry: 2000\n\n") + chunk(""))

    found = findings(answer)
    assert any("cleanly, with retry: 2000" in each.seen for each in found)
    assert "fault" not in levels(found)


# -- the connection, and the next one


def test_only_the_last_address_is_one_of_browsers() -> None:
    for is_last in (True, False):
        found = findings(stream(":ok\n\n"), is_last=is_last)
        assert any("HTTP/1.1" in each.seen for each in found) == is_last


def test_events_without_ids() -> None:
    found = findings(stream("data: 1\n\n"))
    assert any("the events have no ids" in each.seen for each in found)


def returning(*pieces: str, status: int = 200) -> Answer:
    """A stream of two events. A client that comes back with an id gets *pieces*."""

    def answer(server: Scripted, sock: socket.socket, request: str) -> None:
        if "Last-Event-ID:" not in request:
            stream("id: 1\ndata: one\n\n", "id: 2\ndata: two\n\n")(server, sock, request)
            return
        assert "Last-Event-ID: 1\r\n" in request
        head = CHUNKED.replace(b"200 OK", str(status).encode() + b" Some")
        sock.sendall(head + b"".join(map(chunk, pieces)))
        server.stay(sock)

    return answer


def test_a_client_that_comes_back_is_given_what_it_missed() -> None:
    found = findings(returning(":ok\n\n", "id: 2\ndata: two\n\n"))
    assert levels(found)[-1] == "ok"
    assert "given the event after it" in found[-1].seen


@pytest.mark.parametrize(
    ("answer", "level", "words"),
    [
        (returning("id: 1\ndata: one\n\n"), "fault", "the event of that id again"),
        (returning("id: 9\ndata: new\n\n"), "note", "not given the event after it"),
        (returning(status=503), "fault", "gets status 503"),
    ],
    ids=["doubled", "lost", "refused"],
)
def test_a_client_that_comes_back_and_is_not(answer: Answer, level: str, words: str) -> None:
    found = findings(answer)
    assert found[-1].level == level
    assert words in found[-1].seen


def test_a_client_that_comes_back_and_waits_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssestream.doctor.outside.RETURN_WITHIN", 2.0)
    found = findings(returning(":ok\n\n"))
    assert found[-1].level == "note"


def test_a_client_that_has_a_place_and_no_event_yet_is_taken_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssestream.doctor.outside.RETURN_WITHIN", 2.0)
    found = findings(stream(":ok\n\n", "id: 7\n\n"))
    assert "taken on" in found[-1].seen


# -- a reload


@contextmanager
def reloaded(end: bytes | None) -> Iterator[tuple[Scripted, int]]:
    """A server that ends its stream with *end* once this process has got a SIGHUP."""
    came: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: came.append(number))

    def answer(server: Scripted, sock: socket.socket, request: str) -> None:
        sock.sendall(CHUNKED + chunk(":ok\n\n"))
        while not came:
            time.sleep(0.001)
        if end is None:
            server.stay(sock)
        else:
            sock.sendall(end)

    try:
        with answering(answer) as server:
            yield server, os.getpid()
            came.append(0)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("end", "level", "words"),
    [
        (chunk("retry: 2000\n\n") + chunk(""), "ok", "cleanly after"),
        (chunk(""), "note", "without a retry"),
        (b"", "fault", "was cut"),
        (None, "fault", "still open"),
    ],
    ids=["clean", "no retry", "cut", "open"],
)
def test_what_a_reload_does(
    end: bytes | None, level: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if end is None:
        monkeypatch.setattr("ssestream.doctor.outside.RELOAD_WITHIN", 0.2)
    with reloaded(end) as (server, master):
        (finding,) = examine_reload(server.url, master, OUTSIDE)
    assert finding.level == level
    assert words in finding.seen


def test_a_process_that_is_not_there() -> None:
    with answering(stream(":ok\n\n")) as server:
        (finding,) = examine_reload(server.url, 2**22, OUTSIDE)
    assert finding.level == "fault"
    assert "no reload" in finding.seen
