"""The arguments of top, and the answers of what is no app."""

import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from ssestream.__main__ import FAILED, WRONG, main
from ssestream.top.command import LARGEST
from tests.kit.promptness import at_best
from tests.kit.scripted import HEAD, SOCKETS, Endless, chunk
from tests.kit.servers import free_port


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/text": (200, "hello"),
            "/json": (200, json.dumps({"processes": [{}]})),
            "/deep": (200, "[" * 100_000),
            "/away": (302, ""),
            "/streams": (200, json.dumps({"processes": []})),
        }
        status, text = answers.get(self.path, (404, ""))
        if self.path == "/streams" and self.headers["Authorization"] != "Bearer 1":
            status = 401
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/streams")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_look_is_printed_for_who_has_the_header(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    header = ("--header", "Authorization: Bearer 1")
    assert main(["top", f"{url}/streams", *header, "--once"]) == 0
    assert capsys.readouterr().out.startswith("0 streams open in 0 processes\n")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/streams", "/streams answers with 401"),
        ("/nothing", "/nothing answers with 404"),
        # Not followed: another server would get the headers.
        ("/away", "/away answers with 302"),
        ("/text", "the answer is not that of OpenStreams.view()"),
        ("/json", "the answer is not that of OpenStreams.view()"),
        ("/deep", "the answer is not that of OpenStreams.view()"),
    ],
)
def test_another_answer_is_told_in_one_line(
    url: str, path: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", url + path, "--once"]) == FAILED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err


def test_no_server_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", f"http://127.0.0.1:{free_port()}/", "--once"]) == FAILED
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "first",
    [b"H", HEAD.encode(), f"{HEAD}\r\n".encode(), f"{HEAD}Content-Length: 9999\r\n\r\n".encode()],
)
def test_an_answer_byte_by_byte_is_not_waited_for(
    first: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssestream.top.command.PATIENCE", 0.5)

    def attempt() -> float:
        began = time.monotonic()
        with Endless(first, b"x", pause=0.0005) as endless:
            assert main(["top", endless.url, "--once"]) == FAILED
        assert "its answer has no end within 0.5 s" in capsys.readouterr().err
        return time.monotonic() - began

    at_best(attempt, 1.5)


@pytest.mark.parametrize(
    ("first", "more", "words"),
    [
        (b"", b"x" * 65536, "got more than 65536 bytes"),
        (HEAD.encode(), b"A: b\r\n" * 10_000, "got more than 100 headers"),
        pytest.param(
            b"",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 2500,
            "more than 16 MiB",
            marks=pytest.mark.long,
        ),
        (f"{HEAD}\r\n".encode(), b"[" * 65536, "more than 16 MiB"),
        pytest.param(
            f"{HEAD}Content-Length: 999999999999\r\n\r\n".encode(),
            b"1" * 65536,
            "more than 16 MiB",
            marks=pytest.mark.long,
        ),
        pytest.param(
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(),
            chunk("x" * 65536),
            "more than 16 MiB",
            marks=pytest.mark.long,
        ),
        # Python's client reads on without a bound.
        (
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n-1\r\n".encode(),
            b"1" * 65536,
            "does not answer",
        ),
    ],
)
def test_an_answer_without_an_end_is_left_soon(
    first: bytes,
    more: bytes,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine may take longer for so many bytes, and it is their number that counts here.
    monkeypatch.setattr("ssestream.top.command.PATIENCE", 60.0)
    with Endless(first, more) as endless:
        assert main(["top", endless.url, "--once"]) == FAILED
    assert words in capsys.readouterr().err
    assert endless.sent < LARGEST + SOCKETS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["file:///etc/passwd"], "begins with http:// or https://"),
        (["http://localhost/", "--header", "nothing"], "must be 'NAME: VALUE'"),
        (["http://localhost/", "--header", "A: b\r\nC: d"], "must be 'NAME: VALUE'"),
        (["http://localhost/", "--interval", "0"], "must be from 0.1 to 3600 seconds"),
    ],
)
def test_wrong_usage_is_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["top", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == WRONG
    assert words in capsys.readouterr().err


def test_without_rich_the_command_says_what_to_install(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.delitem(sys.modules, "ssestream.top.rich", raising=False)
    assert main(["top", f"{url}/streams", "--header", "Authorization: Bearer 1"]) == WRONG
    assert "pip install 'ssestream[top]', or give --once" in capsys.readouterr().err
