"""The spans of the streams of real workers, when clients leave and when workers stop."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.kit.servers import Client, Server

pytestmark = pytest.mark.server


@pytest.fixture(params=["SseWorker", "gevent", "gthread"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    args = ("-c", "python:ssestream.gunicorn")
    server = Server(request.param, "tests.servers.apps.spans:app", args=args)
    yield server.start()
    server.stop()


@pytest.mark.parametrize("how", ["piped", "iterated"])
def test_a_span_is_as_long_as_its_stream_and_has_a_link_to_its_request(
    server: Server, how: str
) -> None:
    began = time.monotonic()
    client = Client(server.port).get(f"/{how}")
    client.read_until(b":ok\n\n")
    opened = time.monotonic()
    request = server.wait_for(event="span", name="the request")
    assert not server.events(event="span", name=f"stream {how}")
    left = time.monotonic()
    client.fin()
    span = server.wait_for(event="span", name=f"stream {how}")
    # Not before the client came and went, and not long after: the server told of it at "at".
    assert left - opened < span["seconds"] < span["at"] - began
    assert span["links"] == [request["id"]]
    assert span["attributes"]["ssestream.cause"] == "client"
    assert span["attributes"]["url.path"] == f"/{how}"


def test_the_spans_of_a_worker_that_stops_are_exported(server: Server) -> None:
    clients = [Client(server.port).get("/piped") for _ in range(5)]
    for client in clients:
        client.read_until(b":ok\n\n")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.read_until(b"0\r\n\r\n")
        client.fin()
    server.process.wait(60)
    spans = server.events(event="span", name="stream piped")
    assert [each["attributes"]["ssestream.cause"] for each in spans] == ["shutdown"] * 5
    requests = {each["id"] for each in server.events(event="span", name="the request")}
    assert {link for each in spans for link in each["links"]} == requests
