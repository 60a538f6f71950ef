"""`SseWorker`: what it owes to gunicorn and to clients once a stream has left its request."""

import json
import os
import random
import re
import resource
import select
import signal
import ssl
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from gunicorn.config import make_settings
from h2.connection import H2Connection

from ssestream.gunicorn.memory import KEEP_FREE
from ssestream.wire import Decoder
from tests.kit.servers import ROOT, Client, Server, ask, body_of, wait_until
from tests.servers.apps.worker import COUNT, WRITERS, text
from tests.servers.test_leaks import inside
from tests.servers.test_shutdown import GRACEFUL, IN_TIME, gone_after

pytestmark = pytest.mark.server

Start = Callable[..., Server]


@pytest.fixture
def worker(serve: Callable[..., Server], tmp_path: Path) -> Start:
    """Start one: ``worker("--keep-alive", "0", heartbeat=1)``, with gunicorn's options and ours."""

    def start(*args: str, app: str = "app", **settings: Any) -> Server:
        ours = {f"SSESTREAM_{name.upper()}": value for name, value in settings.items()}
        env = {"SETTINGS": json.dumps(ours), "RELEASE_DIR": str(tmp_path), "LOG_LEVEL": "INFO"}
        return serve("SseWorker", f"tests.servers.apps.worker:{app}", env=env, args=args)

    return start


def open_stream(server: Server, key: str, path: str = "/quiet", *headers: str) -> Client:
    client = Client(server.port).get(f"{path}?key={key}", *headers)
    client.read_until(b":ok\n\n")
    return client


def kept(server: Server) -> dict[str, int]:
    answer: dict[str, int] = json.loads(ask(server.port, "/kept"))
    return answer


# -- which way it goes


def test_a_stream_gets_the_socket_and_nothing_of_its_request_is_kept(worker: Start) -> None:
    server = worker()
    before = inside(server)
    clients = [open_stream(server, f"s{number}") for number in range(10)]
    assert kept(server) == {"senders": 10, "requests": 1}
    after = inside(server)
    # One greenlet of the loop waits for the timers of all streams.
    assert after["greenlets"] <= before["greenlets"] + 1
    assert after["descriptors"] <= before["descriptors"] + 10 + 2
    head = clients[0].received.partition(b"\r\n\r\n")[0]
    # Nothing can follow it, and the client need not try.
    assert b"\r\nConnection: close\r\n" in head


def test_a_write_is_sent_before_its_writer_keeps_the_loop_busy(
    worker: Start, tmp_path: Path
) -> None:
    server = worker()
    client = open_stream(server, "s")
    writer = Client(server.port).get("/computes?key=s")
    client.read_until(b"before\n\n")
    (tmp_path / "s").touch()
    client.read_until(b"after\n\n")
    writer.read_until(b"done")


def test_a_function_that_waits_ends_although_its_own_write_met_a_client_that_had_left(
    worker: Start, tmp_path: Path
) -> None:
    server = worker()
    client = Client(server.port).get("/computes-and-waits?key=s")
    client.read_until(b"before\n\n")
    client.rst()
    (tmp_path / "s").touch()
    server.wait_for(event="after", key="s")
    server.wait_for(event="over", key="s")


@pytest.mark.parametrize(("path", "version"), [("/quiet", "1.0"), ("/empty", "1.1")])
def test_so_does_one_to_http_1_0_or_with_a_head_alone(
    path: str, version: str, worker: Start
) -> None:
    server = worker()
    client = Client(server.port).get(f"{path}?key=a", version=version)
    client.read_until(b"\r\n\r\n")
    wait_until(lambda: kept(server)["senders"] == 1, "it to be let go")


def test_what_is_not_the_workers_to_send_goes_the_servers_way(worker: Start) -> None:
    server = worker(app="wrapped")
    client = Client(server.port).get("/ticking?key=a&ms=5")
    client.read_until(b"data: TICK\n\n")
    assert kept(server)["senders"] == 0
    client.fin()
    server.wait_for(event="close", key="a")
    # A response with a length of its own keeps the connection.
    client = Client(server.port)
    for _ in range(2):
        client.received = b""
        client.get("/measured").read_until(b"so and so.")
        assert b"\r\nContent-Length: 10\r\n" in client.received
        assert b"\r\nConnection: keep-alive\r\n" in client.received


@pytest.mark.parametrize("app", ["capturing", "deferring"])
def test_so_does_one_whose_head_a_middleware_gives(worker: Start, app: str) -> None:
    server = worker(app=app)
    for number, headers in enumerate([(), ("Connection: close",)]):
        client = Client(server.port).get(f"/ticking?key={number}&ms=5", *headers)
        received = client.read_until(b"data: tick\n\n")
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (b"X-Captured: 1" in received) == (app == "capturing")
        client.fin()
        server.wait_for(event="close", key=str(number))
    assert "Traceback" not in server.log()


#: gunicorn as it might become: a head that cannot be made, or that goes another way.
OTHER_HEADS = {
    "needs a socket": "self.sock.fileno()\n    send(self)",
    "does not use sendall": (
        "self.headers_sent = True\n    hasattr(self.sock, 'fileno') and send_all(self)"
    ),
}


@pytest.mark.parametrize("way", OTHER_HEADS)
def test_so_does_a_stream_if_gunicorn_makes_its_heads_in_another_way(
    way: str, worker: Start, tmp_path: Path
) -> None:
    config = tmp_path / "other.conf.py"
    config.write_text(
        "from gunicorn.http.wsgi import Response\n"
        "send = Response.send_headers\n"
        "def send_all(self):\n    self.headers_sent = False\n    send(self)\n"
        "def send_headers(self):\n"
        f"    if self.headers_sent:\n        return\n    {OTHER_HEADS[way]}\n"
        "Response.send_headers = send_headers\n"
    )
    server = worker("-c", str(config))
    for key in "ab":
        client = Client(server.port).get(f"/ticking?key={key}&ms=5")
        client.read_until(b"data: tick\n\n")
        assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert kept(server)["senders"] == 0
        client.fin()
        server.wait_for(event="close", key=key)
    assert server.log().count("cannot make the head of a response") == 1


def test_so_does_a_response_with_a_length_of_its_own(worker: Start) -> None:
    server = worker()
    client = Client(server.port)
    for _ in range(2):
        client.received = b""
        client.get("/measured").read_until(b"so and so.")
        assert b"\r\nConnection: keep-alive\r\n" in client.received
    client.received = b""
    client.get("/quiet?key=a", method="HEAD").read_until(b"\r\n\r\n")
    client.get("/hello").read_until(b"hello")
    assert kept(server)["senders"] == 0


def test_so_does_tls(worker: Start, certificate: tuple[str, str]) -> None:
    server = worker("--certfile", certificate[0], "--keyfile", certificate[1])
    client = Client(server.port, tls=True).get("/ticking?key=a&ms=5&count=20")
    client.read_until(b":ok\n\n")
    told = Client(server.port, tls=True).get("/kept", "Connection: close").read_to_end()
    assert json.loads(body_of(told))["senders"] == 0
    client.read_until(b"id: 20\ndata: tick\n\n")
    client.read_until(b"0\r\n\r\n")
    server.wait_for(event="finish", key="a")
    assert ways(server)[0].endswith(
        "gunicorn speaks TLS itself, which a proxy in front can do instead"
    )


def test_so_does_http_2(worker: Start, certificate: tuple[str, str]) -> None:
    if "http_protocols" not in make_settings():
        pytest.skip("this gunicorn has no HTTP/2")
    tls = ("--certfile", certificate[0], "--keyfile", certificate[1])
    server = worker(*tls, "--http-protocols", "h2,h1")
    client = Client(server.port)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    sock = context.wrap_socket(client.sock)
    client.sock = sock
    assert sock.selected_alpn_protocol() == "h2"
    connection = H2Connection()
    connection.initiate_connection()
    head = {":method": "GET", ":path": "/ended?key=a", ":authority": "localhost"}
    connection.send_headers(1, [*head.items(), (":scheme", "https")], end_stream=True)
    sock.sendall(connection.data_to_send())
    body, ended = b"", False
    while not ended:
        for event in connection.receive_data(sock.recv(65536)):
            body += getattr(event, "data", None) or b""
            ended = ended or type(event).__name__ == "StreamEnded"
    assert body == b":ok\n\nid: 0\n\nid: 1\n\nid: 2\n\ndata: last\n\n"
    server.wait_for(event="close", key="a")


# -- what a middleware has put around it


@pytest.mark.long
def test_sentrys_middleware_does_not_take_it_away(worker: Start) -> None:
    pytest.importorskip("sentry_sdk")
    server = worker(app="sentry")
    clients = [open_stream(server, f"s{number}") for number in range(20)]
    clients.append(Client(server.port).get("/ticking?key=t&ms=5"))
    clients[-1].read_until(b"data: tick\n\n")
    assert kept(server)["senders"] == 21
    # This one, and the one that began a greenlet for all streams: its context has the scope.
    assert kept(server)["requests"] <= 2
    for client in clients:
        client.fin()
    wait_until(lambda: len(server.events(event="close")) == 21, "all to be told")
    wait_until(lambda: kept(server)["senders"] == 0, "all to be over")
    assert not ways(server)
    # It hears of errors as ever.
    Client(server.port).get("/fails", "Connection: close").read_to_end()
    told = server.wait_for(event="captured")
    assert (told["error"], told["of"]) == ("on purpose", "fails")


def ends(server: Server) -> list[int]:
    """How often the first of two middlewares was told of a stream's end, and the access log."""
    return [len(server.events(event="first", path="/quiet")), server.log().count("GET /quiet")]


@pytest.mark.long_except("&fails-SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent"])
@pytest.mark.parametrize("query", ["", "&fails"])
def test_a_middleware_is_told_of_the_end_of_a_stream_when_it_is_over(
    query: str, kind: str, serve: Callable[..., Server]
) -> None:
    args = ("--worker-connections", "2", "--access-logfile", "-")
    server = serve(kind, "tests.servers.apps.worker:closing", args=args)
    for number in range(3):
        client = open_stream(server, f"s{number}{query}")
        assert kept(server)["senders"] == (1 if kind == "SseWorker" else 0)
        assert len(server.events(event="first", path="/quiet")) == number
        client.fin()
        server.wait_for(event="close", key=f"s{number}")
        expected = [number + 1] * 2
        wait_until(lambda: ends(server) == expected, "the middleware to be told")  # noqa: B023
    told = [each["event"] for each in server.events(path="/quiet")]
    assert told == (["first"] * 3 if query else ["first", "last"] * 3)
    failures = 3 if query else 0
    wait_until(lambda: server.log().count("LookupError: on purpose") >= failures, "the failures")
    assert server.log().count("LookupError: on purpose") == failures


def ways(server: Server) -> list[str]:
    """What was said of streams that the worker does not send by itself."""
    return [line for line in server.log().splitlines() if "SseWorker sends this stream" in line]


@pytest.mark.parametrize(
    ("app", "path", "reason"),
    [
        ("wrapped", "/quiet", f"the generator wrapped() of {ROOT}/tests/servers/apps/worker.py"),
        ("deferring", "/quiet", f"the generator chunks() of {ROOT}/tests/servers/apps/worker.py"),
        ("passing", "/quiet", "a tests.servers.apps.wrong.Passing"),
        ("app", "/iterated", "its view returns an SseStream in a Response"),
    ],
)
def test_it_is_said_once_why_a_stream_goes_the_servers_way(
    app: str, path: str, reason: str, worker: Start
) -> None:
    server = worker(app=app)
    # Nothing is said of what is no stream, or has no body.
    assert ask(server.port, "/hello") == b"hello"
    Client(server.port).get("/measured", "Connection: close").read_to_end()
    Client(server.port).get("/quiet?key=h", method="HEAD").read_until(b"\r\n\r\n")
    assert not ways(server)
    clients = [open_stream(server, f"secret{number}", path) for number in range(3)]
    (line,) = ways(server)
    assert line.startswith(f"INFO ssestream: 127.0.0.1 '{path}': ")
    assert line.endswith(reason) or reason + "," in line
    assert "secret" not in line
    for client in clients:
        client.fin()


# -- the connection


def test_an_ordinary_request_may_come_before_on_its_connection(worker: Start) -> None:
    server = worker()
    client = Client(server.port)
    client.get("/hello").read_until(b"hello")
    client.get("/ended?key=a").read_until(b"data: last\n\n")
    client.read_to_end()
    assert client.received.endswith(b"\r\n0\r\n\r\n")
    server.wait_for(event="finish", key="a")


@pytest.mark.long_except("1.0")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_what_is_sent_behind_the_request_takes_nothing_of_the_streams_end(
    version: str, worker: Start
) -> None:
    """It is not served, nor read before the end; closing over it would drop what is on its way."""
    server = worker()
    client = Client(server.port, receive_buffer=4096)
    client.get("/long?key=a&size=300000", version=version)
    client.get("/quiet?key=behind", "X: " + "x" * 30_000)
    # The server is done with it, and the kernel has the rest.
    while not server.events(event="finish", key="a"):
        client.received += client.sock.recv(4096)
    server.wait_for(event="close", key="a")
    wait_until(lambda: kept(server)["senders"] == 0, "the socket to be closed")
    client.read_to_end()
    assert body_of(client.received) == b":ok\n\ndata: " + b"x" * 300_000 + b"\n\n"
    if version == "1.1":
        assert client.received.endswith(b"\r\n0\r\n\r\n")
    assert not server.events(event="open", key="behind")


def test_destroy_cuts_and_the_last_chunk_does_not_come(worker: Start) -> None:
    server = worker()
    client = open_stream(server, "a", "/destroyed")
    client.read_to_end()
    assert not client.received.endswith(b"0\r\n\r\n")
    server.wait_for(event="close", key="a")
    assert kept(server)["senders"] == 0


def test_what_fails_in_the_loop_leaves_no_socket_behind(worker: Start) -> None:
    server = worker()
    open_stream(server, "first").fin()  # what is made once is made now
    server.wait_for(event="close", key="first")
    before = inside(server)
    for number in range(5):
        client = open_stream(server, f"s{number}", "/fails-in-the-loop")
        client.read_to_end()
        assert not client.received.endswith(b"0\r\n\r\n")
        server.wait_for(event="close", key=f"s{number}")
    assert server.log().count("LookupError: on purpose") == 5
    wait_until(lambda: inside(server)["descriptors"] <= before["descriptors"], "the sockets to go")
    assert kept(server)["senders"] == 0


def test_a_stream_needs_no_descriptor_beside_its_connections(worker: Start) -> None:
    server = worker("--keep-alive", "20")
    before = open_stream(server, "before")
    client, other = Client(server.port), Client(server.port)
    client.get("/hello").read_until(b"hello")
    other.get("/descriptors", method="POST").read_until(b"done")
    client.get("/ticking?key=a&ms=5&count=5").read_until(b"id: 5\ndata: tick\n\n")
    client.read_until(b"\r\n0\r\n\r\n")
    server.wait_for(event="finish", key="a")
    other.received = b""
    other.get("/descriptors?again=", method="POST").read_until(b"done")
    # As of those that are taken over, and not as gunicorn sends them.
    assert b"connection: close" in client.received.lower().split(b"hello")[-1]
    after = open_stream(server, "after")
    assert kept(server)["senders"] == 2
    before.fin()
    after.fin()


# -- what is sent


class Chunks:
    """A response as it comes, taken out of its chunks; anything else between them raises."""

    def __init__(self) -> None:
        self._rest = b""
        self._in_body = self.is_chunked = False
        self.over = False

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        if not self._in_body:
            head, end, rest = self._rest.partition(b"\r\n\r\n")
            if not end:
                return b""
            self.is_chunked = b"\r\nTransfer-Encoding: chunked" in head
            self._in_body, self._rest = True, rest
        if not self.is_chunked:
            body, self._rest = self._rest, b""
            return body
        body = b""
        while not self.over:
            size, end, rest = self._rest.partition(b"\r\n")
            if not end:
                assert len(size) < 10, size
                break
            length = int(size, 16)
            if len(rest) < length + 2:
                break
            assert rest[length : length + 2] == b"\r\n"
            body += rest[:length]
            self._rest = rest[length + 2 :]
            self.over = length == 0
        assert not (self.over and self._rest)
        return body


class Reader:
    """A client that reads in its own way and keeps what it was told."""

    def __init__(self, server: Server, key: str, gzip: bool, version: str, small: bool) -> None:
        headers = ("Accept-Encoding: gzip",) if gzip else ()
        self.client = Client(server.port, receive_buffer=4096 if small else None)
        self.client.get(f"/torture?key={key}", *headers, version=version)
        self._chunks, self._decoder = Chunks(), Decoder()
        self._gunzip = zlib.decompressobj(31) if gzip else None
        self._dice = random.Random(key)
        #: The numbers in order, by writer; the text of each is checked as it comes.
        self.had: dict[str, list[int]] = defaultdict(list)
        self.ended = False

    def read(self) -> None:
        data = self.client.sock.recv(self._dice.choice((100, 3000, 100_000)))
        self.ended = not data
        body = self._chunks.feed(data)
        if self._gunzip is not None:
            body = self._gunzip.decompress(body)
        for message in self._decoder.feed(body):
            if "data" in message:
                writer, number = str(message["data"]).partition("\n")[0].split(" ")
                assert message["data"] == text(writer, int(number))
                self.had[writer].append(int(number))

    def is_whole(self) -> bool:
        """Whether the response ended as one does."""
        if self._gunzip is not None and not self._gunzip.eof:
            return False
        return self._chunks.over or not self._chunks.is_chunked


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_what_all_write_arrives_whole_and_in_each_writers_order(seed: int, worker: Start) -> None:
    """Views, timers, greenlets, threads and channels, to those who read well and badly."""
    server = worker(max_bytes=1 << 28, max_messages=100_000)
    ways = [(False, "1.1", False), (False, "1.1", True), (False, "1.0", True)]
    readers = [Reader(server, f"{seed} {way}".replace(" ", ""), *way) for way in ways]
    zipping = worker(max_bytes=1 << 28, max_messages=100_000, compress=True)
    others = [Reader(zipping, f"z{seed}{small}", True, "1.1", small) for small in (True, False)]
    for loop, clients in ((server, readers), (zipping, others)):
        for reader in clients:
            while len(reader.had["view"]) < COUNT // 2:
                reader.read()
        ask(loop.port, f"/torture?seed={seed}", "POST")
    everybody = [*readers, *others]
    deadline = time.monotonic() + 200
    while any(len(r.had[writer]) < COUNT for r in everybody for writer in WRITERS):
        assert time.monotonic() < deadline, [{w: len(r.had[w]) for w in WRITERS} for r in everybody]
        for ready in select.select([reader.client.sock for reader in everybody], [], [], 1)[0]:
            (reader,) = [each for each in everybody if each.client.sock is ready]
            reader.read()
            assert not reader.ended, reader.client.sock
    for loop in (server, zipping):
        ask(loop.port, "/end", "POST")
    for reader in everybody:
        while not reader.ended:
            reader.read()
        assert reader.is_whole()
        assert reader.had == {writer: list(range(COUNT)) for writer in WRITERS}


def test_a_client_that_breaks_off_in_the_midst_is_closed_once_and_holds_up_nobody(
    worker: Start, tmp_path: Path
) -> None:
    server = worker()
    stalled = never_reads(server)
    sleeper = open_stream(server, "slow", "/slow-close")
    sleeper.rst()
    server.wait_for(event="closing", key="slow")
    stalled.rst()
    server.wait_for(event="close", key="stalled")
    assert ask(server.port, "/hello") == b"hello"
    client = open_stream(server, "a")
    assert not server.events(event="closed slowly")
    (tmp_path / "slow").touch()
    server.wait_for(event="closed slowly", key="slow")
    client.fin()
    wait_until(lambda: kept(server)["senders"] == 0, "all to be over")
    for key in ("slow", "stalled", "a"):
        assert len(server.events(event="close", key=key)) == 1
        assert not server.events(event="finish", key=key)


def test_a_stream_that_is_old_ends_and_a_silent_one_beats(worker: Start) -> None:
    server = worker(max_age=0.6, heartbeat=0.1)
    client = open_stream(server, "a")
    client.read_until(b"\n:\n")
    client.read_to_end()
    assert re.search(rb"\nretry: \d+\n\n$", body_of(client.received))
    assert client.received.endswith(b"\r\n0\r\n\r\n")
    server.wait_for(event="finish", key="a")


# -- what gunicorn is owed


def lines(server: Server, mark: str) -> list[str]:
    return re.findall(rf"^{mark} (.*)$", server.log(), re.MULTILINE)


@pytest.mark.long_except("plain")
@pytest.mark.parametrize("headers", [(), ("Accept-Encoding: gzip",)], ids=["plain", "gzip"])
def test_the_access_log_has_its_line_when_the_stream_is_over(
    headers: tuple[str, ...], worker: Start
) -> None:
    log = ("--access-logfile", "-", "--access-logformat", "@access %(U)s %(s)s %(B)s %(D)s")
    server = worker(*log, compress=True)
    client = Client(server.port).get("/ticking?key=a&ms=5", *headers)
    asked = time.monotonic()
    client.read_until(b"\r\n\r\n")
    began = time.monotonic()
    other = Client(server.port).get("/ended?key=b", *headers)
    other.read_to_end()
    wait_until(lambda: lines(server, "@access"), "the line of the one that has ended")
    ask(server.port, "/hello")
    wait_until(lambda: len(lines(server, "@access")) == 2, "the ordinary request's line")
    path, status, length, _ = lines(server, "@access")[0].split()
    assert (path, status, int(length)) == ("/ended", "200", len(body_of(other.received)))
    assert lines(server, "@access")[1].startswith("/hello 200 5 ")
    server.wait_for(event="open", key="a")
    assert kept(server) == {"senders": 1, "requests": 2}
    lasted = time.monotonic() - began
    client.fin()
    wait_until(lambda: len(lines(server, "@access")) == 4, "the line of the one that has left")
    path, status, length, microseconds = lines(server, "@access")[3].split()
    assert (path, status) == ("/ticking", "200")
    assert int(length) > 0
    assert lasted * 1e6 < int(microseconds) < (time.monotonic() - asked) * 1e6
    wait_until(lambda: kept(server) == {"senders": 0, "requests": 1}, "its request to go")


HOOKS = {
    2: "def post_request(worker, req):\n    told(worker, req, None, None)\n",
    3: "def post_request(worker, req, environ):\n    told(worker, req, environ, None)\n",
    4: "def post_request(worker, req, environ, resp):\n    told(worker, req, environ, resp)\n",
}

TOLD = """
import time
from tests.servers.apps import tell
def told(worker, req, environ, resp):
    time.sleep(0.05)
    tell(event="post_request", worker=type(worker).__name__, uri=req.uri,
         path=environ and environ["PATH_INFO"],
         status=resp and resp.status, sent=resp and resp.sent)
"""


@pytest.mark.long_except("4")
@pytest.mark.parametrize("parameters", HOOKS)
def test_post_request_is_called_once_and_in_the_end(
    parameters: int, worker: Start, tmp_path: Path
) -> None:
    config = tmp_path / "hooked.conf.py"
    config.write_text(TOLD + HOOKS[parameters])
    server = worker("-c", str(config))
    client = open_stream(server, "a")
    ask(server.port, "/hello")
    server.wait_for(event="post_request", uri="/hello")
    assert len(server.events(event="post_request")) == 1
    client.fin()
    told = server.wait_for(event="post_request", uri="/quiet?key=a")
    assert told["worker"] == "SseWorker"
    assert told["path"] == ("/quiet" if parameters > 2 else None)
    assert told["status"] == ("200 OK" if parameters > 3 else None)
    assert told["sent"] == (len(b":ok\n\n") if parameters > 3 else None)
    # A worker that stops waits for it.
    client = open_stream(server, "b")
    server.end()
    uris = [told["uri"] for told in server.events(event="post_request")]
    assert uris == ["/hello", "/quiet?key=a", "/quiet?key=b"]


def test_a_hook_that_fails_is_logged(worker: Start, tmp_path: Path) -> None:
    config = tmp_path / "hooked.conf.py"
    config.write_text("def post_request(worker, req):\n    raise LookupError('on purpose')\n")
    server = worker("-c", str(config))
    open_stream(server, "a").fin()
    server.wait_for(event="close", key="a")
    wait_until(lambda: "LookupError: on purpose" in server.log(), "a word of it")
    assert "Exception in post_request hook" in server.log()
    wait_until(lambda: kept(server) == {"senders": 0, "requests": 1}, "its request to go")


def test_streams_count_among_worker_connections(worker: Start) -> None:
    server = worker("--worker-connections", "3")
    clients = [open_stream(server, f"s{number}") for number in range(2)]
    ticking = Client(server.port).get("/ticking?key=t&ms=10")
    ticking.read_until(b"id: 1\n")
    waiting = Client(server.port).get("/quiet?key=waiting")
    process = psutil.Process(server.worker_pid())
    times, began = process.cpu_times(), time.monotonic()
    busy = times.user + times.system
    ticking.read_until(b"id: 60\n")
    times = process.cpu_times()
    share = (times.user + times.system - busy) / (time.monotonic() - began)
    assert share < 0.5, f"{share:.0%} of a core for a stream of 100 messages a second"
    assert select.select([waiting.sock], [], [], 0)[0] == []
    for leaving in (clients[0], waiting):
        leaving.fin()
        if leaving is clients[0]:
            waiting.read_until(b":ok\n\n")
    # All places are to be had again, and no more.
    clients.append(open_stream(server, "last"))
    late = Client(server.port).get("/quiet?key=late")
    ticking.received = b""
    ticking.read_until(b"data: tick\n\n")
    assert not server.events(event="open", key="late")
    for client in clients:
        client.fin()
    late.read_until(b":ok\n\n")
    ticking.fin()
    late.fin()
    wait_until(lambda: len(server.events(event="close")) == 6, "all to be over")


# -- the end of the worker


def never_reads(server: Server, key: str = "stalled") -> Client:
    client = Client(server.port, receive_buffer=4096).get(f"/flood?key={key}")
    server.wait_for(event="open", key=key)
    return client


@pytest.mark.long_except("SIGHUP")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_worker_stops_soon_though_a_client_takes_nothing(
    how: signal.Signals, worker: Start
) -> None:
    server = worker(*GRACEFUL)
    stalled = never_reads(server)
    clients = [open_stream(server, f"s{number}") for number in range(5)]
    pid, began = server.worker_pid(), time.monotonic()
    assert server.process is not None
    server.process.send_signal(how)
    assert gone_after(pid, began) < IN_TIME
    for client in clients:
        client.read_until(b"0\r\n\r\n")
        assert b"\nretry: " in client.received
    if how != signal.SIGQUIT:  # which waits for nobody
        assert server.events(event="close", key="stalled")
    stalled.fin()


def test_one_that_has_served_its_requests_does_too(worker: Start) -> None:
    server = worker("--max-requests", "6", *GRACEFUL)
    pid = server.worker_pid()
    stalled = never_reads(server)
    clients = [open_stream(server, f"s{number}") for number in range(4)]
    began = time.monotonic()
    clients.append(open_stream(server, "s4"))
    assert gone_after(pid, began) < IN_TIME
    for client in clients:
        client.read_until(b"0\r\n\r\n")
    assert server.events(event="close", key="stalled")
    stalled.fin()


@pytest.mark.long
def test_an_ordinary_request_has_the_graceful_timeout_to_itself(
    worker: Start, tmp_path: Path
) -> None:
    server = worker("--graceful-timeout", "1")
    client = open_stream(server, "a")
    slow = Client(server.port).get("/waits?key=soon", "Connection: close")
    late = Client(server.port).get("/waits?key=never")
    for key in ("soon", "never"):
        server.wait_for(event="in view", key=key)
    pid, began = server.worker_pid(), time.monotonic()
    os.kill(pid, signal.SIGTERM)
    ended_cleanly_one(server, client, "a")
    assert psutil.pid_exists(pid)
    (tmp_path / "soon").touch()
    assert slow.read_to_end().endswith(b"done")
    assert 1 <= gone_after(pid, began) < 1 + IN_TIME
    assert late.read_to_end() == b""
    assert "graceful timeout" in server.log()


def ended_cleanly_one(server: Server, client: Client, key: str) -> None:
    client.read_until(b"0\r\n\r\n")
    server.wait_for(event="close", key=key)


@pytest.mark.long
def test_so_have_the_handlers_of_a_stream(worker: Start, tmp_path: Path) -> None:
    server = worker("--graceful-timeout", "1")
    clients = [open_stream(server, key, "/slow-close") for key in ("soon", "never")]
    pid, began = server.worker_pid(), time.monotonic()
    os.kill(pid, signal.SIGTERM)
    for key in ("soon", "never"):
        server.wait_for(event="closing", key=key)
    (tmp_path / "soon").touch()
    server.wait_for(event="closed slowly", key="soon")
    assert 1 <= gone_after(pid, began) < 1 + IN_TIME
    assert not server.events(event="closed slowly", key="never")
    assert "Traceback" not in server.log()
    for client in clients:
        client.fin()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets another process's limits")
def test_without_memory_for_more_it_refuses_more_and_lives(serve: Callable[..., Server]) -> None:
    server = serve("SseWorker", "tests.servers.apps.app:app")
    # What is loaded with the first request is no stream's.
    clients = [Client(server.port).get("/quiet?key=0")]
    clients[0].read_until(b":ok\n\n")
    worker = psutil.Process(server.worker_pid())
    limit = worker.memory_info().vms + KEEP_FREE + (3 << 20)
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))

    def opens(key: object) -> bool:
        client = Client(server.port)
        try:
            client.get(f"/quiet?key={key}").read_until(b":ok\n\n")
        except (AssertionError, OSError):
            client.fin()
            return False
        clients.append(client)
        return True

    while opens(len(clients)):
        assert len(clients) < 3000
    assert [opens("more") for _ in range(20)] == [False] * 20
    # Those that are open go on.
    assert worker.is_running()
    server_has = server.events(event="open")
    assert len(server_has) == len(clients)
    assert not server.events(event="close")
    for client in clients:
        client.fin()
    wait_until(lambda: len(server.events(event="close")) == len(clients), "their departure")
    wait_until(lambda: opens("again"), "there to be memory again")
    assert server.worker_pid() == worker.pid
    assert server.log().count("No memory for more than") == 1
