"""What a stock server's streams need of the package: nothing that is only for `SseWorker`."""

import json
import zlib
from typing import Any

import pytest

from ssestream.wire import Decoder
from tests.kit.servers import SERVERS, Client, Server, body_of

pytestmark = pytest.mark.server

EVENTS = 300

#: Servers whose streams run in greenlets and are read by the server.
GREENLETS = {"gevent", "gevent_pywsgi", "pywsgi"}

#: A function of each walk, on every server. If one is missing, the trace does not see all.
WALKED = {
    ("stream.py", "write"),
    ("http/output.py", "put_if_clear"),
    ("channels/channels.py", "publish"),
    ("channels/listener.py", "_hand_on"),
    ("http/hangup.py", "hang_up"),
    ("channels/replay.py", "_catch_up"),
}


def ask(server: Server, path: str, method: str = "GET") -> bytes:
    answer = Client(server.port).get(path, method=method, version="1.0").read_to_end()
    assert b" 200 OK" in answer, answer
    return body_of(answer)


def functions_of(server: Server) -> set[tuple[str, str]]:
    """The files and functions of the package that have run."""
    return {(file, name) for file, name in json.loads(ask(server, "/functions"))}


class Reader:
    """A browser, as far as its messages go."""

    def __init__(self, server: Server, name: str, last_id: str | None = None) -> None:
        self._client = Client(server.port)
        headers = [] if last_id is None else [f"Last-Event-ID: {last_id}"]
        self._client.get(f"/news?client={name}", *headers)
        self._client.read_until(b"\nid: ")

    def messages(self) -> list[dict[str, Any]]:
        return [each for each in Decoder().feed(body_of(self._client.received)) if "data" in each]

    def take(self, count: int) -> list[dict[str, Any]]:
        """The first *count* messages, waited for."""
        while len(self.messages()) < count:
            data = self._client.sock.recv(65536)
            assert data, "closed"
            self._client.received += data
        assert len(self.messages()) == count
        return self.messages()

    def leave(self) -> None:
        self._client.fin()


def walked(server: Server) -> set[tuple[str, str]]:
    """The files and functions that a write, a broadcast, a departure and a replay have entered."""
    clients = [Reader(server, name) for name in ("one", "two")]
    ask(server, "/write", "POST")
    for client in clients:
        assert [each["data"] for each in client.take(1)] == ["written"]
    ask(server, f"/publish/{EVENTS}", "POST")
    expected = ["written", *map(str, range(EVENTS))]
    for client in clients:
        assert [each["data"] for each in client.take(1 + EVENTS)] == expected
    clients[0].leave()
    server.wait_for(event="close", client="one")
    back = Reader(server, "back", str(clients[0].messages()[EVENTS // 3]["id"]))
    rest = back.take(EVENTS - EVENTS // 3)
    assert [each["data"] for each in rest] == expected[EVENTS // 3 + 1 :]
    return functions_of(server)


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Any:
    server = Server(request.param, "tests.servers.apps.traced:app").start()
    yield server
    server.stop()


@pytest.mark.long_except("gevent", "SseWorker")
@pytest.mark.parametrize("serve", [each for each in SERVERS if each != "sync"], indirect=True)
def test_only_the_worker_of_its_own_enters_the_wing_for_it(serve: Server) -> None:
    """A line of ``gunicorn/`` that runs elsewhere, even in an import, is a line too many."""
    functions = walked(serve)
    assert functions >= WALKED
    own = {(file, name) for file, name in functions if file.startswith("gunicorn/")}
    if serve.kind == "SseWorker":
        assert own >= {("gunicorn/cohort.py", "send_batch"), ("gunicorn/flush.py", "send_together")}
    else:
        assert not own
    # The ways of a broadcast: see the table of ``fanout``.
    to_the_reader = ("http/output.py", "hand_to_reader") in functions
    assert to_the_reader == (serve.kind in GREENLETS)


@pytest.mark.long_except("compressed-SseWorker")
@pytest.mark.parametrize("serve", ["SseWorker"], indirect=True)
@pytest.mark.parametrize("how", ["compressed", "HTTP/1.0"])
def test_a_stream_of_the_worker_without_shared_chunks_is_sent_to_by_itself(
    serve: Server, how: str
) -> None:
    client = Client(serve.port)
    plain = zlib.decompressobj(31)  # 16 more asks for gzip's framing
    if how == "compressed":
        client.get("/news?client=it&compress=1", "Accept-Encoding: gzip")
    else:
        client.get("/news?client=it", version="1.0")

    def body() -> bytes:
        received = body_of(client.received)
        return plain.copy().decompress(received) if how == "compressed" else received

    while b"\nid: " not in body():
        client.received += client.sock.recv(65536)
    for number in range(3):
        ask(serve, "/publish/1", "POST")
        while body().count(b"data: 0") <= number:
            client.received += client.sock.recv(65536)
    functions = functions_of(serve)
    assert ("http/output.py", "hand_to_reader") in functions
    assert ("gunicorn/cohort.py", "send_batch") not in functions
