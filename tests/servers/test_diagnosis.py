"""A set-up that is wrong is said so, once, at WARNING."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks
from tests.kit.servers import ROOT, SERVERS, UWSGI, Client, Server, wait_until

pytestmark = pytest.mark.server


def warnings_of(server: Server) -> list[str]:
    return [line for line in server.log().splitlines() if line.startswith("WARNING ssestream")]


RECIPES = blocks(ROOT / "docs" / "stopping.rst", "python")


def recipe(folder: Path, function: str, app: str = "tests.servers.apps.app") -> dict[str, str]:
    """Write a module ``drained``, in which *function* of the page on stopping is called."""
    (code,) = (block for block in RECIPES if f"def {function}(" in block)
    (folder / "drained.py").write_text(
        "import os, signal, time\n\nfrom ssestream import drain, statistics\n\n"
        f"{code}\n\nfrom {app} import app\n{function}()\n"
    )
    return {"PYTHONPATH": f"{ROOT}:{folder}"}


#: What gevent's server needs for a clean end, without the recipe's own way to serve.
_GEVENT = """
import signal

import gevent

from ssestream import drain
from tests.servers.apps.wrong import app

gevent.signal_handler(signal.SIGTERM, drain)
"""

WRONG = "tests.servers.apps.wrong"

#: gunicorn's arguments for the hook that ends streams.
HOOK = ("-c", "python:ssestream.gunicorn")


@pytest.fixture
def serve_well(serve: Callable[..., Server], tmp_path: Path) -> Callable[..., Server]:
    """Start a server that ends its streams when it stops."""

    def start(kind: str, **env: str) -> Server:
        if kind == "waitress":
            env |= recipe(tmp_path, "drain_on_sigterm", WRONG)
        elif kind == "pywsgi":
            (tmp_path / "drained.py").write_text(_GEVENT)
            env["PYTHONPATH"] = f"{ROOT}:{tmp_path}"
        args = HOOK if kind.startswith(("gevent", "gthread")) else ()
        app = "drained:app" if "PYTHONPATH" in env else f"{WRONG}:app"
        return serve(kind, app, env=env, args=args)

    return start


def stream(server: Server, path: str = "/stream") -> Client:
    return Client(server.port).get(path + "?token=secret")


@pytest.mark.parametrize("path", ["/stream", "/iterated"])
def test_a_server_that_one_stream_occupies(path: str, serve: Callable[..., Server]) -> None:
    server = serve("sync", f"{WRONG}:app")
    for _ in range(2):
        client = stream(server, path)
        client.read_until(b":ok\n\n")
        client.fin()
    (warning,) = warnings_of(server)
    assert repr(path) in warning
    assert "one request at a time" in warning
    assert f"docs/hangs.rst of ssestream. gunicorn's worker {CUTS}" in warning
    assert "secret" not in warning


def test_another_kind_of_response_on_such_a_server_is_nothing_to_warn_of(
    serve: Callable[..., Server],
) -> None:
    server = serve("sync", "tests.servers.apps.wrong:app")
    assert stream(server, "/slow-page").read_until(b"other")
    assert warnings_of(server) == []


@pytest.mark.long_except("/iterated-gevent", "/stream-SseWorker")
@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "sync"])
@pytest.mark.parametrize("path", ["/stream", "/iterated"])
def test_a_good_set_up_is_not_warned_of(
    kind: str, path: str, serve_well: Callable[..., Server]
) -> None:
    server = serve_well(kind, WRAPPER="passing")
    client = stream(server, path)
    client.read_until(b":ok\n\n")
    client.fin()
    stream(server, "/slow-page").read_until(b"other")
    assert warnings_of(server) == []


@pytest.mark.long_except("asgiref-/stream", "a2wsgi-/iterated")
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
    assert "A stop waits for the stream, or cuts it" in warning
    assert "gunicorn" in warning
    assert "secret" not in warning


@pytest.mark.long_except("collecting-SseWorker", "compressing-gevent", "collecting-gthread")
@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "sync"])
@pytest.mark.parametrize("wrapper", ["compressing", "collecting"])
def test_a_middleware_that_holds_back(
    kind: str, wrapper: str, serve_well: Callable[..., Server]
) -> None:
    server = serve_well(kind, WRAPPER=wrapper)
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


CUTS = "cuts open streams when it stops or reloads: "


@pytest.mark.parametrize("kind", ["waitress", pytest.param("pywsgi", marks=pytest.mark.long)])
def test_a_server_that_cuts_its_streams_when_it_stops(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, f"{WRONG}:app")
    assert stream(server, "/slow-page").read_until(b"other")
    assert warnings_of(server) == []
    clients = []
    for path in ("/stream", "/iterated"):
        clients.append(stream(server, path))
        clients[-1].read_until(b":ok\n\n")
    (warning,) = warnings_of(server)
    name = "gevent.pywsgi" if kind == "pywsgi" else kind
    assert f"'/stream': {name} {CUTS}" in warning
    assert "Let the app end them first. See docs/stopping.rst" in warning
    assert "secret" not in warning
    server.end()
    for client in clients:
        assert not client.read_to_end().endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "kind",
    ["gevent", *(pytest.param(k, marks=pytest.mark.long) for k in ("gthread", "gevent_pywsgi"))],
)
def test_a_worker_of_gunicorn_without_the_hook(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, f"{WRONG}:app", args=("--graceful-timeout", "1"))
    clients = [stream(server), stream(server)]
    for client in clients:
        client.read_until(b":ok\n\n")
    (warning,) = warnings_of(server)
    assert f"'/stream': gunicorn's worker {CUTS}" in warning
    assert "Use -k ssestream.gunicorn.SseWorker, or import post_worker_init" in warning
    server.end()
    for client in clients:
        assert not client.read_to_end().endswith(b"0\r\n\r\n")


@pytest.mark.usefixtures("uwsgi")
@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("uwsgi-gevent", True),
        pytest.param("uwsgi-gevent", False, marks=pytest.mark.long),
        ("uwsgi-threads", False),
        pytest.param("uwsgi-threads", True, marks=pytest.mark.long),
    ],
)
def test_uwsgi_cuts_them_unless_the_recipe_is_there_and_there_are_no_threads(
    kind: str, ends: bool, serve: Callable[..., Server], tmp_path: Path
) -> None:
    env = recipe(tmp_path, "drain_under_uwsgi", WRONG)
    server = serve(kind, "drained:app" if ends else f"{WRONG}:app", env=env)
    clients = [stream(server), stream(server)]
    for client in clients:
        client.read_until(b":ok\n\n")
    if kind == "uwsgi-gevent" and ends:
        assert warnings_of(server) == []
    else:
        (warning,) = warnings_of(server)
        name, cure = {
            "uwsgi-gevent": ("uWSGI", "Let the app end them first"),
            "uwsgi-threads": ("uWSGI without --gevent", "An app cannot end them first there"),
        }[kind]
        assert f"'/stream': {name} {CUTS}" in warning
        assert f"{cure}. See docs/stopping.rst" in warning


@pytest.mark.usefixtures("uwsgi")
def test_a_uwsgi_of_one_request_at_a_time_is_told_of_in_one_line(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(UWSGI, "uwsgi-threads", ())
    server = serve("uwsgi-threads", f"{WRONG}:app")
    stream(server).read_until(b":ok\n\n")
    (warning,) = warnings_of(server)
    assert "'/stream': its server answers one request at a time" in warning
    assert f"ssestream. uWSGI without --gevent {CUTS}" in warning


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
    kind: str, how: str, serve_well: Callable[..., Server]
) -> None:
    server = serve_well(kind)
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
    assert f"ssestream. gevent.pywsgi {CUTS}" in warning
