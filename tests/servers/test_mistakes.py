"""What an app's developer does wrong is told at WARNING: once, with the path and the cure."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.kit.servers import Client, Server, wait_until
from tests.kit.visit import Visit, until
from tests.servers.apps.mistakes import app, channels, werkzeug
from tests.servers.test_diagnosis import HOOK


def paths(beginning: str) -> list[str]:
    return [each.rule for each in app.url_map.iter_rules() if each.rule.startswith(beginning)]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, unsaid: None) -> Callable[[], list[str]]:
    """The warnings so far, of which none was given before."""
    caplog.set_level(logging.WARNING, "ssestream")
    return lambda: [each.getMessage() for each in caplog.records]


def warnings_of(server: Server) -> list[str]:
    return [line for line in server.log().splitlines() if line.startswith("WARNING ssestream")]


# -- a stream that nobody pipes


@pytest.mark.parametrize("path", paths("/forgotten/"))
def test_a_stream_that_nobody_pipes_is_told_of(path: str, warned: Callable[[], list[str]]) -> None:
    for _ in range(2):
        with Visit(app, path + "?token=secret"):
            until(warned, "a warning")
    (warning,) = warned()
    assert repr(path) in warning
    assert "sse_stream.pipe(res)" in warning
    assert "secret" not in warning
    channels.clear()


def test_so_is_one_of_an_app_without_flask(warned: Callable[[], list[str]]) -> None:
    with Visit(werkzeug, "/news"):
        until(warned, "a warning")
    (warning,) = warned()
    assert "'/news': the view made an SseStream" in warning


@pytest.mark.parametrize("path", [*paths("/meant/"), "/ended"])
def test_what_is_sent_without_a_pipe_on_purpose_is_not(
    path: str, warned: Callable[[], list[str]]
) -> None:
    with Visit(app, path, HTTP_LAST_EVENT_ID="7") as visit:
        assert visit.read_to_end()
    assert warned() == []


# -- tasks of an async def view


@pytest.mark.usefixtures("async_views")
@pytest.mark.parametrize("path", paths("/task/"))
def test_a_task_that_ends_with_its_view_is_told_of(
    path: str, warned: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        with Visit(app, path) as visit:
            visit.read_until(b"data: ")
    (warning,) = warned()
    assert repr(path) in warning
    assert "(push)" in warning
    assert "set_interval()" in warning


@pytest.mark.usefixtures("async_views")
@pytest.mark.parametrize("path", paths("/done/"))
def test_what_an_async_view_awaits_is_not(path: str, warned: Callable[[], list[str]]) -> None:
    with Visit(app, path) as visit:
        assert visit.read_to_end().count(b"data: 1") == 2
    assert warned() == []


# -- test clients


def test_the_client_of_a_test_is_no_server_with_one_thread(
    warned: Callable[[], list[str]],
) -> None:
    client: FlaskClient = app.test_client()
    assert client.get("/ended").data == b":ok\n\ndata: 1\n\n"
    assert warned() == []


@pytest.mark.parametrize(
    ("environ", "alone"),
    [
        ({}, False),
        ({"SERVER_SOFTWARE": "gunicorn/27.0.1"}, True),
        ({"SERVER_SOFTWARE": "Werkzeug/3.1.9"}, True),
        ({"SERVER_SOFTWARE": "Werkzeug/3.1.9", "wsgi.multiprocess": True}, False),
        ({"SERVER_SOFTWARE": "gunicorn/27.0.1", "wsgi.multiprocess": True}, True),
        ({"uwsgi.version": b"2.0"}, True),
    ],
)
def test_a_server_with_one_thread_is_told_from_it(
    environ: dict[str, Any], alone: bool, warned: Callable[[], list[str]]
) -> None:
    app.test_client().get("/ended", environ_overrides=environ)
    assert len(warned()) == alone
    assert all("one request at a time" in each and "'/ended'" in each for each in warned())


# -- on real servers


@pytest.mark.server
def test_flask_run_without_threads_is_told_of(serve: Callable[..., Server]) -> None:
    server = serve("flask", "tests.servers.apps.mistakes:app", args=("--without-threads",))
    Client(server.port).get("/ended").read_until(b"data: 1")
    (warning,) = warnings_of(server)
    assert "'/ended': its server answers one request at a time" in warning


@pytest.mark.server
@pytest.mark.parametrize("kind", ["gthread", "waitress"])
def test_the_stream_that_takes_the_last_thread_is_told_of(
    kind: str, serve: Callable[..., Server]
) -> None:
    args = HOOK if kind == "gthread" else ()
    server = serve(kind, "tests.servers.apps.mistakes:app", threads=3, args=args)
    # These do not stay.
    for _ in range(4):
        Client(server.port).get("/ended", "Connection: close").read_to_end()
    streams = [Client(server.port).get("/stream") for _ in range(2)]
    for each in streams:
        each.read_until(b":ok\n\n")
    before = warnings_of(server)
    if kind == "waitress":
        assert "waitress cuts open streams when it stops" in before.pop()
    assert before == []
    last = Client(server.port).get("/stream?token=secret")
    last.read_until(b":ok\n\n")
    warning = wait_until(lambda: warnings_of(server)[kind == "waitress" :], "a warning")[0]
    assert "'/stream': this stream has taken the last of the 3 threads" in warning
    assert "--threads" in warning
    assert "gevent worker" in warning
    assert "secret" not in warning


@pytest.mark.long_except("gthread")
@pytest.mark.server
@pytest.mark.usefixtures("async_views")
@pytest.mark.parametrize("kind", ["gthread", "gevent", "SseWorker"])
def test_the_mistakes_of_views_are_told_by_real_servers(
    kind: str, serve: Callable[..., Server]
) -> None:
    args = () if kind == "SseWorker" else HOOK
    server = serve(kind, "tests.servers.apps.mistakes:app", args=args)
    clients = [Client(server.port).get("/forgotten/timer") for _ in range(2)]
    wait_until(lambda: warnings_of(server), "a warning")
    if kind == "SseWorker":
        assert b"Content-Type: text/html" in clients[0].read_until(b"\r\n\r\n")
    clients += [Client(server.port).get("/task/stream")]
    clients[-1].read_until(b"data: ")
    piped, task = wait_until(lambda: warnings_of(server)[1:] and warnings_of(server), "both")
    assert "'/forgotten/timer'" in piped
    assert "'/task/stream'" in task
    for client in clients:
        client.fin()
