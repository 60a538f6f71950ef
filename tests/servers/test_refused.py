"""What a view has begun is gone with its request, whatever the view answers."""

import functools
import http.client
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.servers import Server
from tests.servers.apps import refused_plain
from tests.servers.apps.refused import BEGINS, SENT, WAYS, nothing_is_left

KINDS = ["SseWorker", "gthread", "gevent", "sync", "waitress"]


def ask_path(server: Server, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers={"Connection": "close"})
    try:
        return connection.getresponse().read()
    except http.client.HTTPException:  # gunicorn's answer to an exception
        return b""
    finally:
        connection.close()


@pytest.mark.long_except("SseWorker")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["gevent", "SseWorker", "gthread", "flask"])
def test_nothing_is_left_behind_a_server(kind: str) -> None:
    server = Server(kind, "tests.servers.apps.refused:app").start()
    try:
        ask = functools.partial(ask_path, server)
        pairs = list(itertools.product(WAYS, BEGINS))
        for way, begin in pairs:
            ask(f"/{way}?begin={begin.replace(' ', '+')}")
        assert ask("/torn-down") == b":ok\n\ndata: 1\n\n"
        for way in SENT:
            assert ask(f"/sent/{way}") == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
        nothing_is_left(lambda: json.loads(ask("/left")), len(pairs))
    finally:
        server.stop()


@pytest.mark.server
@pytest.mark.long_except("gthread")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_without_flask(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, "tests.servers.apps.refused_plain:app")
    ask = functools.partial(ask_path, server)
    pairs = list(itertools.product(refused_plain.WAYS, BEGINS))
    for way, begin in pairs:
        ask(f"/{way}?begin={begin.replace(' ', '+')}")
    nothing_is_left(lambda: json.loads(ask("/left")), len(pairs))


@pytest.mark.server
@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "gthread", "gevent", "sync"])
def test_nothing_is_left_of_a_request_that_its_timer_refers_to(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.refused_plain:app")
    for way in ("text", "raise"):
        ask_path(server, f"/{way}?begin=subscribe+held")
    nothing_is_left(lambda: json.loads(ask_path(server, "/left")), 2)


@pytest.mark.server
@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_sent_without_flask_goes_on(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.refused_plain:app")
    for way in refused_plain.SENT:
        events = ask_path(server, f"/sent/{way}")
        assert events == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n", way


@pytest.mark.server
@pytest.mark.long_except("django-SseWorker", "bottle-gthread")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", refused_plain.FRAMEWORKS)
def test_nothing_is_left_behind_a_framework(
    name: str, kind: str, serve: Callable[..., Server], installed: Callable[[str], None]
) -> None:
    installed(name)
    server = serve(kind, "tests.servers.apps.refused_plain:app")
    for begin in BEGINS:
        ask_path(server, f"/{name}/?begin={begin.replace(' ', '+')}")

    def left() -> Any:
        if name == "bottle":  # which keeps a thread's last request until the next one
            ask_path(server, f"/{name}/none")
        return json.loads(ask_path(server, "/left"))

    nothing_is_left(left, len(BEGINS))
