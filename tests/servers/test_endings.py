"""What the end of a worker means to a stream: its client comes back, or the answer is whole."""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import gevent
import gevent.socket
import pytest

from ssestream.wire import Decoder
from tests.kit.servers import PATIENCE, Client, Server, body_of
from tests.servers.test_reload import let_run_until
from tests.servers.test_shutdown import IN_TIME, WORKERS, gone_after

pytestmark = pytest.mark.server

LAST_CHUNK = b"\r\n0\r\n\r\n"

INTERRUPTED = {"event": "interrupted", "data": "the server restarts"}

#: Seconds that gunicorn waits for a worker that stops. The answers that can end need two of them,
#: and a machine that stands still takes its part.
GRACEFUL = 8


class Answer(Client):
    """The client of one answer, which reads it as ``fetch`` does."""

    def __init__(self, port: int, path: str, method: str = "POST", **query: Any) -> None:
        super().__init__(port)
        own = query.keys() & {"on_shutdown", "interrupted"}
        query["options"] = quote(json.dumps({name: query.pop(name) for name in own}))
        pairs = "&".join(f"{name}={value}" for name, value in query.items())
        self.get(f"{path}?{pairs}", "Content-Length: 0", method=method)

    def read_to_end(self) -> bytes:
        try:
            return super().read_to_end()
        except ConnectionResetError:
            return self.received

    @property
    def messages(self) -> list[dict[str, Any]]:
        return Decoder().feed(body_of(self.received))

    @property
    def is_whole(self) -> bool:
        """Whether HTTP says that nothing is missing."""
        return self.received.endswith(LAST_CHUNK)

    @property
    def data(self) -> list[str]:
        return [message["data"] for message in self.messages if set(message) == {"data"}]


def answered(server: Server, path: str, **query: Any) -> Answer:
    """An answer that has begun."""
    answer = Answer(server.port, path, **query)
    answer.read_until(b"data: 0\n\n")
    return answer


def start(serve: Callable[..., Server], kind: str, graceful: float = GRACEFUL) -> Server:
    worker_class, args = WORKERS[kind]
    settings = json.dumps({"SSESTREAM_INTERRUPTED": INTERRUPTED})
    return serve(
        worker_class,
        "tests.servers.apps.endings:app",
        args=(*args, "--graceful-timeout", str(graceful)),
        env={"SETTINGS": settings},
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("SseWorker", signal.SIGTERM),
        pytest.param("SseWorker", signal.SIGHUP, marks=pytest.mark.long),
        ("gevent", signal.SIGHUP),
        pytest.param("gevent_pywsgi", signal.SIGTERM, marks=pytest.mark.long),
        ("gthread", signal.SIGHUP),
    ],
)
def test_each_stream_ends_as_its_clients_understand_it(
    kind: str, how: signal.Signals, serve: Callable[..., Server]
) -> None:
    server = start(serve, kind)
    long, short = {"count": 10_000}, {"count": 20}
    ways = ("/pipeline", "/shared", "/handler", "/written", "/timer")
    ways = (*ways, "/async_pipeline", "/async_handler")
    comes_back = [answered(server, way, method="GET", **long) for way in ways]
    interrupted = [answered(server, way, **long) for way in ways]
    finish = {"on_shutdown": "finish"}
    interrupted.append(answered(server, "/pipeline", method="GET", **long, **finish))
    own = answered(server, "/pipeline", **long, interrupted={"data": "own"})
    cut = [
        answered(server, "/pipeline", method=method, **long, on_shutdown="cut")
        for method in ("GET", "POST")
    ]
    as_before = answered(server, "/pipeline", **long, on_shutdown="reconnect")
    finished = [answered(server, way, **short) for way in ways]
    # Its view has not returned when the worker has to stop.
    finished.append(Answer(server.port, "/late", after=0.7, key="late", **short))
    server.wait_for(event="late", key="late")
    pid = server.worker_pid()
    assert server.process is not None
    began = time.monotonic()
    server.process.send_signal(how)

    for answer in (*comes_back, as_before):
        answer.read_until(LAST_CHUNK)
        block = rb"\n\nevent: ssestream-retry\nretry: [1-5]\d\d\d\n\n$"
        assert re.search(block, body_of(answer.received)), answer.received[-200:]
    for answer in cut:
        answer.read_to_end()
        assert not answer.is_whole
        assert set(map(frozenset, answer.messages)) == {frozenset(["comment"]), frozenset(["data"])}
    assert time.monotonic() - began < GRACEFUL - 1.0
    for answer in finished:
        answer.read_until(LAST_CHUNK)
        assert answer.data == [*map(str, range(20)), "[DONE]"]
    for answer in (*interrupted, own):
        answer.read_to_end()
        assert not answer.is_whole
        # Node's fetch takes a mere end of the connection for the end of the answer.
        assert answer.received.endswith(b"\r\n-1\r\n") == (kind == "SseWorker")
        last = {"data": "own"} if answer is own else INTERRUPTED
        assert answer.messages[-1] == last
        assert answer.data[: len(answer.data) - (answer is own)] == [
            str(number) for number in range(len(answer.data) - (answer is own))
        ]
    assert time.monotonic() - began >= GRACEFUL - 1.0
    assert gone_after(pid, began) < GRACEFUL + IN_TIME
    assert "Worker graceful timeout" not in server.log()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_answers_to_put_patch_and_delete_finish_too(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = start(serve, kind, graceful=200)
    methods = ("PUT", "PATCH", "DELETE")
    ways = ("/pipeline", "/shared", "/handler", "/written", "/timer")
    answers = [answered(server, way, method=method, count=10) for method in methods for way in ways]
    comes_back = answered(server, "/pipeline", method="GET", count=10_000)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    # Of a GET, to see that the worker is stopping.
    assert b"event: ssestream-retry\n" in comes_back.read_until(LAST_CHUNK)
    for answer in answers:
        answer.read_until(LAST_CHUNK)
        assert answer.data == [*map(str, range(10)), "[DONE]"]


@pytest.mark.long_except("SIGTERM")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_for_one_request_at_a_time_keeps_to_it_as_well(
    how: signal.Signals, serve: Callable[..., Server]
) -> None:
    server = start(serve, "sync", graceful=2)
    answer = answered(server, "/pipeline", count=10_000)
    pid, began = server.worker_pid(), time.monotonic()
    assert server.process is not None
    server.process.send_signal(how)
    answer.read_to_end()
    assert not answer.is_whole
    assert answer.messages[-1] == INTERRUPTED
    assert time.monotonic() - began >= 1.0
    gone_after(pid, began)


@pytest.mark.long
@pytest.mark.parametrize("kind", WORKERS)
def test_a_worker_that_is_to_end_at_once_lets_no_answer_finish(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = start(serve, kind, graceful=200)
    answer = answered(server, "/pipeline", count=10_000)
    pid = server.worker_pid()
    os.kill(pid, signal.SIGTERM)
    # It drains, and goes on.
    answer.read_until(b"data: %d\n\n" % (int(answer.data[-1]) + 20))
    began = time.monotonic()
    os.kill(pid, signal.SIGQUIT)
    answer.read_to_end()
    assert not answer.is_whole
    assert answer.messages[-1] == INTERRUPTED
    assert gone_after(pid, began) < IN_TIME


@pytest.mark.long
def test_answers_that_are_whole_end_a_worker_before_its_time(serve: Callable[..., Server]) -> None:
    server = start(serve, "gevent", graceful=200)
    answers = [answered(server, "/pipeline", count=20) for _ in range(5)]
    pid, began = server.worker_pid(), time.monotonic()
    os.kill(pid, signal.SIGTERM)
    for answer in answers:
        # The client keeps its connection, which must not keep the worker.
        answer.read_until(LAST_CHUNK)
        assert answer.data[-1] == "[DONE]"
    assert gone_after(pid, began) < IN_TIME


def test_without_a_message_of_the_apps_an_answer_is_only_cut(serve: Callable[..., Server]) -> None:
    args = ("--graceful-timeout", "1")
    server = serve(WORKERS["SseWorker"][0], "tests.servers.apps.endings:app", args=args)
    answer = answered(server, "/handler", count=10_000)
    os.kill(server.worker_pid(), signal.SIGTERM)
    answer.read_to_end()
    assert not answer.is_whole
    assert set(map(frozenset, answer.messages)) == {frozenset(["comment"]), frozenset(["data"])}


def test_a_worker_that_has_served_its_requests_lets_answers_finish(
    serve: Callable[..., Server],
) -> None:
    args = ("--max-requests", "10", "--graceful-timeout", "30")
    server = serve(WORKERS["SseWorker"][0], "tests.servers.apps.endings:app", args=args)
    pid = server.worker_pid()
    answers = [answered(server, "/pipeline", count=20) for _ in range(10)]
    for answer in answers:
        answer.read_until(LAST_CHUNK)
        assert answer.data[-1] == "[DONE]"
    gone_after(pid, time.monotonic())


# -- reloads under running answers

#: The test's long form: SSESTREAM_RELOADS=1000 SSESTREAM_ANSWERS=200.
RELOADS = int(os.environ.get("SSESTREAM_RELOADS", "4"))
ANSWERS = int(os.environ.get("SSESTREAM_ANSWERS", "50"))

#: Pieces of an answer, one every 50 ms, and of an answer whose end no worker waits for.
PIECES, ENDLESS = 16, 100_000


class Reader:
    """A client that asks for one answer after another, as long as it `asks`."""

    def __init__(self, port: int, count: int) -> None:
        self.asks = True
        self.ends: Counter[str] = Counter()
        #: Pieces that came, of any answer.
        self.pieces = 0
        self._port, self._count = port, count
        self._running = gevent.spawn(self._run)

    def _run(self) -> None:
        while self.asks:
            self.ends[self._read()] += 1

    def _read(self) -> str:
        received = b""
        path = f"/pipeline?count={self._count}"
        request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        with gevent.socket.create_connection(("127.0.0.1", self._port), 2 * PATIENCE) as sock:
            sock.sendall(request.encode())
            try:
                while not received.endswith(LAST_CHUNK) and (data := sock.recv(1 << 16)):
                    received += data
                    self.pieces += data.count(b"data: ")
            except ConnectionResetError:
                pass
        whole = received.endswith(LAST_CHUNK)
        data = [each["data"] for each in Decoder().feed(body_of(received)) if set(each) == {"data"}]
        if whole != (data == [*map(str, range(self._count)), "[DONE]"]):
            return f"whole: {whole}, and received {received[-300:]!r}"
        return "whole" if whole else "broken"

    def join(self) -> None:
        self._running.join()


@pytest.mark.long
@pytest.mark.timeout(120 + 60 * RELOADS)
@pytest.mark.parametrize(
    ("kind", "count", "graceful", "end"),
    [
        pytest.param("SseWorker", PIECES, 30, "whole", id="SseWorker, and answers that can end"),
        pytest.param("gevent", PIECES, 30, "whole", id="gevent, and answers that can end"),
        pytest.param("SseWorker", ENDLESS, 2, "broken", id="SseWorker, and answers without an end"),
        pytest.param(
            "gevent",
            ENDLESS,
            2,
            "broken",
            id="gevent, and answers without an end",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_reload_breaks_only_answers_that_cannot_end_and_makes_none_of_them_whole(
    kind: str, count: int, graceful: float, end: str, serve: Callable[..., Server]
) -> None:
    server = start(serve, kind, graceful=graceful)
    readers = [Reader(server.port, count) for _ in range(ANSWERS)]
    assert server.process is not None
    for turn in range(RELOADS):
        old = server.worker_pid()
        # In the middle of an answer, or at the end of one.
        for reader in readers:
            reader.pieces = 0
        pieces = 5 if turn % 2 else PIECES
        let_run_until(lambda n=pieces: all(each.pieces >= n for each in readers), "some pieces")
        server.process.send_signal(signal.SIGHUP)
        let_run_until(lambda old=old: server.worker_pid() != old, "another worker")
    for reader in readers:
        reader.asks = False
    if end == "broken":
        # The answers without an end go on until the last worker stops, too.
        server.process.terminate()
    ends: Counter[str] = Counter()
    for reader in readers:
        reader.join()
        ends += reader.ends
    assert ends.keys() == {end}, ends
    assert ends[end] >= ANSWERS
