"""The Express program and its Python port, run side by side: what does a client receive?"""

import http.client
import json
import re
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from tests.kit.node_program import NodeProgram
from tests.kit.servers import ROOT, Client, Server, body_of, wait_until

pytestmark = [pytest.mark.server, pytest.mark.node]

PORT = ROOT / "examples" / "express_port"
EVENTS = 5
ENV = {"INTERVAL": "20"}


class Program(Protocol):
    port: int

    def log(self) -> str: ...


@pytest.fixture
def express(node: str) -> Iterator[NodeProgram]:
    program = NodeProgram(node, PORT / "app.js", ENV)
    yield program
    program.stop()


@pytest.fixture(params=["SseWorker", "gevent", "gthread"])
def port(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Server:
    return serve(request.param, "examples.express_port.app:app", env=ENV)


def first_events(program: Program, path: str) -> tuple[dict[str, str], bytes]:
    """The headers of *path* and the bytes of its first events; the client then leaves."""
    client = Client(program.port).get(path)
    while body_of(client.received).count(b"data:") <= EVENTS:
        client.read_until(b"\r\n\r\n")
        client.received += client.sock.recv(65536)
    client.fin()
    head = client.received.partition(b"\r\n\r\n")[0].decode()
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    events = body_of(client.received).split(b"\n\n")
    start = 1 if events[0] == b":ok" else 0
    body = b"\n\n".join(events[: start + EVENTS]) + b"\n\n"
    # Midnight may come between the two programs.
    return headers, re.sub(rb"\d{4}-\d\d-\d\d", b"<date>", body)


@pytest.mark.long_except("SseWorker-clock", "gevent-raw", "gthread-count")
@pytest.mark.parametrize(
    ("path", "opening", "event"),
    [
        ("/clock", b":ok\n\n", b"event: message\nid: %d\nretry: 20000\ndata: <date>\n\n"),
        ("/raw", b"", b"id:%d\nevent:message\ndata:<date>\n\n"),
        ("/count", b":ok\n\n", b'id: %d\ndata: {"counter":%d}\n\n'),
    ],
    ids=["clock", "raw", "count"],
)
def test_both_programs_send_the_same_bytes(
    express: NodeProgram, port: Server, path: str, opening: bytes, event: bytes
) -> None:
    theirs, their_body = first_events(express, path)
    ours, our_body = first_events(port, path)
    assert our_body == their_body
    numbers = [(n,) * event.count(b"%d") for n in range(1, EVENTS + 1)]
    assert our_body == opening + b"".join(event % number for number in numbers)
    assert ours["content-type"] == theirs["content-type"] == "text/event-stream; charset=utf-8"

    # Whatever keeps caches off in Express does so here; more may.
    def directives(headers: dict[str, str]) -> set[str]:
        return set(filter(None, headers.get("cache-control", "").split(", ")))

    assert directives(ours) >= directives(theirs)
    assert directives(ours) == {"no-cache", "no-transform"}


@pytest.mark.long_except("gevent-/clock", "gthread-/raw", "SseWorker-/count")
@pytest.mark.parametrize("path", ["/clock", "/raw", "/count"])
def test_both_programs_say_that_the_client_has_left(
    express: NodeProgram, port: Server, path: str
) -> None:
    for program in (express, port):
        client = Client(program.port).get(path)
        client.read_until(b"data:")
        assert f"{path} closed" not in program.log()
        client.fin()
        wait_until(lambda program=program: f"{path} closed" in program.log(), f"{path} to close")


def ask(program: Program, path: str, value: object = None) -> tuple[int, str, bytes]:
    """The status, the media type and the body of an answer that ends."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=60)
    method, body = ("GET", None) if value is None else ("POST", json.dumps(value))
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers.get_content_type(), data


@pytest.mark.long_except("gevent-no text", "SseWorker-a text", "gthread-no prompt")
@pytest.mark.parametrize(
    ("path", "value", "answer"),
    [
        ("/texts/second", None, (404, "application/json", b'{"error":"no such text"}')),
        (
            "/texts/first",
            None,
            (
                200,
                "text/event-stream",
                b"".join(b"data: %s\n\n" % word for word in b"it comes word by word".split()),
            ),
        ),
        ("/answers", {"other": 1}, (400, "application/json", b'{"error":"no prompt"}')),
    ],
    ids=["no text", "a text", "no prompt"],
)
def test_handlers_that_write_between_their_waits_answer_the_same(
    express: NodeProgram, port: Server, path: str, value: object, answer: tuple[int, str, bytes]
) -> None:
    assert ask(express, path, value) == ask(port, path, value) == answer


@pytest.mark.long_except("gevent")
def test_a_handler_of_a_post_writes_the_same_messages(express: NodeProgram, port: Server) -> None:
    prompt = json.dumps({"prompt": "two words"})
    bodies = []
    for program in (express, port):
        client = Client(program.port)
        head = ("Content-Type: application/json", f"Content-Length: {len(prompt)}")
        client.get("/answers", *head, method="POST")
        client.sock.sendall(prompt.encode())
        # npm's stream does not end the response of a client that keeps its connection.
        bodies.append(body_of(client.read_until(b"data: [DONE]\n\n")))
        client.fin()
    theirs, ours = bodies
    word = b'event: word\ndata: {"word":"%s"}\n\n'
    done = b"event: done\ndata: [DONE]\n\n"
    assert ours == theirs == b":ok\n\n" + word % b"two" + word % b"words" + done
