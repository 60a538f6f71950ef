"""What leaves as HTTP, on every server: wsgiref's in this process, and the real ones."""

import contextlib
import http.client
import itertools
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.validate import validator

import pytest

from tests.kit.servers import (
    MORE_SERVERS,
    SERVERS,
    UWSGI,
    Client,
    Server,
    body_of,
    chunks_of,
    wait_until,
)
from tests.servers.apps.http import app

#: wsgiref's own, which refuses hop-by-hop headers; the second, with its checker around the app.
IN_PROCESS = ("wsgiref", "validated")

_keys = (f"k{number}" for number in itertools.count())


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class _WsgirefServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        pass  # the test's client has left


class InProcess:
    """wsgiref's server, in a thread of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._server = _WsgirefServer(("127.0.0.1", 0), _QuietHandler)
        self._server.set_app(validator(app) if kind == "validated" else app)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(
    scope="module",
    params=[
        *IN_PROCESS,
        *(pytest.param(kind, marks=pytest.mark.server) for kind in SERVERS),
        *(
            pytest.param(kind, marks=[pytest.mark.server, pytest.mark.long])
            for kind in MORE_SERVERS
        ),
    ],
)
def server(request: pytest.FixtureRequest, need: Callable[[str], None]) -> Iterator[Any]:
    kind = request.param
    need(kind)
    server = (
        InProcess(kind)
        if kind in IN_PROCESS
        else Server(kind, "tests.servers.apps.http:app").start()
    )
    yield server
    server.stop()


@pytest.fixture
def key() -> str:
    return next(_keys)


def told(server: Any, key: str) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/told?key={key}", headers={"Connection": "close"})
    answer: list[str] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def closes_once(server: Any, key: str) -> list[str]:
    """What was told of a response that is over."""
    wait_until(lambda: "close" in told(server, key), f"close on {server.kind}")
    seen = told(server, key)
    assert seen.count("close") == 1
    return seen


def whole(server: Any, path: str, *headers: str, **kwargs: Any) -> bytes:
    """All that comes in answer, up to the connection's end."""
    return Client(server.port).get(path, "Connection: close", *headers, **kwargs).read_to_end()


def headers_of(response: bytes) -> dict[str, str]:
    head = response.partition(b"\r\n\r\n")[0].decode("latin-1")
    lines = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in lines}


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


# -- HEAD, and what else has no body


@pytest.mark.long_except("gevent-/piped", "SseWorker-/piped", "gthread-/piped")
@pytest.mark.parametrize("path", ["/piped", "/drawn", "/ended", "/raw", "/flushed"])
def test_head_is_answered_with_headers_only(server: Any, key: str, path: str) -> None:
    response = whole(server, f"{path}?key={key}", method="HEAD")
    assert status_of(response) == 200
    assert headers_of(response)["content-type"] == "text/event-stream; charset=utf-8"
    if server.kind == "waitress":  # which ends even these with a last chunk, and closes
        response = response.removesuffix(b"0\r\n\r\n")
    assert response.partition(b"\r\n\r\n")[2] == b""
    # No source was started, nothing was finished, and still it is over.
    assert closes_once(server, key) == ["close"]


@pytest.mark.long_except("SseWorker-204")
@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(server: Any, key: str, status: int) -> None:
    response = whole(server, f"/status/{status}?key={key}")
    assert status_of(response) == status
    assert response.endswith(b"\r\n\r\n")
    assert "transfer-encoding" not in headers_of(response)
    closes_once(server, key)


# -- HTTP/1.0


@pytest.mark.parametrize("asked", [(), ("Connection: keep-alive",)], ids=["plain", "keep-alive"])
def test_an_http_1_0_client_gets_no_chunks_and_the_end_by_the_connection(
    server: Any, key: str, asked: tuple[str, ...]
) -> None:
    client = Client(server.port).get(f"/ended?key={key}", *asked, version="1.0")
    response = client.read_to_end()
    assert body_of(response) == b":ok\n\nid: 0\n\nid: 1\n\nid: 2\n\ndata: last\n\n"
    if server.kind != "flask":  # Werkzeug's server answers HTTP/1.1, whatever was asked
        assert "transfer-encoding" not in headers_of(response)
    assert closes_once(server, key) == ["finish", "close"]


# -- headers


@pytest.mark.parametrize("path", ["/piped", "/drawn", "/ended", "/raw", "/flushed"])
def test_a_stream_has_the_headers_that_keep_it_flowing(server: Any, key: str, path: str) -> None:
    client = Client(server.port).get(f"{path}?key={key}")
    headers = headers_of(client.read_until(b"\r\n\r\n"))
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    client.fin()


def test_an_apps_own_cache_control_is_kept(server: Any, key: str) -> None:
    response = whole(server, f"/raw?key={key}&cache=no-store")
    assert headers_of(response)["cache-control"] == "no-store"
    assert headers_of(response)["x-accel-buffering"] == "no"
    assert body_of(response) == b"id:0\nevent:message\ndata:raw\n\n"


def test_no_hop_by_hop_header_of_the_views_leaves(server: Any, key: str) -> None:
    response = whole(server, f"/hops?key={key}")
    assert status_of(response) == 200
    headers = headers_of(response)
    assert headers["x-mine"] == "kept"
    assert headers.get("transfer-encoding") in (None, "chunked")
    assert headers.get("connection", "close").lower() == "close"
    assert not {"keep-alive", "upgrade", "proxy-authenticate"} & set(headers)
    assert body_of(response) == b":ok\n\ndata: through\n\n"


# -- when it leaves


def test_ok_leaves_at_once(server: Any, key: str) -> None:
    client = Client(server.port).get(f"/piped?key={key}")
    assert b":ok\n\n" in client.read_until(b":ok\n\n")
    client.fin()


def test_flush_headers_sends_the_head_before_there_is_a_body(server: Any, key: str) -> None:
    client = Client(server.port).get(f"/flushed?key={key}")
    assert client.read_until(b"\r\n\r\n").endswith(b"\r\n\r\n")
    client.fin()


def test_frames_that_wait_together_leave_as_one_chunk(server: Any, key: str) -> None:
    response = whole(server, f"/ended?key={key}")
    body = b":ok\n\nid: 0\n\nid: 1\n\nid: 2\n\ndata: last\n\n"
    assert body_of(response) == body
    if server.kind not in (*IN_PROCESS, *UWSGI):  # which use no chunks
        assert chunks_of(response) == [body]
    assert closes_once(server, key) == ["finish", "close"]


def test_a_source_is_drawn_to_its_end(server: Any, key: str) -> None:
    response = whole(server, f"/drawn?key={key}")
    assert body_of(response) == b":ok\n\ndata: one\n\ndata: two\n\n"
    assert closes_once(server, key) == ["drawn", "finish", "close"]


# -- failures


def test_a_view_that_raises_is_an_ordinary_500(server: Any, key: str) -> None:
    """And the response that it had made is closed, so that its timer dies."""
    response = whole(server, f"/raises?key={key}")
    assert status_of(response) == 500
    assert headers_of(response)["content-type"] == "text/html; charset=utf-8"
    assert b":ok" not in response
    seen = closes_once(server, key)
    # A tick that had begun may be told after it, and no other.
    later = wait_for_more(server, key, seen)
    assert later.count("tick") <= seen.count("tick") + 1
    assert "finish" not in later


def wait_for_more(server: Any, key: str, seen: list[str]) -> list[str]:
    """What was told in the time of a few requests, each longer than a tick."""
    for _ in range(5):
        seen = told(server, key)
    return seen


def test_a_source_that_fails_breaks_the_transfer(server: Any, key: str) -> None:
    """The client must not take what it got for all there was."""
    client = Client(server.port).get(f"/fails?key={key}")
    client.read_until(b"data: one\n\n")
    with contextlib.suppress(ConnectionResetError):
        client.read_to_end()
    assert not client.received.endswith(b"\r\n0\r\n\r\n")
    assert closes_once(server, key) == ["close"]
