"""The client's socket behind a WSGI request: tune it, ask it, cut it.

``client_socket`` finds it, and ``hangup`` watches it for the client's departure.
"""

import contextlib
import fcntl
import functools
import os
import re
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..runtime.threads import new_lock
from .client_socket import find_socket, keeper_of_socket
from .hangup import Socket, Watched, fileno
from .lent_socket import LentSocket, SocketType
from .origin import call_queue_of
from .peer import unread

#: For ``send()``: a client that has just left must not end the process with a signal.
SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)

_CACHE_KEY = "ssestream.http.connection"

#: What is sent in the place of the next chunk's size when a response is broken off. Every client
#: takes it for an error. Without it, the ``fetch`` of Node takes a closed connection for the end of
#: a chunked response, if the head said ``Connection: close``.
NO_CHUNK = b"-1\r\n"

#: Bytes that the kernel may hold for a client before they are on their way. Without a bound
#: it takes megabytes for a client that never reads. Bytes in the kernel cannot be dropped,
#: counted or taken back. Bytes on their way are not bounded by this.
IN_KERNEL = 16 * 1024

# Behind a proxy the address comes from a header, which the client may have written.
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{1,45}(%[\w.-]{1,20})?", re.ASCII)

#: Characters of a wrong address that the log shows.
SHOWN = 80

# The size of Linux's struct tcp_info, up to the last field that is read here.
_INFO_SIZE = 216

# Level, option, value.
_Option = tuple[int, int, int]


def _tcp(**values: int) -> tuple[_Option, ...]:
    """TCP options by their names. Options that this system lacks are left out."""
    return tuple(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in values.items()
        if hasattr(socket, name)
    )


_TUNING = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *_tcp(TCP_NODELAY=1, TCP_NOTSENT_LOWAT=IN_KERNEL),
)


@functools.lru_cache
def _giving_up(seconds: float) -> tuple[_Option, ...]:
    """The options for `Connection.give_up_after`. Most streams have the same *seconds*."""
    return _tcp(
        TCP_KEEPIDLE=max(1, round(seconds / 2)),
        TCP_KEEPINTVL=max(1, round(seconds / 6)),
        TCP_KEEPCNT=3,
    )


class Standing(NamedTuple):
    """How many of the sent bytes have reached the peer's kernel."""

    #: Bytes that this kernel has and the peer has not acknowledged; None where unknown.
    unsent: int | None
    #: A number that grows with every byte that the peer has got; None where unknown.
    acknowledged: int | None
    #: Seconds since the peer's last acknowledgement. An answer that it has no room counts.
    silent: float = 0.0
    #: How many probes or retransmissions in a row the peer has not answered.
    asked: int = 0
    #: Whether sent bytes are not acknowledged yet. If not, the peer has everything or no room.
    on_its_way: bool = False


class Connection(Watched):
    """The connection to the client of one request.

    It holds the socket, but never the environ. ``reachable`` says whether there is a socket
    to watch. Without a socket, only a failed write shows that the client has left.

    *sock* is the client's socket, or None. *delimited* and *serial* are the attributes of these
    names. *client* and *path* are text for the log, or None. *lock* may be shared with the
    stream and the response; None makes a new one.
    """

    __slots__ = ("_client", "_path", "delimited", "owes_close", "serial")

    #: The server that keeps the socket to itself, by its name; None for every other server. A class
    #: attribute, because hardly any connection sets it.
    keeper: str | None = None

    def __init__(
        self,
        sock: Any = None,
        delimited: bool = True,
        client: str | None = None,
        path: str | None = None,
        serial: bool = False,
        lock: Any = None,
    ) -> None:
        self._client, self._path = client, path
        #: Whether the framing marks the response's end. Without framing (HTTP/1.0), the end of
        #: the connection is the end of the response.
        self.delimited = delimited
        #: Whether the server answers one request at a time in this process.
        self.serial = serial
        #: Whether the response is over, and has yet to emit ``"close"``.
        self.owes_close = False
        self._sock = sock
        self._fd = -1
        self._lock = lock or new_lock()
        self._watch = None
        self._owner = None
        self._on_writable = None

    def owe_close(self, owes_close: bool) -> None:
        """Note whether the response, which is over, has yet to emit ``"close"``."""
        self.owes_close = owes_close

    @property
    def reachable(self) -> bool:
        """Whether there is a socket to watch and to cut."""
        return self._sock is not None

    @property
    def abandoned(self) -> bool:
        """Whether the server has closed the socket without telling the response.

        The kernel reports nothing about a closed descriptor.
        """
        return self._sock is not None and fileno(self._sock) < 0

    @property
    def closes_itself(self) -> bool:
        """Whether the server closes the connection when it has sent the response.

        Such a server may still have bytes of the response when it is done with the body.
        """
        return type(self._sock) is LentSocket

    @property
    def name(self) -> str:
        """The client and the path of the request, for the log.

        The query is left out, as it may hold secrets. Text that the client may have chosen is
        escaped, so that it cannot look like another entry of the log.
        """
        client = self._client or "a client"
        if self._client and not _ADDRESS.fullmatch(client):
            client = repr(client[:SHOWN])
        return client if self._path is None else f"{client} {self._path!r}"

    @classmethod
    def of(cls, environ: dict[str, Any]) -> "Connection":
        """Return the connection of a WSGI *environ*: always the same for one request.

        The first call tunes the socket as Node's ssestream does: keep-alive on, no-delay on,
        no timeout.
        """
        found = environ.get(_CACHE_KEY)
        if isinstance(found, cls):
            return found
        delimited = environ.get("SERVER_PROTOCOL", "HTTP/1.1") not in ("HTTP/1.0", "HTTP/0.9")
        keeper = keeper_of_socket(environ)
        make = cls if keeper is None else functools.partial(_Kept, keeper)
        connection = make(
            find_socket(environ),
            delimited,
            environ.get("REMOTE_ADDR"),
            environ.get("PATH_INFO", ""),
            _is_serial(environ),
            call_queue_of(environ).lock,
        )
        connection.tune()
        environ[_CACHE_KEY] = connection
        return connection

    def release(self, cut: bool = False, how: int = socket.SHUT_RDWR) -> None:
        """Forget the socket. The server closes it.

        With *cut* the socket is shut down first. *how* is both ways by default: then a stuck send
        fails at once, and nothing more is read.
        """
        with self._lock:
            sock, self._sock = self._sock, None
            self._owner = self._on_writable = None
            copy = -1
            if self._watch is not None:
                self._watch.remove(self._fd, self)
                self._watch = None
                if type(sock) is LentSocket:
                    copy = self._fd
            # Under the lock: after another release the server may close the socket and give
            # its number to a new one. A lent socket may be closed at any time, but no copy.
            if cut:
                _shutdown(fileno(sock) if copy < 0 else copy, how)
            if copy >= 0:
                os.close(copy)

    def take_over(self) -> Any:
        """Take the socket from the server and return it. The server keeps a closed one.

        The returned socket does not block. It is watched and cut as before. The caller must
        close it, after `release`. Returns None if there is no socket, or if it speaks TLS: the
        server has the state of TLS.
        """
        with self._lock:
            sock = self._sock
            if sock is None or isinstance(sock, ssl.SSLSocket):
                return None
            # The descriptor's number stays, and so does the watch.
            own = SocketType(-1, socket.SOCK_STREAM, 0, sock.detach())
            own.setblocking(False)
            self._sock = own
        return own

    def give_up_after(self, seconds: float) -> None:
        """Let the kernel close the connection when a silent peer does not answer for *seconds*.

        The kernel sends keep-alive probes, but only while no bytes are on their way.
        Otherwise `Keepalive` checks that the peer answers. ``TCP_USER_TIMEOUT`` is not set: Linux
        counts it from the first time that the peer had no room, and starts again only when the
        peer has room for a whole buffer of the kernel. A peer that was slow once would lose its
        connection at its next pause, even an hour later.
        """
        self._set(_giving_up(seconds))

    def _set(self, options: tuple[_Option, ...]) -> None:
        with self._lock:
            if self._sock is not None:
                _set(self._sock, options)

    def written(self) -> int | None:
        """The number of bytes that the kernel was given for the peer; None where unknown."""
        info = self._info()
        if info is None:
            return None
        # See struct tcp_info of linux/tcp.h.
        (not_sent,) = struct.unpack_from("I", info, 144)
        sent, again = struct.unpack_from("QQ", info, 200)
        return int(not_sent + sent - again)

    def standing(self) -> Standing:
        """Ask the kernel how many bytes have reached the peer's kernel."""
        info = self._info()
        if info is None:
            return Standing(self._unsent(), None)
        # See struct tcp_info of linux/tcp.h.
        again, probes = struct.unpack_from("BB", info, 2)
        (on_its_way,) = struct.unpack_from("I", info, 24)
        (silent,) = struct.unpack_from("I", info, 56)
        (acknowledged,) = struct.unpack_from("Q", info, 120)
        asked = again if on_its_way else probes
        return Standing(self._unsent(), acknowledged, silent / 1000, asked, bool(on_its_way))

    def unread(self) -> int | None:
        """The bytes in the peer's receive buffer, which it has not read. None where unknown."""
        with self._lock:
            return None if self._sock is None else unread(self._sock)

    def _info(self) -> bytes | None:
        with self._lock:
            if self._sock is None or not hasattr(socket, "TCP_INFO"):
                return None
            try:
                info: bytes = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
            except OSError:
                return None
        # Before Linux 4.19 the struct is shorter.
        return info if len(info) == _INFO_SIZE else None

    def _unsent(self) -> int | None:
        with self._lock:
            fd = fileno(self._sock)
            if fd < 0:
                return None
            try:
                # This is SIOCOUTQ: it has the same number as TIOCOUTQ.
                answer = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0")
            except OSError:
                return None
            return int.from_bytes(answer, sys.byteorder)

    def cut(self, mark: bool = False) -> None:
        """Shut the connection down, both ways, and stop watching it.

        *mark* says that the client may still be there, and is to see that the response is broken.
        """
        if mark and self.delimited:
            with self._lock:
                # The framing is known only for a socket that `take_over` has returned.
                if type(self._sock) is SocketType:
                    _send_now(self._sock, NO_CHUNK)
        self.release(cut=True)

    def tune(self) -> None:
        """Set the options of the socket for a long answer. See `of`."""
        sock = self._sock
        if sock is None:
            return
        _set(sock, _TUNING)
        try:
            if sock.gettimeout():
                sock.settimeout(None)
        except OSError:
            pass


class _Kept(Connection):
    """A connection of a server that keeps the socket to itself."""

    __slots__ = ("keeper",)

    keeper: str | None

    def __init__(self, keeper: str, *of_connection: Any) -> None:
        super().__init__(*of_connection)
        self.keeper = keeper


def has_connection(environ: Mapping[str, Any]) -> bool:
    """Whether `Connection.of` was called for *environ*, as every stream of the request does."""
    return _CACHE_KEY in environ


def _is_serial(environ: Mapping[str, Any]) -> bool:
    """Whether a server answers one request at a time in this process.

    The test clients of Flask, Werkzeug and others call the app themselves, with the same flags in
    the environ. But only a server sets ``SERVER_SOFTWARE`` (uWSGI sets its version instead).
    """
    if environ.get("wsgi.multithread", True):
        return False
    name = environ.get("SERVER_SOFTWARE")
    if name is None:
        return "uwsgi.version" in environ
    # Werkzeug's server with processes forks for each request, so no request waits.
    return not (environ.get("wsgi.multiprocess") and str(name).startswith("Werkzeug/"))


def _set(sock: Any, options: tuple[_Option, ...]) -> None:
    for option in options:
        try:
            sock.setsockopt(*option)
        except OSError:  # a Unix socket has no no-delay, and a dead socket no options
            pass


def _send_now(sock: Any, data: bytes) -> None:
    """Send *data* over *sock*, which does not block, if it has room and a peer."""
    with contextlib.suppress(OSError):
        sock.send(data, SEND_FLAGS)


def _shutdown(fd: int, how: int) -> None:
    # Use the bare descriptor. The shutdown() of a TLS socket drops its TLS state, and the
    # server would then send its next bytes as plain text.
    if fd >= 0:
        raw = None
        try:
            # The given family and type do not matter. Without them Python asks the kernel.
            raw = Socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
            raw.shutdown(how)
        except OSError:  # not connected any more
            pass
        finally:
            if raw is not None:
                raw.detach()
