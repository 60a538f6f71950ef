"""A worker handles its connections also when it has closed its listeners."""

import socket
from types import SimpleNamespace
from typing import Any

from ssestream.gunicorn.listeners import ListenerName, keep_names


def test_a_connection_has_the_name_of_its_listener_when_that_is_closed() -> None:
    handled: list[Any] = []

    def handle(listener: Any, client: Any, address: Any) -> None:
        handled.append((listener.getsockname(), client, address))

    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        names = one.getsockname(), two.getsockname()
        own = ListenerName(one)
        worker = SimpleNamespace(handle=handle, sockets=[one, two])
        keep_names(worker)
    for listener in (one, two, own):
        worker.handle(listener, "client", "address")
    assert handled == [(name, "client", "address") for name in (*names, names[0])]
