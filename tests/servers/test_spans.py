"""The spans of the streams of real workers, when clients leave and when workers stop."""

import importlib.util
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kit.servers import Client, Server, wait_until

pytestmark = pytest.mark.server

#: Lets gunicorn's own workers end their streams, too.
HOOK = ("-c", "python:ssestream.gunicorn")

#: The trace that a request belongs to.
OUTER = 0x5EED


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing, too
        return False


@pytest.fixture(params=["SseWorker", "gevent", "gthread"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param, "tests.servers.apps.spans:app", args=HOOK)
    yield server.start()
    server.stop()


@pytest.mark.long_except("SseWorker-piped")
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


@pytest.mark.long_except("piped-SseWorker", "iterated-gthread")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
@pytest.mark.parametrize("how", ["piped", "iterated"])
def test_a_span_has_a_link_to_the_span_that_opentelemetrys_instrumentation_makes(
    kind: str, how: str, serve: Callable[..., Server]
) -> None:
    if not is_installed("opentelemetry.instrumentation.flask"):
        pytest.skip("left out, as opentelemetry-instrumentation-flask is missing: tox -e spans")
    server = serve(kind, "tests.servers.apps.spans:app", args=HOOK, env={"INSTRUMENTED": "1"})
    client = Client(server.port).get(f"/{how}", f"traceparent: 00-{OUTER:032x}-{7:016x}-01")
    client.read_until(b":ok\n\n")
    opened = time.monotonic()
    # The span of the request is over, and the stream goes on.
    request = server.wait_for(event="span", name=f"GET /{how}")
    assert request["trace"] == OUTER
    assert not server.events(event="span", name=f"stream {how}")
    wait_until(lambda: time.monotonic() - opened > request["seconds"], "a longer life")
    left = time.monotonic()
    client.fin()
    span = server.wait_for(event="span", name=f"stream {how}")
    assert span["seconds"] > left - opened > request["seconds"]
    assert span["links"] == [request["id"]]
    assert span["trace"] != OUTER
    assert span["attributes"]["ssestream.cause"] == "client"
    assert "Traceback" not in server.log()


@pytest.mark.long_except("SseWorker")
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
