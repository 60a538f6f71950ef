"""Frameworks other than Flask, with the code of their page, on gunicorn."""

import ast
import inspect
import re
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks
from tests.kit.promptness import at_best
from tests.kit.servers import ROOT, Client, Server, ask_json, body_of, chunks_of, wait_until
from tests.servers.test_departure import AT_ONCE

pytestmark = pytest.mark.server

PAGE = ROOT / "docs" / "frameworks.rst"

#: The code of the page, by the names of its files.
FILES = {block.split("\n")[0].removeprefix("# "): block for block in blocks(PAGE, "python")}

#: The example of each framework, and the module that it needs.
FRAMEWORKS = {
    "plain": "wsgiref",
    "with_webob": "webob",
    "with_pyramid": "pyramid",
    "with_django": "django",
    "with_bottle": "bottle",
    "with_falcon": "falcon",
}

#: Of these, the ones that hand the body of a `ServerResponse` to the server as it is.
UNWRAPPED = {"plain", "with_webob", "with_pyramid"}

#: Seconds in which the first event comes. The second one comes after a second.
FIRST = 0.5

#: gunicorn's workers, with the hook for those of its own.
KINDS: dict[str, tuple[str, ...]] = {
    "SseWorker": (),
    "gthread": ("-c", "python:ssestream.gunicorn"),
}

Start = Callable[..., Server]


@pytest.fixture
def start(
    serve: Callable[..., Server], installed: Callable[[str], None], tmp_path: Path
) -> Callable[..., Server]:
    """``start("SseWorker", "with_django", change)``: serve an example, with its code changed."""

    def started(kind: str, name: str, change: Callable[[str], str] = lambda code: code) -> Server:
        installed(FRAMEWORKS[name])
        for file, code in FILES.items():
            (tmp_path / file).write_text(change(code) if file == f"{name}.py" else code)
        env = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OBSERVED": name}
        return serve(kind, "tests.servers.apps.observed:app", args=KINDS[kind], env=env)

    return started


def opened(server: Server) -> Client:
    client = Client(server.port).get("/ticks")
    client.read_until(b":ok\n\n")
    return client


def left(server: Server) -> int:
    return int(ask_json(server, "/statistics")["closed"].get("client", 0))


def test_the_page_has_an_example_of_each() -> None:
    assert set(FILES) == {"ticks.py", "ticking.py", *(f"{name}.py" for name in FRAMEWORKS)}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_view_has_as_many_lines_as_the_page_says(name: str) -> None:
    assert "Each view has three or four lines." in PAGE.read_text()
    top = ast.parse(FILES[f"{name}.py"]).body
    (view,) = (each for each in top if isinstance(each, (ast.FunctionDef, ast.ClassDef)))
    assert view.end_lineno is not None
    assert view.end_lineno + 1 - view.lineno + len(view.decorator_list) in (3, 4)


@pytest.mark.long_except("with_bottle-SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", pytest.param("gthread", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_example_keeps_the_promises_of_a_stream(name: str, kind: str, start: Start) -> None:
    server = start(kind, name)

    def first_event() -> float:
        began = time.monotonic()
        client = Client(server.port).get("/ticks")
        client.read_until(b"data: ")
        took = time.monotonic() - began
        head = client.received.partition(b"\r\n\r\n")[0].lower()
        assert b"content-type: text/event-stream; charset=utf-8" in head
        assert b"cache-control: no-cache, no-transform" in head
        assert b"x-accel-buffering: no" in head
        client.fin()
        return took

    def departure() -> float:
        client = opened(server)
        wait_until(lambda: ask_json(server, "/statistics")["open"] == 1, "the others to be over")
        before = left(server)
        began = time.monotonic()
        client.fin()
        wait_until(lambda: left(server) > before, "the departure")
        return time.monotonic() - began

    at_best(first_event, FIRST)
    at_best(departure, AT_ONCE)

    head = Client(server.port).get("/ticks", "Connection: close", method="HEAD").read_to_end()
    assert b"data:" not in head
    assert ask_json(server, "/statistics")["open"] == 0

    client = opened(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    assert re.search(rb"\nretry: \d+\n\n$", body_of(client.read_to_end()))
    assert client.received.endswith(b"\r\n0\r\n\r\n")
    server.process.wait(60)
    if kind == "SseWorker":
        by_gevent = "SseWorker sends this stream as gunicorn's gevent worker does"
        assert (by_gevent in server.log()) == (name not in UNWRAPPED)
    assert "WARNING ssestream" not in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.long
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_option_of_the_stream_gives_it_heartbeats(name: str, start: Start) -> None:
    def with_heartbeat(code: str) -> str:
        changed, count = re.subn(r"SseStream\(([\w.]+)\)", r"SseStream(\1, heartbeat=0.1)", code)
        assert count == 1
        return changed

    opened(start("gthread", name, with_heartbeat)).read_until(b"\n:\n")


def without_source(code: str, made: str) -> str:
    """*code* with the stream that *made* makes, and without a pipeline."""
    code, count = re.subn(
        r"pipeline\(ticks\(\), SseStream\(([\w.]+)\)(, ServerResponse\(\))?\)",
        lambda found: f"{made.format(found[1])}{'.pipe(ServerResponse())' if found[2] else ''}",
        code,
    )
    assert count == 1
    return code


@pytest.mark.long_except("with_bottle")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_timer_may_write_in_the_place_of_a_source(name: str, start: Start) -> None:
    assert "``ticking(request).pipe(ServerResponse())``" in PAGE.read_text()
    server = start(
        "gthread",
        name,
        lambda code: f"from ticking import ticking\n\n{without_source(code, 'ticking({})')}",
    )
    client = opened(server)
    client.read_until(b"data: hello\n\n")
    year = time.ctime()[-4:]
    client.read_until(f" {year}\n\n".encode())
    before = left(server)
    client.fin()
    wait_until(lambda: left(server) > before, "the departure")
    assert "Traceback" not in server.log()


@pytest.mark.long
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_channel_needs_no_flask(name: str, start: Start) -> None:
    def with_channel(code: str) -> str:
        """The stream follows a channel, on which an event is published then."""
        code = without_source(code, "followed(SseStream({}))")
        return f"from ssestream import Channels\n\n{FOLLOWED}\n\n{code}"

    server = start("gthread", name, with_channel)
    client = Client(server.port).get("/ticks")
    client.read_until(b"data: from a channel\n\n")
    client.fin()


FOLLOWED = """
channels = Channels()


def followed(sse_stream):
    channels.subscribe(sse_stream, "news")
    channels.publish("news", {"data": "from a channel"})
    return sse_stream
"""


def unpacked(client: Client) -> bytes:
    """What the chunks that have come hold in gzip."""
    return zlib.decompressobj(wbits=31).decompress(b"".join(chunks_of(client.received)))


@pytest.mark.parametrize("exempt", [False, True])
def test_djangos_compression_holds_back_what_it_does_not_flush_unless_it_is_exempt(
    exempt: bool, start: Start
) -> None:
    headers = '{**HEADERS, "Content-Encoding": "identity"}'
    assert headers in PAGE.read_text()

    def compressed(code: str) -> str:
        middleware = "settings.configure(MIDDLEWARE=['django.middleware.gzip.GZipMiddleware'], "
        code = code.replace("settings.configure(", middleware)
        return code.replace("headers=HEADERS", f"headers={headers}") if exempt else code

    server = start("gthread", "with_django", compressed)
    from django.utils.text import compress_sequence

    flushes = ".flush()" in inspect.getsource(compress_sequence)
    client = Client(server.port).get("/ticks", "Accept-Encoding: gzip")
    if exempt:
        client.read_until(b"data: ")
        assert "WARNING ssestream" not in server.log()
    elif flushes:
        client.read_until(b"\r\n\r\n")
        while b"data: " not in unpacked(client):
            data = client.sock.recv(65536)
            assert data, "it has ended"
            client.received += data
        assert "WARNING ssestream" not in server.log()
    else:
        wait_until(lambda: "WARNING ssestream" in server.log(), "a warning")
        assert "holds back what is sent" in server.log()
        client.read_until(b"\r\n\r\n")
        assert b"data: " not in unpacked(client)
    client.fin()
