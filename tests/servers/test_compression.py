"""Own compression, and streams behind Flask-Compress: what is asked for arrives, at once."""

import gc
import json
import os
import signal
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, request
from flask_compress import Compress
from hypothesis import given
from hypothesis import strategies as st

from ssestream import MessageError, ServerResponse, SseStream, pipeline, statistics
from ssestream.http.output import CHUNK
from ssestream.wire import encode
from tests.kit.messages import right_messages
from tests.kit.servers import SERVERS, Client, Server, body_of, wait_until
from tests.kit.visit import Visit, on_threads_and_greenlets, until
from tests.servers.apps.browser import browser
from tests.servers.apps.compressed import GREEDY, NOISE, WAYS

GZIP = "Accept-Encoding: gzip"
ON = json.dumps({"SSESTREAM_COMPRESS": True})

EVENTS = "text/event-stream"

#: What browsers say.
BROWSERS = "gzip, deflate, br, zstd"


class Gunzip:
    """A client's decompressor, which is fed whatever has come."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)  # 16 more asks for gzip's framing
        self.plain = b""

    def feed(self, data: bytes) -> bytes:
        """What *data* makes readable."""
        found = self._zlib.decompress(data)
        self.plain += found
        assert self._zlib.unused_data == b"", "something comes after the end of gzip"
        return found

    @property
    def complete(self) -> bool:
        """Whether the trailer has come, and its checksum and length are right."""
        return self._zlib.eof


def unzipped(client: Client) -> Gunzip:
    """What can be read of a response so far."""
    gunzip = Gunzip()
    gunzip.feed(body_of(client.received))
    return gunzip


def read_plain_until(client: Client, mark: bytes) -> bytes:
    """Read until *mark* can be read out of gzip; all that can be read then."""
    while mark not in (plain := unzipped(client).plain):
        data = client.sock.recv(65536)
        assert data, f"closed before {mark!r} came: {plain[-500:]!r}"
        client.received += data
    return plain


def post(server: Server, path: str, message: dict[str, Any] | None = None) -> None:
    body = b"" if message is None else json.dumps(message).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(server.url + path, body, headers, method="POST")
    urllib.request.urlopen(asked, timeout=60).close()


# -- who gets it


def build(**config: Any) -> Flask:
    app = Flask("negotiation")
    app.config.update(config)

    def ended(**options: Any) -> SseStream:
        sse_stream = SseStream(request, **options)
        sse_stream.end({"data": "hello"})
        return sse_stream

    @app.get("/piped")
    def piped() -> Response:
        return ended().pipe(ServerResponse())

    @app.get("/on")
    def on() -> Response:
        return ended(compress=True).pipe(ServerResponse())

    @app.get("/off")
    def off() -> Response:
        return ended(compress=False).pipe(ServerResponse())

    @app.get("/drawn")
    def drawn() -> Response:
        return pipeline([{"data": "hello"}], SseStream(request), ServerResponse())

    @app.get("/raw")
    def raw() -> Response:
        res = ServerResponse()
        res.header("Content-Type", "text/event-stream")
        res.end("data: hello\n\n")
        return res

    @app.get("/turned")
    def turned() -> Response:
        """A response that was to be a stream, and became another."""
        res = ServerResponse()
        res.header("Content-Type", "text/event-stream")
        res.header("Content-Type", "text/plain")
        res.end("hello")
        return res

    @app.get("/text")
    def text() -> Response:
        res = ServerResponse(headers={"Content-Type": "text/plain"})
        res.end("hello")
        return res

    @app.get("/iterated")
    def iterated() -> Response:
        return Response(ended(), mimetype="text/event-stream")

    @app.get("/own/<encoding>")
    def own(encoding: str) -> Response:
        """An app that encodes by itself, or says that it does not."""
        res = ServerResponse()
        res.header("Content-Encoding", encoding)
        return ended().pipe(res)

    @app.get("/varied")
    def varied() -> Response:
        res = ServerResponse()
        res.header("Vary", "Cookie")
        return ended().pipe(res)

    @app.get("/nothing/<int:status>")
    def nothing(status: int) -> Response:
        """After 204 an EventSource comes back no more."""
        res = ServerResponse(status, {"Content-Type": "text/event-stream"})
        res.end()
        return res

    return app


class Answer:
    """A whole response of such an app."""

    def __init__(self, app: Flask, path: str, accept: str | None = "gzip", **options: Any) -> None:
        if accept is not None:
            options["HTTP_ACCEPT_ENCODING"] = accept
        with Visit(app, path, **options) as visit:
            visit.read_to_end()
            self.head = visit.head
            self.encoding = visit.headers("Content-Encoding")
            self.vary = visit.headers("Vary")
            self.body = visit.body

    @property
    def plain(self) -> bytes:
        if self.encoding != ["gzip"]:
            return self.body
        gunzip = Gunzip()
        gunzip.feed(self.body)
        assert gunzip.complete
        return gunzip.plain


HELLO = b":ok\n\ndata: hello\n\n"

TAKEN = ["gzip", "GZIP", "gzip;q=0.001", BROWSERS, "br;q=1, gzip;q=0.2", "*", "*;q=0.1, br;q=0"]
TAKEN += ["gzip;q=0.5, identity;q=0.4", "identity;q=0, gzip", "br, *;q=0.5", " gzip ; q=0.3"]

REFUSED = [None, "", "identity", "br", "deflate, br, zstd", "gzip;q=0", "gzip; q=0.000", "*;q=0"]
REFUSED += ["gzip;q=0, *", "*;q=0.5, gzip;q=0", "gzip;Q=0", "identity, *;q=0"]
# No gzip by any reading.
REFUSED += [";;;,", "gzipper", "gzip;q=abc", "gzip;q=-1", "gzip;q=nan", "q=1", "g z i p", "\xff;q"]


@pytest.mark.parametrize("accept", TAKEN)
def test_who_takes_gzip_gets_it(accept: str) -> None:
    answer = Answer(build(SSESTREAM_COMPRESS=True), "/piped", accept)
    assert answer.encoding == ["gzip"]
    assert answer.vary == ["Accept-Encoding"]
    assert answer.body[:2] == b"\x1f\x8b"
    assert answer.plain == HELLO


@pytest.mark.parametrize("accept", REFUSED)
def test_who_does_not_gets_plain_text_and_caches_are_told_that_it_depends(
    accept: str | None,
) -> None:
    answer = Answer(build(SSESTREAM_COMPRESS=True), "/piped", accept)
    assert answer.encoding == []
    assert answer.vary == ["Accept-Encoding"]
    assert answer.body == HELLO


@pytest.mark.parametrize("accept", ["gzip;q=0.5, identity", "identity;q=1.0, gzip;q=0.9"])
def test_who_prefers_plain_text_gets_that(accept: str) -> None:
    """RFC 9110, section 12.5.3: of what is acceptable the highest weight is preferred."""
    assert Answer(build(SSESTREAM_COMPRESS=True), "/piped", accept).encoding == []


@pytest.mark.parametrize(
    ("app_wide", "path", "compressed"),
    [
        (None, "/piped", False),
        (None, "/on", True),
        (None, "/off", False),
        (False, "/piped", False),
        (False, "/on", True),
        (True, "/piped", True),
        (True, "/drawn", True),
        (True, "/raw", True),
        (True, "/off", False),
        (True, "/iterated", False),
        (True, "/text", False),
        (True, "/turned", False),
    ],
)
def test_a_stream_is_compressed_only_when_that_is_asked_for(
    app_wide: bool | None, path: str, compressed: bool
) -> None:
    config = {} if app_wide is None else {"SSESTREAM_COMPRESS": app_wide}
    answer = Answer(build(**config), path, BROWSERS)
    assert answer.encoding == (["gzip"] if compressed else [])
    assert answer.vary == (["Accept-Encoding"] if compressed else [])
    assert answer.plain.endswith(b"hello\n\n") or answer.plain == b"hello"


@pytest.mark.parametrize("path", ["/piped", "/drawn", "/raw"])
@pytest.mark.parametrize("accept", ["gzip", "br", None])
@pytest.mark.parametrize("on", [True, False])
def test_head_has_the_headers_of_get(path: str, accept: str | None, on: bool) -> None:
    app = build(SSESTREAM_COMPRESS=on)
    get, head = Answer(app, path, accept), Answer(app, path, accept, method="HEAD")
    assert head.body == b""
    assert head.encoding == get.encoding == (["gzip"] if on and accept == "gzip" else [])
    # wsgiref's own are the time, and the length of what it did not get.
    lines = [
        [line for line in answer.head.split("\r\n") if not line.startswith(("Date:", "Content-L"))]
        for answer in (get, head)
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_version_of_http_makes_no_difference(version: str) -> None:
    answer = Answer(build(SSESTREAM_COMPRESS=True), "/piped", version=version)
    assert answer.encoding == ["gzip"]
    assert answer.plain == HELLO


@pytest.mark.parametrize("on", [True, False])
def test_what_an_app_encodes_by_itself_is_left_alone(on: bool) -> None:
    answer = Answer(build(SSESTREAM_COMPRESS=on), "/own/br", BROWSERS)
    assert answer.encoding == ["br"]
    assert answer.body == HELLO


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("accept", ["gzip", None])
@pytest.mark.parametrize(
    "path", ["/piped", "/drawn", "/raw", "/turned", "/text", "/iterated"]
    + ["/own/identity", "/own/Identity"],
)  # fmt: skip
def test_identity_is_never_on_the_wire(path: str, accept: str | None, on: bool) -> None:
    """RFC 9110, section 8.4.1: it is for Accept-Encoding alone."""
    answer = Answer(build(SSESTREAM_COMPRESS=on), path, accept)
    assert b"hello" in answer.plain
    assert "identity" not in answer.head.lower()


def test_vary_keeps_what_is_in_it() -> None:
    for accept in ("gzip", None):
        (vary,) = Answer(build(SSESTREAM_COMPRESS=True), "/varied", accept).vary
        assert vary == "Cookie, Accept-Encoding"


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_has_no_encoding(status: int) -> None:
    answer = Answer(build(SSESTREAM_COMPRESS=True), f"/nothing/{status}")
    assert answer.head.startswith(f"HTTP/1.0 {status} ")
    assert answer.body == b""
    assert answer.encoding == []


# -- flushed at every write


class Taken:
    """A stream whose client takes its chunks when told to."""

    def __init__(self, compress: bool, **options: Any) -> None:
        environ = {"HTTP_ACCEPT_ENCODING": "gzip", "REQUEST_METHOD": "GET"}
        self.stream = SseStream(environ, compress=compress, **options)
        self.res = self.stream.pipe(ServerResponse())
        self.chunks = self.res(environ, lambda status, headers: None)

    def take(self) -> bytes:
        return next(iter(self.chunks))


def can_be_sent(message: dict[str, Any]) -> bool:
    try:
        encode(message)
    except MessageError:  # nothing in it
        return False
    return True


@pytest.mark.long
@given(st.lists(st.lists(right_messages.filter(can_be_sent), min_size=1, max_size=5), max_size=8))
def test_each_chunk_is_readable_by_itself_and_says_what_the_plain_one_says(
    groups: list[list[dict[str, Any]]],
) -> None:
    plain, gzipped, gunzip = Taken(compress=False), Taken(compress=True), Gunzip()
    assert gunzip.feed(gzipped.take()) == plain.take() == b":ok\n\n"
    for group in groups:
        for message in group:
            for taken in (plain, gzipped):
                taken.stream.write(message)
        assert gunzip.feed(gzipped.take()) == plain.take() == b"".join(map(encode, group))
    assert not gunzip.complete
    for taken in (plain, gzipped):
        taken.stream.end()
    assert list(plain.chunks) == []
    assert [gunzip.feed(chunk) for chunk in gzipped.chunks] == [b""]
    assert gunzip.complete


def test_a_frame_larger_than_a_chunk_arrives_whole() -> None:
    taken, gunzip = Taken(compress=True), Gunzip()
    sent = [os.urandom(CHUNK).hex(), "x" * (5 * CHUNK), "y" * (CHUNK - 8), NOISE]
    for data in sent:
        taken.stream.write({"data": data})
    taken.stream.end()
    for chunk in taken.chunks:
        assert len(gunzip.feed(chunk)) <= CHUNK
    assert gunzip.complete
    assert gunzip.plain == b":ok\n\n" + b"".join(encode({"data": data}) for data in sent)


def test_what_end_is_called_with_arrives_behind_what_waits() -> None:
    res = ServerResponse(headers={"Content-Type": "text/event-stream"})
    app = Flask("raw")
    app.config["SSESTREAM_COMPRESS"] = True
    app.add_url_rule("/", view_func=lambda: res)
    for number in range(3):
        res.write(f"data: {number}\n\n")
    res.end("data: the end\n\n")
    assert Answer(app, "/").plain == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: the end\n\n"


def test_a_stream_that_ends_with_nothing_in_it_is_whole() -> None:
    app = Flask("empty")
    app.config["SSESTREAM_COMPRESS"] = True
    res = ServerResponse(headers={"Content-Type": "text/event-stream"})
    res.end()
    app.add_url_rule("/", view_func=lambda: res)
    assert Answer(app, "/").plain == b""


def stream_app(streams: list[SseStream], **options: Any) -> Flask:
    app = Flask("stream")

    @app.get("/")
    def view() -> Response:
        sse_stream = SseStream(request, compress=True, **options)
        streams.append(sse_stream)
        return sse_stream.pipe(ServerResponse())

    return app


@on_threads_and_greenlets
def test_a_heartbeat_can_be_read_when_it_comes() -> None:
    app = stream_app([], heartbeat=0.02)
    with Visit(app, HTTP_ACCEPT_ENCODING="gzip") as visit:
        assert read_plain_until(visit, b":\n:\n") == b":ok\n\n:\n:\n"


@on_threads_and_greenlets
def test_an_old_stream_ends_whole() -> None:
    streams: list[SseStream] = []
    with Visit(stream_app(streams, max_age=0.05), HTTP_ACCEPT_ENCODING="gzip") as visit:
        read_plain_until(visit, b":ok\n\n")
        streams[0].write({"data": "young"})
        visit.read_to_end()
        gunzip = unzipped(visit)
    assert gunzip.complete
    assert gunzip.plain.startswith(b":ok\n\ndata: young\n\nevent: ssestream-retry\nretry: ")


@on_threads_and_greenlets
def test_a_stream_that_is_destroyed_is_not_whole() -> None:
    streams: list[SseStream] = []
    with Visit(stream_app(streams), HTTP_ACCEPT_ENCODING="gzip") as visit:
        streams_of_it = until(lambda: streams, "the view")
        streams_of_it[0].write({"data": "before"})
        read_plain_until(visit, b"before\n\n")
        streams_of_it[0].destroy()
        visit.read_to_end()
        gunzip = unzipped(visit)
    assert not gunzip.complete
    assert gunzip.plain == b":ok\n\ndata: before\n\n"


def test_one_that_is_destroyed_before_its_last_bytes_gets_none() -> None:
    taken = Taken(compress=True)
    taken.take()
    taken.stream.write({"data": "waits"})
    taken.res.destroy()
    with pytest.raises(ConnectionResetError):  # there is no connection to cut
        taken.take()


def test_a_client_that_stalls_at_the_very_last_bytes_is_cut() -> None:
    before = statistics().closed.get("stalled", 0)
    taken, gunzip = Taken(compress=True, send_timeout=0.1), Gunzip()
    gunzip.feed(taken.take())
    taken.stream.end()
    began = time.monotonic()
    gunzip.feed(taken.take())
    assert gunzip.complete
    # The server does not come back for more: it is stuck in sending these.
    until(lambda: taken.res.closed, "the cut")
    assert time.monotonic() - began >= 0.05
    assert statistics().closed.get("stalled", 0) == before + 1


def test_a_compressor_goes_with_its_stream() -> None:
    def compressors() -> int:
        gc.collect()
        return sum(type(each).__name__ == "Gzip" for each in gc.get_objects())

    before = compressors()
    taken = [Taken(compress=True) for _ in range(10)]
    for each in taken:
        each.take()
    assert compressors() == before + 10
    for each in taken:
        each.chunks.close()
    del taken, each
    until(lambda: compressors() == before, "every compressor to be gone")


# -- on real servers


@pytest.mark.long_except("gthread")
@pytest.mark.server
@pytest.mark.parametrize("kind", SERVERS)
def test_every_server_sends_each_message_at_once(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, "tests.servers.apps.app:app", env={"SETTINGS": ON})
    # It never ends by itself: what comes, comes before the end.
    client = Client(server.port).get("/ticking?key=ticking&ms=5", GZIP)
    ticks = b"".join(b"id: %d\ndata: tick\n\n" % number for number in range(1, 21))
    plain = read_plain_until(client, b"id: 20\ndata: tick\n\n")
    assert plain.startswith(b":ok\n\n" + ticks)
    assert b"\r\nContent-Encoding: gzip\r\n" in client.received
    assert not unzipped(client).complete
    client.fin()
    server.wait_for(event="close", key="ticking")

    client = Client(server.port).get("/quiet?key=quiet", GZIP)
    read_plain_until(client, b":ok\n\n")
    if kind != "sync":  # which serves nobody else meanwhile
        for number in range(1, 6):
            # Nothing follows that could push it out.
            post(server, "/knock?key=quiet")
            while read_plain_until(client, b"\n\n").count(b"event: knock\n") < number:
                client.received += client.sock.recv(65536)
    client.fin()
    server.wait_for(event="close", key="quiet")

    for version in ("1.1", "1.0"):
        client = Client(server.port).get(
            f"/ended?key={version}", GZIP, "Connection: close", version=version
        )
        client.read_to_end()
        gunzip = unzipped(client)
        assert gunzip.complete
        assert gunzip.plain == b":ok\n\nid: 0\n\nid: 1\n\nid: 2\n\ndata: last\n\n"
        server.wait_for(event="finish", key=version)

    client = Client(server.port).get("/destroyed?key=destroyed", GZIP)
    client.read_to_end()
    assert unzipped(client).plain == b":ok\n\n"
    assert not unzipped(client).complete


@pytest.mark.server
@pytest.mark.parametrize("kind", ["gevent", "gthread", "sync"])
def test_a_connection_serves_more_after_a_compressed_stream(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.app:app", env={"SETTINGS": ON})
    for number in range(2):
        client = Client(server.port).get(f"/ended?key={number}", GZIP)
        client.read_until(b"0\r\n\r\n")
        assert unzipped(client).complete
        if kind != "sync":  # it keeps no connection
            client.received = b""
            client.get("/ended?key=again", GZIP).read_until(b"0\r\n\r\n")
            assert unzipped(client).complete
        client.fin()


@pytest.mark.long_except("SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread", "sync", "pywsgi"])
def test_a_client_that_never_reads_is_cut_when_it_is_compressed_too(
    kind: str, serve: Callable[..., Server]
) -> None:
    settings = {"SSESTREAM_SEND_TIMEOUT": 0.5, "SSESTREAM_COMPRESS": True}
    server = serve(
        kind, "tests.servers.apps.compressed:app", env={"SETTINGS": json.dumps(settings)}
    )
    client = Client(server.port, receive_buffer=4096).get("/noise?key=stalled", GZIP)
    server.wait_for(event="close", key="stalled")
    client.read_to_end()
    assert not unzipped(client).complete
    client.fin()


@pytest.mark.server
@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_one_that_is_cut_has_what_came_before(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, "tests.servers.apps.compressed:app")
    client = Client(server.port).get("/cut?compress&key=cut", GZIP)
    client.read_to_end()
    gunzip = unzipped(client)
    assert gunzip.plain.count(NOISE.encode()) == 3
    assert not gunzip.complete
    assert not client.received.endswith(b"0\r\n\r\n")


@pytest.mark.server
def test_streams_end_whole_when_their_worker_stops(serve: Callable[..., Server]) -> None:
    server = serve(
        "ssestream.gunicorn.SseWorker", "tests.servers.apps.app:app", env={"SETTINGS": ON}
    )
    clients = [Client(server.port).get(f"/quiet?key={n}", GZIP) for n in range(10)]
    for client in clients:
        read_plain_until(client, b":ok\n\n")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.read_to_end()
        gunzip = unzipped(client)
        assert gunzip.complete
        assert b"\nretry: " in gunzip.plain
        assert client.received.endswith(b"0\r\n\r\n")


# -- in a browser

LISTEN = """
const [path] = arguments;
window.got = [];
window.source = new EventSource(path);
for (const name of ['open', 'message', '이름', 'error'])
    window.source.addEventListener(name, (e) => {
        window.got.push([e.type, e.data ?? null, e.lastEventId ?? null, e.target.readyState]);
    });
"""

SIZES = """
return performance.getEntriesByType('resource')
    .filter((entry) => entry.name.includes(arguments[0]))
    .map((entry) => [entry.encodedBodySize, entry.decodedBodySize]);
"""

SENT = [
    *({"id": number, "data": f"tick {number}"} for number in range(5)),
    {"id": "é😀", "event": "이름", "data": "안녕\n😀\u2028é"},
    {"data": ""},
    {"id": "large", "data": "é😀x" * 50_000},
    {"id": 9, "data": NOISE},
]


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.server
@pytest.mark.parametrize("compress", [True, False])
def test_chromium_has_each_event_as_soon_as_it_was_sent(
    compress: bool,
    chromium: tuple[str, str],
    serve: Callable[..., Server],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = json.dumps({"SSESTREAM_COMPRESS": compress})
    server = serve("gevent", "tests.servers.apps.compressed:told", env={"SETTINGS": settings})
    with browser(chromium, tmp_path_factory.mktemp("chromium")) as driver:
        driver.get(server.url)
        driver.execute_script(LISTEN, "/piped?key=browser")

        def got() -> list[list[Any]]:
            found: list[list[Any]] = driver.execute_script("return window.got")
            return found

        wait_until(lambda: len(got()) == 1, "onopen")
        last_id = ""
        for number, message in enumerate(SENT, start=2):
            post(server, "/send?key=browser", message)
            # Nothing else is sent, and the stream stays open.
            wait_until(lambda number=number: len(got()) == number, f"event {number}")
            last_id = str(message.get("id", last_id))
            kind = message.get("event", "message")
            assert got()[-1] == [kind, message["data"], last_id, 1]
        assert got()[0][0] == "open"

        post(server, "/end?key=browser")
        wait_until(lambda: got()[-1][0] == "error", "the end")
        driver.execute_script("window.source.close()")
        head = server.wait_for(event="head", path="/piped")
        assert "gzip" in head["accepted"]
        assert head["encodings"] == (["gzip"] if compress else [])
        ((encoded, decoded),) = wait_until(lambda: driver.execute_script(SIZES, "/piped"), "it")
        plain = b":ok\n\n" + b"".join(encode(message) for message in SENT)
        assert decoded == len(plain)
        assert encoded < decoded / 10 if compress else encoded == decoded


# -- behind Flask-Compress


@pytest.fixture(scope="module", params=["default", "greedy"])
def flask_compress(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of an app with Flask-Compress: as it comes, and with event streams in its list."""
    server = Server("gevent", f"tests.servers.apps.compressed:{request.param}").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def greedy() -> Iterator[Server]:
    server = Server("gevent", "tests.servers.apps.compressed:greedy").start()
    yield server
    server.stop()


#: Each of Flask-Compress's algorithms by itself, and all.
ALGORITHMS = ["zstd", "br", "gzip", "deflate", BROWSERS, "*"]


@pytest.mark.server
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("accept", ALGORITHMS)
def test_a_stream_behind_flask_compress_is_not_held_back(
    flask_compress: Server, accept: str, way: str
) -> None:
    key = f"{way} {accept}".replace(" ", "+")
    client = Client(flask_compress.port).get(f"/{way}?key={key}", f"Accept-Encoding: {accept}")
    client.read_until(b"data:begun\n\n" if way == "raw" else b":ok\n\n")
    for number in range(3):
        post(flask_compress, f"/send?key={key}", {"data": f"{NOISE} {number}"})
        client.read_until(f"{NOISE} {number}\n\n".encode())
    assert b"Content-Encoding" not in client.received
    assert b"\r\nCache-Control: no-cache, no-transform\r\n" in client.received
    client.fin()


@pytest.mark.server
@pytest.mark.parametrize("way", ["piped", "drawn"])
@pytest.mark.parametrize("accept", ["gzip", BROWSERS, "*"])
def test_own_compression_behind_flask_compress_is_the_only_one(
    flask_compress: Server, accept: str, way: str
) -> None:
    key = f"own {way} {accept}".replace(" ", "+")
    client = Client(flask_compress.port).get(
        f"/{way}?compress&key={key}", f"Accept-Encoding: {accept}"
    )
    read_plain_until(client, b":ok\n\n")
    for number in range(3):
        post(flask_compress, f"/send?key={key}", {"data": f"{NOISE} {number}"})
        read_plain_until(client, f"{NOISE} {number}\n\n".encode())
    head = client.received.partition(b"\r\n\r\n")[0].decode()
    assert head.count("Content-Encoding: gzip") == head.count("Content-Encoding") == 1
    assert head.count("Accept-Encoding") == 1
    client.fin()


@pytest.mark.parametrize(
    "set_type",
    [
        lambda res: res.header("content-type", EVENTS),
        lambda res: res.write_head(200, {"Content-Type": EVENTS}),
        lambda res: setattr(res, "mimetype", EVENTS),
        lambda res: setattr(res, "content_type", EVENTS),
        lambda res: res.headers.set("Content-Type", EVENTS),
    ],
    ids=["header()", "write_head()", "mimetype", "content_type", "headers"],
)
def test_a_type_that_is_set_in_flask_s_own_way_counts_too(
    set_type: Callable[[ServerResponse], object],
) -> None:
    app = Flask("typed")
    app.config.update(GREEDY)
    Compress(app)

    @app.get("/")
    def view() -> Response:
        res = ServerResponse()
        set_type(res)
        res.end("data: hello\n\n")
        return res

    answer = Answer(app, "/", BROWSERS)
    assert answer.encoding == []
    assert answer.body == b"data: hello\n\n"


@pytest.mark.server
@pytest.mark.parametrize("accept", ["zstd", "br", "deflate", BROWSERS, "*"])
def test_a_plain_generator_in_the_same_app_is_held_back(greedy: Server, accept: str) -> None:
    """What the tests above are worth: this Flask-Compress does buffer event streams."""
    key = f"generated {accept}".replace(" ", "+")
    client = Client(greedy.port).get(
        f"/generated?key={key}", f"Accept-Encoding: {accept}", "Connection: close"
    )
    # Asked for more: what there was is on its way, or is being held back.
    greedy.wait_for(event="asked for more", key=key.replace("+", " "))
    client.sock.setblocking(False)
    try:
        client.received += client.sock.recv(65536)
    except BlockingIOError:
        pass
    client.sock.setblocking(True)
    # Too little for a text that nothing makes small: a frame's head at most.
    assert len(body_of(client.received)) < len(NOISE) / 2
    post(greedy, f"/end?key={key}")
    client.read_to_end()
    assert b"\r\nContent-Encoding: " in client.received
    assert len(body_of(client.received)) > len(NOISE) / 2


@pytest.mark.server
def test_a_plain_generator_that_may_not_be_compressed_is_not_held_back(greedy: Server) -> None:
    client = Client(greedy.port).get("/generated?key=plain", "Accept-Encoding: identity")
    client.read_until(NOISE.encode())
    post(greedy, "/end?key=plain")
    client.fin()


@pytest.mark.server
def test_a_bare_response_of_a_stream_is_held_back_and_the_log_says_so(greedy: Server) -> None:
    """It has no header of this package's, which a compressor could heed."""
    client = Client(greedy.port).get("/iterated?key=bare", f"Accept-Encoding: {BROWSERS}")
    wait_until(lambda: "holds back what is sent" in greedy.log(), "the warning")
    post(greedy, "/end?key=bare")
    client.read_until(b"0\r\n\r\n")
    assert b"\r\nContent-Encoding: zstd\r\n" in client.received
