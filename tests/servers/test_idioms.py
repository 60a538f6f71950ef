"""What Express programs do with ssestream works here, on greenlets and on threads.

The idioms are in ``tests/servers/apps/idioms.py``, each beside its JavaScript.
"""

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from ssestream.wire import OK, Decoder
from tests.kit.servers import Client, Server, body_of, wait_until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=["SseWorker", "gevent", "gthread"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param, "tests.servers.apps.idioms:app").start()
    yield server
    server.stop()


def post(server: Server, path: str, value: Any = None) -> dict[str, Any]:
    data = json.dumps(value).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(server.url + path, data, headers), timeout=20
    ) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def messages_of(received: bytes) -> list[dict[str, Any]]:
    body = body_of(received)
    assert body.startswith(OK)
    return Decoder().feed(body.removeprefix(OK))


def test_a_timer_writes_until_the_client_leaves(server: Server) -> None:
    client = Client(server.port).get("/timer/first")
    client.read_until(b"data: tick 3\n\n")
    ticks = messages_of(client.received)[:3]
    assert ticks == [{"id": str(n), "data": f"tick {n}"} for n in (1, 2, 3)]
    client.fin()
    server.wait_for(idiom="timer", name="first")

    def ticks_so_far() -> bytes:
        return urllib.request.urlopen(server.url + "/timer/first/ticks", timeout=60).read()

    before = ticks_so_far()
    # Another timer's ticks are the time in which this one would have gone on.
    other = Client(server.port).get("/timer/second")
    other.read_until(b"data: tick 5\n\n")
    other.fin()
    assert ticks_so_far() == before
    server.wait_for(idiom="timer", name="second")


def test_a_set_of_streams_is_written_to_by_a_post(server: Server) -> None:
    first, second = (Client(server.port).get("/chat") for _ in range(2))
    first.read_until(OK)
    second.read_until(OK)
    assert post(server, "/chat", {"text": "안녕\nhello"}) == {"clients": 2}
    for client in (first, second):
        client.read_until(b"}\n\n")
        said = {"event": "said", "data": '{"text":"안녕\\nhello"}'}
        assert messages_of(client.received) == [said]
    first.fin()
    server.wait_for(idiom="chat", left=1)
    assert post(server, "/chat", "for one") == {"clients": 1}
    second.read_until(b"for one\n\n")
    second.rst()
    server.wait_for(idiom="chat", left=0)
    assert post(server, "/chat", "for nobody") == {"clients": 0}


def test_a_callback_hears_of_success_and_of_departure(server: Server) -> None:
    client = Client(server.port).get("/callback")
    client.read_until(b"data: hello\n\n")
    assert server.wait_for(idiom="callback", when="early")["error"] == "NoneType"
    client.fin()
    assert server.wait_for(idiom="callback", when="closed")["went"] is False
    assert server.wait_for(idiom="callback", when="late")["error"] == "ClientDisconnected"


def test_write_message_is_write(server: Server) -> None:
    client = Client(server.port).get("/write-message")
    client.read_until(b"hello\n\n")
    assert messages_of(client.received) == [{"event": "greeting", "data": "hello"}]
    assert server.wait_for(idiom="write_message")["error"] is None
    client.fin()


def test_an_emitters_listener_writes_and_is_removed(server: Server) -> None:
    client = Client(server.port).get("/emitter")
    client.read_until(OK)
    assert post(server, "/emitter", "one") == {"heard": True}
    assert post(server, "/emitter", [2]) == {"heard": True}
    client.read_until(b"data: [2]\n\n")
    assert messages_of(client.received) == [{"data": "one"}, {"data": "[2]"}]
    client.fin()
    assert server.wait_for(idiom="emitter")["left"] == 0
    assert post(server, "/emitter", "nobody listens") == {"heard": False}


def test_a_source_is_resumed_after_the_last_event_id(server: Server) -> None:
    first = Client(server.port).get("/source")
    first.read_until(b"id: 41\n")
    first.fin()
    second = Client(server.port).get("/source", "Last-Event-ID: 41", "Connection: close")
    numbers = [int(message["id"]) for message in messages_of(second.read_to_end())]
    assert numbers == list(range(42, 100))


def test_a_source_that_sleeps_is_closed_when_the_client_leaves(server: Server) -> None:
    client = Client(server.port).get("/source/endless")
    client.read_until(b"id: 0\n")
    assert not server.events(idiom="source")
    client.fin()
    server.wait_for(idiom="source", closed=True)


def test_a_job_tells_its_progress_and_ends_the_stream(server: Server) -> None:
    client = Client(server.port).get("/job", "Connection: close")
    progress = [{"event": "progress", "data": f'{{"step":{n}}}'} for n in (1, 2, 3)]
    received = client.read_to_end()
    assert messages_of(received) == [*progress, {"event": "done", "data": ""}]
    assert received.endswith(b"\r\n0\r\n\r\n")
    server.wait_for(idiom="job", event="close")
    assert [event["event"] for event in server.events(idiom="job")] == ["finish", "close"]


def test_headers_cookies_and_the_session_go_before_the_stream(server: Server) -> None:
    client = Client(server.port).get("/headers")
    client.read_until(b'data: {"visits":1}\n\n')
    head, _, _ = client.received.decode().partition("\r\n\r\n")
    lines = head.split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Access-Control-Allow-Origin: *" in lines
    assert "X-Stamp: after_request" in lines
    assert "Set-Cookie: seen=yes; HttpOnly; Path=/" in lines
    assert [line for line in lines if line.startswith("Content-Type:")] == [
        "Content-Type: text/event-stream; charset=utf-8"
    ]
    found = re.search(r"Set-Cookie: (session=[^;]+)", head)
    assert found is not None
    client.fin()

    again = Client(server.port).get("/headers", f"Cookie: {found[1]}")
    again.read_until(b'data: {"visits":2}\n\n')
    again.fin()


def test_one_stream_without_a_request_is_piped_into_every_response(server: Server) -> None:
    first, second = (Client(server.port).get("/broadcast") for _ in range(2))
    first.read_until(OK)
    second.read_until(OK)
    assert post(server, "/broadcast", "for both") == {"written": True}
    first.read_until(b"for both\n\n")
    second.read_until(b"for both\n\n")
    first.fin()
    server.wait_for(idiom="broadcast")
    assert post(server, "/broadcast", "for the second") == {"written": True}
    second.read_until(b"for the second\n\n")
    second.fin()
    wait_until(lambda: len(server.events(idiom="broadcast")) == 2, "both to leave")

    # Nobody is there, and nobody may ever come: this is not kept.
    assert post(server, "/broadcast", "for nobody") == {"written": False}
    third = Client(server.port).get("/broadcast")
    third.read_until(OK)
    assert post(server, "/broadcast", "for the third") == {"written": True}
    third.read_until(b"for the third\n\n")
    assert messages_of(third.received) == [{"data": "for the third"}]
    third.fin()


def test_unpipe_ends_nothing_and_what_is_written_waits_for_the_next_pipe(server: Server) -> None:
    first = Client(server.port).get("/pause")
    first.read_until(OK)
    assert post(server, "/pause/write", "at once") == {"written": True, "waiting": 0}
    first.read_until(b"data: at once\n\n")

    assert post(server, "/pause") == {"ended": False, "closed": False}
    assert server.wait_for(idiom="pause")["unpiped"] is True
    assert post(server, "/pause/write", "one") == {"written": True, "waiting": 1}
    assert post(server, "/pause/write", "two") == {"written": True, "waiting": 2}
    first.read_until(b": paused\n\n")
    assert post(server, "/pause/again") == {"error": "HeadersSent"}

    second = Client(server.port).get("/pause")
    second.read_until(b"data: two\n\n")
    assert messages_of(second.received) == [{"data": "one"}, {"data": "two"}]
    assert post(server, "/pause/write", "three") == {"written": True, "waiting": 0}
    second.read_until(b"data: three\n\n")
    # The first is still open, and has got nothing of this.
    assert post(server, "/pause") == {"ended": False, "closed": False}
    first.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.sock.recv(1)
    first.fin()
    second.fin()


@pytest.mark.parametrize("path", ["/none", "/none/flask"])
def test_nothing_to_stream_is_a_204(server: Server, path: str) -> None:
    received = Client(server.port).get(path, "Connection: close").read_to_end()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204 NO CONTENT\r\n")
    assert b"text/event-stream" not in head
    assert b"transfer-encoding" not in head.lower()
    assert body == b""
