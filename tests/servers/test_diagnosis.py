"""A set-up that is wrong is said so, once, at WARNING."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import flask
import pytest

from ssestream import ServerResponse, SseStream, clear_interval, set_interval
from ssestream.http import diagnosis, unsent
from ssestream.http.outgoing import HIGH_WATER_MARK
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
    assert "secret" not in warning


#: What a view can write with, in turns.
WRITES: dict[str, Callable[[ServerResponse, SseStream], object]] = {
    "response": lambda res, sse_stream: res.write("data: x\n\n"),
    "large": lambda res, sse_stream: res.write("data: " + "x" * HIGH_WATER_MARK + "\n\n"),
    "piped": lambda res, sse_stream: sse_stream.write({"data": "x"}),
    "piped large": lambda res, sse_stream: sse_stream.write({"data": "x" * HIGH_WATER_MARK}),
    "unpiped": lambda res, sse_stream: sse_stream.write_message({"data": "x"}),
    "callback": lambda res, sse_stream: sse_stream.write({"data": "x"}, lambda error: None),
    "push": lambda res, sse_stream: sse_stream.push(b"data: x\n\n"),
}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> flask.Flask:
    """One whose views write for long if they write twice, in a process that said nothing yet."""
    monkeypatch.setattr(unsent, "LONG", 0.0)
    monkeypatch.setattr(diagnosis, "_said", set())
    return flask.Flask("tests.long")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    words = [record.getMessage() for record in caplog.records]
    return [each for each in words if "has not returned" in each]


@pytest.mark.parametrize("how", WRITES)
def test_whatever_a_view_writes_with(
    how: str,
    app: flask.Flask,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @app.get("/long")
    def long() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        if how.startswith("piped"):
            sse_stream.pipe(res)
        with monkeypatch.context() as patience:
            patience.setattr(unsent, "LONG", 1000.0)
            for _ in range(3):
                WRITES[how](res, sse_stream)
        assert told(caplog) == []
        WRITES[how](res, sse_stream)
        assert len(told(caplog)) == 1
        WRITES[how](res, sse_stream)
        res.end()
        return res

    app.test_client().get("/long?token=secret")
    (warning,) = told(caplog)
    assert warning.startswith("'/long': its view (long) has written for over a second")
    assert "secret" not in warning


@pytest.mark.parametrize("how", WRITES)
def test_a_view_that_has_returned_may_write_as_long_as_it_likes(
    how: str, app: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    writers: list[threading.Thread] = []

    @app.get("/late")
    def late() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        if how.startswith("piped"):
            sse_stream.pipe(res)
        WRITES[how](res, sse_stream)

        # In the context of the request, which is where a view writes.
        @flask.copy_current_request_context
        def write_on() -> None:
            wait_until(lambda: res.headers_sent, "the view to return")
            for _ in range(3):
                WRITES[how](res, sse_stream)
            res.end()

        writers.append(threading.Thread(target=write_on))
        writers[0].start()
        return res

    with app.test_client() as client:
        client.get("/late")
        writers[0].join()
    assert told(caplog) == []


@pytest.mark.parametrize("how", WRITES)
def test_a_view_that_takes_long_and_is_not_the_one_that_writes(
    how: str, app: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/prepares")
    def prepares() -> ServerResponse:
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        if how.startswith("piped"):
            sse_stream.pipe(res)
        written = threading.Semaphore(0)

        def tick() -> None:
            WRITES[how](res, sse_stream)
            written.release()

        timer = set_interval(tick, 20)
        for _ in range(5):
            assert written.acquire(timeout=10)
        clear_interval(timer)
        # The first that it writes itself.
        WRITES[how](res, sse_stream)
        res.end()
        return res

    app.test_client().get("/prepares")
    assert told(caplog) == []


def test_a_view_that_writes_to_the_streams_of_others(
    app: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    # One that its own view has not returned yet.
    with app.test_request_context("/theirs"):
        res, sse_stream = ServerResponse(), SseStream(flask.request)
        sse_stream.pipe(res)
        with app.test_request_context("/mine"):
            for _ in range(3):
                sse_stream.write({"data": "x"})
                res.write("data: x\n\n")
    assert told(caplog) == []


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


def test_each_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    diagnosis._warn("a test of %s", "warnings")
    diagnosis._warn("a test of %s", "warnings, again")
    assert [record.getMessage() for record in caplog.records] == ["a test of warnings"]
