"""Both ends of one connection."""

import socket
import ssl
import struct
import threading
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


def pair_over(line: str, certificate: tuple[str, str]) -> tuple[Any, Any]:
    """The server's end of a connection, and the client's, with the buffers of the system."""
    if line == "unix":
        return socket.socketpair()
    family = socket.AF_INET6 if line == "tcp6" else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(("::1" if line == "tcp6" else "127.0.0.1", 0))
        listener.listen()
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    if not line.startswith("tls"):
        return server, client
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    ends: list[Any] = []
    shaking = threading.Thread(
        target=lambda: ends.append(context.wrap_socket(server, server_side=True))
    )
    shaking.start()
    encrypted = trusting.wrap_socket(client)
    shaking.join()
    return ends[0], encrypted
