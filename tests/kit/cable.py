"""A cable between a browser and a server, to be cut."""

import contextlib
import socket
import threading


class Cable:
    """Forwards connections from its `port` to the port `to`, both on 127.0.0.1."""

    def __init__(self, to: int = 0) -> None:
        self.to = to
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        #: Whether bytes get through. If not, connections stay open and are silent.
        self._passes = threading.Event()
        self._passes.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections, and refuse others until `mend`."""
        with self._lock:
            self._is_cut = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._is_cut = False
        self._passes.set()

    def hold(self) -> None:
        """Let no byte through until `mend`, and say no word of it."""
        self._passes.clear()

    def stop(self) -> None:
        self.cut()
        self._passes.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            with self._lock:
                if self._is_cut:
                    near.close()
                    far.close()
                    continue
                self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            if source not in self._open:
                return
            # Each pair has two threads; the second one closes both.
            self._open.discard(source)
            if target not in self._open:
                source.close()
                target.close()
