"""Any thread may write: same result."""

import http.client
import json
import statistics
import time
from collections.abc import Callable

import pytest

from ssestream.wire import Decoder
from tests.kit.promptness import at_best
from tests.kit.servers import Client, Server, chunks_of

pytestmark = pytest.mark.server

#: Messages of each of two writers.
COUNT = 50_000


def post(server: Server, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", path, headers={"Connection": "close"})
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_a_thread_and_a_second_hub_write_without_loss(
    kind: str, serve: Callable[..., Server]
) -> None:
    # The writers do not wait for "drain", so the bound must hold all they write.
    bounds = {"SSESTREAM_MAX_MESSAGES": 2 * COUNT, "SSESTREAM_MAX_BYTES": 64 * 2 * COUNT}
    server = serve(kind, "tests.servers.apps.app:app", env={"SETTINGS": json.dumps(bounds)})
    client = Client(server.port).get("/quiet?key=storm", version="1.0")
    client.read_until(b":ok\n\n")
    post(server, f"/storm?key=storm&count={COUNT}")
    decoder = Decoder()
    messages = decoder.feed(client.received.partition(b"\r\n\r\n")[2])[1:]
    while len(messages) < 2 * COUNT:
        data = client.sock.recv(1 << 20)
        assert data, f"ended after {len(messages)} messages"
        messages += decoder.feed(data)
    # All arrived, in each writer's order, none twice.
    expected = [str(number) for number in range(COUNT)]
    for writer in ("thread", "hub"):
        assert [m["data"] for m in messages if m["event"] == writer] == expected
    assert len(messages) == 2 * COUNT


@pytest.mark.long_except("SseWorker", "gthread")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_an_idle_receiver_wakes_within_50_ms(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, "tests.servers.apps.app:app")
    client = Client(server.port).get("/quiet?key=idle", version="1.0")
    client.read_until(b":ok\n\n")

    def knock() -> float:
        client.received = b""
        post(server, "/knock?key=idle")
        client.read_until(b"\n\n")
        arrived = time.monotonic()
        return arrived - float(client.received.partition(b"data: ")[2])

    # Most knocks of a try, as a single one may be quick by chance.
    at_best(lambda: statistics.median(knock() for _ in range(11)), 0.05)


@pytest.mark.long_except("SseWorker", "gthread")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_frames_that_wait_together_leave_as_one_chunk(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.app:app")
    client = Client(server.port).get("/ended?key=chunk", "Connection: close")
    client.read_to_end()
    assert chunks_of(client.received) == [b":ok\n\nid: 0\n\nid: 1\n\nid: 2\n\ndata: last\n\n"]
