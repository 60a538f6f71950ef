"""A set-up that is wrong is said so, once, at WARNING."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.kit.servers import ROOT, SERVERS, Client, Server, wait_until

pytestmark = pytest.mark.server


def warnings_of(server: Server) -> list[str]:
    return [line for line in server.log().splitlines() if line.startswith("WARNING ssestream")]


def stream(server: Server, path: str = "/stream") -> Client:
    return Client(server.port).get(path + "?token=secret")


@pytest.mark.parametrize("path", ["/stream", "/iterated"])
def test_a_server_that_one_stream_occupies(path: str, serve: Callable[..., Server]) -> None:
    server = serve("sync", "tests.servers.apps.wrong:app")
    for _ in range(2):
        client = stream(server, path)
        client.read_until(b":ok\n\n")
        client.fin()
    (warning,) = warnings_of(server)
    assert repr(path) in warning
    assert "one request at a time" in warning
    assert "docs/hangs.rst" in warning
    assert "secret" not in warning


def test_another_kind_of_response_on_such_a_server_is_nothing_to_warn_of(
    serve: Callable[..., Server],
) -> None:
    server = serve("sync", "tests.servers.apps.wrong:app")
    assert stream(server, "/slow-page").read_until(b"other")
    assert warnings_of(server) == []


@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "sync"])
@pytest.mark.parametrize("path", ["/stream", "/iterated"])
def test_a_good_set_up_is_not_warned_of(kind: str, path: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, "tests.servers.apps.wrong:app", env={"WRAPPER": "passing"})
    client = stream(server, path)
    client.read_until(b":ok\n\n")
    client.fin()
    stream(server, "/slow-page").read_until(b"other")
    assert warnings_of(server) == []


@pytest.mark.parametrize("path", ["/stream", "/iterated"])
@pytest.mark.parametrize("adapter", ["a2wsgi", "asgiref"])
def test_an_asgi_server_that_tells_of_no_departure(
    adapter: str, path: str, serve: Callable[..., Server]
) -> None:
    server = serve("uvicorn", f"tests.servers.apps.asgi:{adapter}", env={"WRAPPER": "passing"})
    assert stream(server, "/slow-page").read_until(b"other")
    assert warnings_of(server) == []
    clients = [stream(server, path)]
    clients[0].read_until(b":ok\n\n")
    if adapter == "a2wsgi":  # asgiref would not come to a second one
        clients.append(stream(server, path))
        clients[1].read_until(b":ok\n\n")
    (warning,) = warnings_of(server)
    assert f"{path!r}: {adapter} runs this app on an ASGI server" in warning
    assert ("of which there is only one" in warning) == (adapter == "asgiref")
    assert "gunicorn" in warning
    assert "secret" not in warning


@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "sync"])
@pytest.mark.parametrize("wrapper", ["compressing", "collecting"])
def test_a_middleware_that_holds_back(
    kind: str, wrapper: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.wrong:app", env={"WRAPPER": wrapper})
    stream(server, "/slow-page").read_until(b"\r\n\r\n")
    assert warnings_of(server) == []
    clients = [stream(server), stream(server)]
    wait_until(lambda: warnings_of(server), "a warning")
    (warning,) = warnings_of(server)
    assert "'/stream'" in warning
    assert "a middleware that compresses or collects" in warning
    assert "secret" not in warning
    for client in clients:
        client.fin()


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("SseWorker", "by-hand"),
        ("gevent", "piped"),
        ("gthread", "iterated"),
        ("flask", "by-hand"),
        ("pywsgi", "piped"),
    ],
)
def test_a_view_that_writes_on_and_does_not_return(
    kind: str, how: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.wrong:app")
    for client in (stream(server, f"/loop/{how}"), stream(server, f"/loop/{how}")):
        client.read_until(b"data: 3\n\n")
        client.fin()
    (warning,) = warnings_of(server)
    assert f"'/loop/{how}': its view (loop) has written for over a second" in warning
    assert "return the response first" in warning
    assert "docs/hangs.rst" in warning
    assert "secret" not in warning


#: gevent's server, with nothing patched for it.
_UNPATCHED = """
import sys
from gevent.pywsgi import WSGIServer
from tests.servers.apps.wrong import app
server = WSGIServer(("127.0.0.1", 0), app, log=None)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def unpatched() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _UNPATCHED],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_greenlets_in_a_process_that_is_not_patched(unpatched: subprocess.Popen[str]) -> None:
    assert unpatched.stdout is not None
    assert unpatched.stderr is not None
    client = Client(int(unpatched.stdout.readline())).get("/stream")
    client.read_until(b":ok\n\n")
    client.fin()
    warning = unpatched.stderr.readline()
    assert warning.startswith("WARNING ssestream: 127.0.0.1 '/stream': ")
    assert "has not patched socket, ssl, time, threading" in warning
    assert "monkey.patch_all()" in warning
