"""What a view has begun is gone with its request, whatever the view answers."""

import http.client
import itertools
import json

import pytest

from tests.kit.servers import Server
from tests.servers.apps.refused import BEGINS, SENT, WAYS, nothing_is_left


@pytest.mark.server
@pytest.mark.parametrize("kind", ["gevent", "SseWorker", "gthread", "flask"])
def test_nothing_is_left_behind_a_server(kind: str) -> None:
    server = Server(kind, "tests.servers.apps.refused:app").start()
    try:

        def ask(path: str) -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("GET", path, headers={"Connection": "close"})
            try:
                return connection.getresponse().read()
            finally:
                connection.close()

        pairs = list(itertools.product(WAYS, BEGINS))
        for way, begin in pairs:
            ask(f"/{way}?begin={begin.replace(' ', '+')}")
        assert ask("/torn-down") == b":ok\n\ndata: 1\n\n"
        for way in SENT:
            assert ask(f"/sent/{way}") == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
        nothing_is_left(lambda: json.loads(ask("/left")), len(pairs))
    finally:
        server.stop()
