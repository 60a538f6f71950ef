"""The page for operators before the workers of a real server."""

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssestream.operators.looks import ENDS
from ssestream.wire import Decoder
from tests.kit.servers import PATIENCE, Client, Server, body_of, wait_until

pytestmark = pytest.mark.server

OPERATOR = "Cookie: operator=yes"
STREAMS = 8


@pytest.fixture(params=["SseWorker", "gevent"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(
        request.param,
        "tests.servers.apps.operators:app",
        env={"NUMBERS": str(tmp_path), "EVENTS": f"sqlite:///{tmp_path}/events.db"},
        args=("-w", "2", "-c", "python:ssestream.gunicorn"),
    )
    yield server.start()
    server.stop()


class Page:
    """The stream of the page, and its newest look."""

    def __init__(self, server: Server, find: str = "") -> None:
        self.server = server
        self.client = Client(server.port).get(f"/operators/events?find={find}", OPERATOR)
        self.client.read_until(b"event: look\n")

    def look(self) -> dict[str, Any]:
        """The newest look, which may be a second old."""
        self.client.received += self.client.sock.recv(1 << 20)
        body = body_of(self.client.received)
        whole = body[: body.rfind(b"\n\n") + 2]
        looks = [each for each in Decoder().feed(whole) if each.get("event") == "look"]
        return dict(json.loads(str(looks[-1]["data"]))) if looks else {}

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        def met() -> Any:
            look = self.look()
            return look if look and condition(look) else None

        found: dict[str, Any] = wait_until(met, what)
        return found

    def post(self, action: str, **fields: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        headers = {"Cookie": "operator=yes", "Content-Type": "application/json"}
        connection.request("POST", f"/operators/{action}", json.dumps(fields), headers)
        status = connection.getresponse().status
        connection.close()
        return status


def opened(server: Server, paths: list[str]) -> dict[str, Client]:
    """A client for each of *paths*, on whichever worker takes it."""
    clients = {path: Client(server.port).get(f"/follow/{path}") for path in paths}
    for client in clients.values():
        client.read_until(b":ok\n\n")
    return clients


def opened_on_both(page: Page) -> dict[str, Client]:
    """Clients by their paths, some on each of the two workers. *page* shows them all."""
    clients: dict[str, Client] = {}

    def open_more() -> bool:
        first = len(clients)
        paths = [f"news/{number}" for number in range(first, first + STREAMS)]
        clients.update(opened(page.server, paths))
        look = page.until(
            lambda look: len(look["streams"]["rows"]) == len(clients), "the streams of all workers"
        )
        return len({each["process"] for each in look["streams"]["rows"]}) == 2

    # A worker that has just begun may take nobody yet.
    wait_until(open_more, "streams on both workers")
    return clients


@pytest.mark.long_except("SseWorker")
def test_a_stranger_gets_nothing(server: Server) -> None:
    for path in ("/operators/", "/operators/events"):
        stranger = Client(server.port).get(path, "Connection: close")
        answer = stranger.read_to_end()
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"\r\nCache-Control: no-store, no-transform\r\n" in answer


@pytest.mark.long
def test_one_look_tells_of_the_streams_and_the_ends_of_all_workers(server: Server) -> None:
    page = Page(server, "/follow")
    assert b"\r\nCache-Control: no-store, no-transform\r\n" in page.client.received
    clients = opened_on_both(page)
    look = page.until(lambda look: look["rates"], "rates")
    assert {each["client"] for each in look["streams"]["rows"]} == {
        f"127.0.0.1 '/follow/{path}'" for path in clients
    }
    assert len(look["processes"]["rows"]) == 2
    assert sum(each["open"] for each in look["processes"]["rows"]) == look["open"]
    # The search is for streams, and the channel has another name.
    assert look["channels"]["rows"] == []
    channels = Page(server, "news").look()["channels"]
    assert [(each["name"], each["streams"]) for each in channels["rows"]] == [
        ("news", len(clients))
    ]
    assert page.post("publish", channel="news", event="test", data="hello") == 204
    for client in clients.values():
        client.read_until(b"hello")
    page.until(lambda look: look["rates"]["messages"] > 0, "the rate of messages")
    for client in clients.values():
        client.fin()
    look = page.until(lambda look: len(look["ends"]["rows"]) == min(len(clients), ENDS), "the ends")
    assert {each["cause"] for each in look["ends"]["rows"]} == {"client"}
    assert look["closed"]["client"] >= len(clients)
    assert look["streams"]["rows"] == []


@pytest.mark.long
def test_a_stream_of_each_worker_can_be_cut_and_no_other_is(server: Server) -> None:
    page = Page(server, "/follow")
    clients = opened_on_both(page)
    rows = {each["client"].split("'")[1]: each for each in page.look()["streams"]["rows"]}
    assert len(rows) == len(clients)
    cut = set({each["process"]: path for path, each in rows.items()}.values())
    assert len(cut) == 2
    for path in cut:
        assert page.post("cut", stream=rows[path]["id"]) == 204
        clients[path.removeprefix("/follow/")].read_to_end()
    look = page.until(lambda look: len(look["streams"]["rows"]) == len(rows) - 2, "them to go")
    left = {each["client"].split("'")[1] for each in look["streams"]["rows"]}
    assert left == set(rows) - cut
    assert page.post("publish", channel="news", event="", data="hello") == 204
    for path in left:
        clients[path.removeprefix("/follow/")].read_until(b"hello")
    # It is over: there is nothing to cut.
    assert page.post("cut", stream=rows[cut.pop()]["id"]) == 404


@pytest.mark.long_except("SseWorker")
def test_a_key_and_then_a_channel_are_cut_on_all_workers(server: Server) -> None:
    page = Page(server, "/follow")
    keyed = opened(server, [f"news/{number}?key=user:7" for number in range(STREAMS)])
    others = opened(server, [f"news/other/{number}" for number in range(STREAMS)])
    page.until(lambda look: len(look["streams"]["rows"]) == 2 * STREAMS, "all streams")
    assert page.post("cut-key", channel="news", key="user:7") == 204
    for client in keyed.values():
        client.read_to_end()
    page.until(lambda look: len(look["streams"]["rows"]) == STREAMS, "the others")
    assert page.post("close-channel", channel="news") == 204
    for client in others.values():
        client.read_to_end()
