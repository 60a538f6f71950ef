"""A handler of Express's shape on real servers, beside Flask-SQLAlchemy, -Login and -Session."""

import http.client
import itertools
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.promptness import at_best
from tests.kit.servers import Client, Server, body_of, wait_until

pytestmark = pytest.mark.server

KINDS = ["gevent", "gevent_pywsgi", "SseWorker", "gthread", "flask"]
GREENLETS = ("gevent", "gevent_pywsgi", "SseWorker")


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    args = ("--no-reload",) if request.param == "flask" else ()
    server = Server(request.param, "tests.servers.apps.handlers:app", args=args).start()
    yield server
    server.stop()


def ask(
    server: Server, path: str, method: str = "GET", cookie: str = "", value: Any = None
) -> tuple[int, bytes, str]:
    """The status, the body and the cookie of an answer that ends."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Connection": "close", "Cookie": cookie}
    body = None
    if value is not None:
        body, headers["Content-Type"] = json.dumps(value), "application/json"
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    set_cookie = answer.headers.get("Set-Cookie", "").partition(";")[0]
    connection.close()
    return answer.status, data, set_cookie


def connections(server: Server) -> int:
    return int(json.loads(ask(server, "/in_use")[1])["connections"])


@pytest.fixture
def cookie(server: Server) -> str:
    return ask(server, "/login")[2]


@pytest.mark.long_except("SseWorker-rst")
@pytest.mark.parametrize("leave", ["fin", "rst"])
def test_what_is_written_comes_at_once_and_a_departure_ends_the_function(
    server: Server, leave: str
) -> None:
    client = Client(server.port).get(f"/ticks?who={leave}")
    client.read_until(b"data: 3\n\n")
    getattr(client, leave)()
    server.wait_for(event="ended", who=leave)
    server.wait_for(event="teardown", who=leave)
    assert len(server.events(event="teardown", who=leave)) == 1


@pytest.mark.long_except("gevent-GET", "gthread-GET")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_plain_wait_is_ended_too_or_at_the_next_write(server: Server, method: str) -> None:
    who = f"busy-{method}"
    client = Client(server.port)
    client.get(f"/busy?who={who}", "Content-Length: 0", method=method)
    client.read_until(b":\n")
    client.fin()
    server.wait_for(event="ended", who=who)


@pytest.mark.long
def test_nothing_is_queued_for_a_client_that_reads_nothing_or_has_left(server: Server) -> None:
    client = Client(server.port, receive_buffer=4096).get("/flood?who=flood&size=40000000")
    client.read_until(b"200")
    client.fin()
    assert server.wait_for(event="ended", who="flood")["written"] < 20_000_000


def test_a_flood_arrives_whole_where_it_is_read(server: Server) -> None:
    client = Client(server.port).get("/flood?who=reader&size=6400000")
    client.read_until(b"\r\n0\r\n\r\n")
    assert body_of(client.received) == b"x" * 6_400_000


def test_an_exception_before_the_start_is_an_error_page_and_after_it_a_cut(
    server: Server,
) -> None:
    assert ask(server, "/early")[:2] == (418, b"sorry: early")
    client = Client(server.port).get("/late")
    client.read_until(b"begun")
    rest = client.read_to_end().partition(b"begun")[2]
    assert b"0\r\n\r\n" not in rest
    server.wait_for(event="error", error="late")
    wait_until(lambda: "the handler late failed" in server.log(), "the log")


def test_an_answer_and_a_stream_of_a_post_come_from_one_handler(server: Server) -> None:
    assert ask(server, "/answer", "POST", value={})[:2] == (400, b'{"error":"no prompt"}')
    status, body, _ = ask(server, "/answer", "POST", value={"prompt": "two words"})
    assert status == 200
    assert body == b":ok\n\ndata: two\n\ndata: words\n\ndata: [DONE]\n\n"
    status, body, _ = ask(server, "/ticks?who=head", "HEAD")
    assert (status, body) == (200, b"")
    server.wait_for(event="ended", who="head")


@pytest.mark.parametrize("kind", ["idle", "asks", "awaits"])
def test_users_sessions_and_databases_are_there_and_no_connection_is_held(
    server: Server, cookie: str, kind: str
) -> None:
    assert ask(server, f"/account/{kind}")[0] == 401
    path = f"/account/{kind}"
    client = Client(server.port).get(path, f"Cookie: {cookie}")
    client.read_until(b"data: ada green\n\n")
    told = server.wait_for(event="started", kind=kind)
    # The request's own teardown has run, and has given the connection back.
    assert told["connections"] == 0
    assert (told["user"], told["color"], told["g"], told["path"]) == ("ada", "green", kind, path)
    if kind == "idle":
        assert connections(server) == 0
    else:
        client.read_until(b"data: 1\n\n")
        assert connections(server) == 1
    client.fin()
    server.wait_for(event="ended", kind=kind)
    wait_until(lambda: connections(server) == 0, "the connection")
    # What was put into the session before the start is stored, and what came later is lost.
    assert json.loads(ask(server, "/kept", cookie=cookie)[1]) == {"kind": kind, "late": None}
    # One for the answer of 401, one for the stream.
    assert len(server.events(event="teardown", path=path)) == 2


def test_a_departure_is_noticed_within_milliseconds(server: Server) -> None:
    numbers = itertools.count()

    def departure() -> float:
        who = str(next(numbers))
        client = Client(server.port).get(f"/ticks?who={who}")
        client.read_until(b"data: 1\n\n")
        left = time.monotonic()
        client.fin()
        ended: float = server.wait_for(event="ended", who=who)["at"]
        return ended - left

    # The next tick, whose write fails, comes 50 ms after the last one.
    at_best(departure, 0.01)


def test_a_sync_worker_serves_one_at_a_time() -> None:
    server = Server("sync", "tests.servers.apps.handlers:app").start()
    try:
        client = Client(server.port).get("/ticks?who=sync")
        client.read_until(b"data: 2\n\n")
        client.fin()
        server.wait_for(event="ended", who="sync")
        assert ask(server, "/early")[0] == 418
        assert re.fullmatch(rb"\d+", ask(server, "/pid")[1])
    finally:
        server.stop()
