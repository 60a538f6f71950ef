"""The second port, for servers on gevent: ``publish COUNT`` publishes so many messages.

It is a port of its own so that publishing costs no HTTP request.
"""

import itertools
import os
import socket
from collections.abc import Callable

from gevent.server import StreamServer

TEXT = os.environ["BENCHMARK_TEXT"]


def listen(publish: Callable[[int], None]) -> None:
    """Call *publish* with the next number for each message that is asked for."""
    numbers = itertools.count(1)

    def handle(sock: socket.socket, address: object) -> None:
        for line in sock.makefile():
            for _ in range(int(line.removeprefix("publish "))):
                publish(next(numbers))

    StreamServer(("127.0.0.1", int(os.environ["BENCHMARK_CONTROL"])), handle).start()
