"""The head of gunicorn's response is made once for equal responses, and leaves it as it is."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http.wsgi import Response

from ssestream.gunicorn import heads as room
from ssestream.http.kept_heads import HEADS


class NoSocket:
    """A client's socket, to which nothing may be sent yet."""

    def sendall(self, data: bytes) -> None:
        raise AssertionError(f"sent {data!r}")

    send = sendall


def response(*headers: tuple[str, str], status: str = "200 OK", version: Any = (1, 1)) -> Any:
    asked = SimpleNamespace(method="GET", version=version, should_close=lambda: False)
    made = Response(asked, NoSocket(), SimpleNamespace(protocol="http"))
    made.start_response(status, [("Content-Type", "text/event-stream"), *headers])
    return made


@pytest.fixture
def heads() -> Any:
    """The maker of heads, in a process that has made none."""
    return type(room.heads)()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The responses for which gunicorn has made a head, at one and the same time."""
    found: list[Any] = []
    send_headers = Response.send_headers

    def counting(self: Any) -> None:
        found.append(self)
        send_headers(self)

    monkeypatch.setattr(Response, "send_headers", counting)
    monkeypatch.setattr(room, "time", SimpleNamespace(time=lambda: 1000.5))
    return found


@pytest.mark.parametrize("version", [(1, 1), (1, 0)])
def test_the_head_says_that_the_connection_closes(heads: Any, version: Any) -> None:
    head = heads.of(response(("X-One", "1"), version=version))
    assert head.startswith(b"HTTP/%d.%d 200 OK\r\n" % version)
    assert head.endswith(b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert b"\r\nX-One: 1\r\n" in head
    assert (b"\r\nTransfer-Encoding: chunked\r\n" in head) == (version == (1, 1))


def test_the_response_stays_as_it_is(heads: Any) -> None:
    asked = response()
    before = dict(vars(asked))
    assert heads.of(asked)
    assert vars(asked) == before


def test_equal_heads_are_made_once_and_others_by_themselves(heads: Any, made: list[Any]) -> None:
    usual = heads.of(response())
    assert heads.of(response()) == usual
    assert len(made) == 1
    others = [
        heads.of(response(("Set-Cookie", "a=1"))),
        heads.of(response(("Set-Cookie", "a=2"))),
        heads.of(response(status="299 Fine")),
        heads.of(response(version=(1, 0))),
    ]
    assert len({usual, *others}) == 5
    assert heads.of(response()) == usual
    assert len(made) == 5


def test_a_head_is_kept_for_its_second(
    heads: Any, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads.of(response())
    monkeypatch.setattr(room, "time", SimpleNamespace(time=lambda: 1001.0))
    heads.of(response())
    assert len(made) == 2


def test_the_kept_heads_are_bounded(heads: Any, made: list[Any]) -> None:
    for number in range(HEADS + 1):
        heads.of(response(("X-Number", str(number))))
    # They were all dropped at the bound, the first one too.
    heads.of(response(("X-Number", "0")))
    assert len(made) == HEADS + 2


def test_a_head_that_was_sent_is_none_of_this(heads: Any) -> None:
    asked = response()
    asked.headers_sent = True
    assert heads.of(asked) == b""


def nothing(self: Any) -> None:
    pass


def half(self: Any) -> None:
    self.sock.sendall(b"HTTP/1.1 200 OK\r\n")


def failing(self: Any) -> None:
    raise AttributeError("another version")


@pytest.mark.parametrize("send_headers", [nothing, half, failing])
def test_a_version_that_makes_heads_in_another_way_is_told_of_once(
    heads: Any, send_headers: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ssestream")
    monkeypatch.setattr(Response, "send_headers", send_headers)
    for _ in range(2):
        asked = response()
        before = dict(vars(asked))
        assert heads.of(asked) is None
        assert vars(asked) == before
    (record,) = caplog.records
    assert "sends its streams as gunicorn's gevent worker does" in record.getMessage()
