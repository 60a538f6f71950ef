"""A server that answers with the bytes that a test gives it, and nothing else."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from tests.kit.servers import PATIENCE

Script = Callable[[socket.socket, str], None]

HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n"
    "Cache-Control: no-cache, no-transform\r\n"
)

#: Bytes that the buffers of two sockets may hold, which grow up to this.
SOCKETS = 12 * 1024 * 1024


class Scripted:
    """Each connection gets *script*, with its socket and the head of its request.

    A context manager: at its end all connections are closed.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        #: The head of each request.
        self.requests: list[str] = []
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Scripted":
        self._start(self._listen)
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        # Wakes the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._listener.close()

    def stay(self, sock: socket.socket) -> None:
        """Keep the connection open until the test is over or the client has left."""
        sock.settimeout(0.05)
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                if not sock.recv(1000):
                    return

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._start(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(PATIENCE)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = sock.recv(1000)
                if not piece:
                    return
                head += piece
            self.requests.append(head.decode())
            self._script(sock, head.decode())


class Endless:
    """A server that sends *first* once and then *more*, again and again, until the client leaves.

    :param pause: seconds between two pieces.
    :ivar sent: bytes that the client has read, and those in the buffers of the sockets.
    """

    def __init__(self, first: bytes, more: bytes, pause: float = 0.0) -> None:
        self._first, self._more, self._pause = first, more, pause
        self.sent = 0
        self.server = Scripted(self._answer)
        self.url = self.server.url

    def __enter__(self) -> "Endless":
        self.server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.__exit__(*error)

    def _answer(self, sock: socket.socket, request: str) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(self._first)
            while True:
                self.sent += sock.send(self._more)
                time.sleep(self._pause)


def chunk(text: str) -> bytes:
    """A chunk of a body. ``""`` is the last one."""
    return f"{len(text.encode()):x}\r\n{text}\r\n".encode()
