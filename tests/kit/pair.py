"""Both ends of one TCP connection."""

import socket
import struct
from typing import Any


class Pair:
    """A TCP connection: the server's end, and the client's."""

    def __init__(self, family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> None:
        with socket.socket(family) as listener:
            listener.bind(address)
            listener.listen()
            self.client = socket.socket(family)
            self.client.connect(listener.getsockname())
            self.server, _ = listener.accept()

    def fin(self) -> None:
        self.client.close()

    def rst(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def half_close(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client.close()
        self.server.close()
