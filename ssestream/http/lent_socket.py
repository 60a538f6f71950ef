"""LentSocket: the client's socket where the server gives only its descriptor."""

import os
from typing import Any

from gevent import monkey

#: The interpreter's own class of sockets, which is smaller than ``socket.socket``.
SocketType: Any = monkey.get_original("socket", "SocketType")


class LentSocket(SocketType):  # type: ignore[misc]
    """The socket of a descriptor that the server may close at any time, in another thread.

    *fd* is the descriptor. It stays the server's, which never learns of this object. The server
    closes the connection by itself when it has sent the response, and may still have bytes of the
    response when it is done with the body. Raises ``OSError`` if *fd* is no socket.
    """

    __slots__ = ("_inode",)

    def __new__(cls, fd: int) -> Any:
        return super().__new__(cls)

    def __init__(self, fd: int) -> None:
        # Not -1 for the descriptor: then Python would make a new socket.
        self._inode = os.fstat(fd).st_ino
        super().__init__(-1, -1, -1, fd)

    def fileno(self) -> int:
        """The descriptor; -1 if the server has closed it, also if a new file has its number."""
        fd: int = super().fileno()
        try:
            return fd if os.fstat(fd).st_ino == self._inode else -1
        except OSError:
            return -1

    def copy_descriptor(self) -> int:
        """A copy of the descriptor, which the caller must close; -1 if the server has closed it."""
        try:
            copy = os.dup(super().fileno())
        except OSError:
            return -1
        # The server may have closed it just before, and a new file may have its number.
        if os.fstat(copy).st_ino == self._inode:
            return copy
        os.close(copy)
        return -1

    def gettimeout(self) -> None:
        """None: the server has set whether the socket blocks, and must find it so."""

    def __del__(self) -> None:
        # Otherwise Python would close the server's descriptor.
        self.detach()
