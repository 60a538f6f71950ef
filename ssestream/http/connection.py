"""The client's socket behind a WSGI request: find it, tune it, watch it, cut it.

WSGI does not tell an app that the client has left. A server notices a departure when it
writes, and mostly at the second write. The kernel knows at once. So each loop has one epoll
that waits only for the peer's FIN or RST (``EPOLLRDHUP``), and one hub watcher on that epoll.
The epoll does not wait for arriving bytes, such as a pipelined request. They wake nothing,
do not look like a departure, and are never read.

On systems without such an epoll, a hub watcher on the socket itself peeks (``MSG_PEEK``)
without reading. There a pipelined request hides the departure behind it, and the next write
finds the departure.
"""

import fcntl
import functools
import os
import re
import select
import socket
import ssl
import struct
import sys
import termios
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from gevent import monkey

from ..runtime.emitter import call_queue_of
from ..runtime.loop import Loop, logger, new_lock
from .peer import unread


def _plain(module: str, name: str) -> Any:
    """The unpatched *name* of *module*, or None if this system has none."""
    try:
        return monkey.get_original(module, name)
    except AttributeError:
        return None


# gevent's versions of these wait in the hub, which must not happen here. gevent has no epoll,
# and removes Python's.
_Socket: Any = _plain("socket", "socket")
#: The interpreter's own class of sockets, which is smaller than ``socket.socket``.
SocketType: Any = _plain("socket", "SocketType")
#: For ``send()``: a client that has just left must not end the process with a signal.
SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)

_poll: Any = _plain("select", "poll")
_epoll: Any = _plain("select", "epoll")

# The keys of the environ under which servers put the socket: gunicorn's gevent, gthread and
# sync workers, its gevent_pywsgi worker, Werkzeug's development server.
_ENVIRON_KEYS = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")

# gunicorn puts this key into the environ of an HTTP/2 request. The socket of such a request
# also carries other requests, so it must not be watched or cut.
_HTTP2_KEY = "gunicorn.http2.send_trailers"

_CACHE_KEY = "ssestream.http.connection"

#: Bytes that the kernel may hold for a client before they are on their way. Without a bound
#: it takes megabytes for a client that never reads. Bytes in the kernel cannot be dropped,
#: counted or taken back. Bytes on their way are not bounded by this.
IN_KERNEL = 16 * 1024

# Behind a proxy the address comes from a header, which the client may have written.
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{1,45}(%[\w.-]{1,20})?", re.ASCII)

#: If an address is no address, so many of its characters go into the log.
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


class Owner(Protocol):
    """The object that is told when the client has left.

    It is not a function, as a bound method would be one more object for each stream.
    """

    def _connection_lost(self) -> None: ...


class Connection:
    """The connection to the client of one request.

    It holds the socket, but never the environ. ``reachable`` says whether there is a socket
    to watch. Without a socket, only a failed write shows that the client has left.

    *sock* is the client's socket, or None. *delimited* and *alone* are the attributes of these
    names. *client* and *path* are text for the log, or None. *lock* may be shared with the
    stream and the response; None makes a new one.
    """

    __slots__ = (
        "_client",
        "_fd",
        "_lock",
        "_on_writable",
        "_owner",
        "_path",
        "_sock",
        "_watch",
        "alone",
        "delimited",
    )

    def __init__(
        self,
        sock: Any = None,
        delimited: bool = True,
        client: str | None = None,
        path: str | None = None,
        alone: bool = False,
        lock: Any = None,
    ) -> None:
        self._client, self._path = client, path
        #: Whether the framing marks the response's end. Without framing (HTTP/1.0), the end of
        #: the connection is the end of the response.
        self.delimited = delimited
        #: Whether the server answers one request at a time in this process.
        self.alone = alone
        self._sock = sock
        self._fd = -1
        self._lock = lock or new_lock()
        self._watch: _Watch | None = None
        self._owner: Owner | None = None
        self._on_writable: Callable[[], object] | None = None

    @property
    def reachable(self) -> bool:
        return self._sock is not None

    @property
    def abandoned(self) -> bool:
        """Whether the server has closed the socket without telling the response.

        The kernel reports nothing about a closed descriptor.
        """
        return self._sock is not None and _fileno(self._sock) < 0

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
        connection = cls(
            _find(environ),
            delimited,
            environ.get("REMOTE_ADDR"),
            environ.get("PATH_INFO", ""),
            _is_alone(environ),
            call_queue_of(environ).lock,
        )
        connection._tune()
        environ[_CACHE_KEY] = connection
        return connection

    def watch(self, loop: Loop, owner: Owner) -> None:
        """Tell *owner* once, in the loop of *loop*, when the peer has left.

        After `release` it is not told any more.
        """
        if loop.is_lost:
            return
        with self._lock:
            fd = _fileno(self._sock)
            if fd < 0 or self._owner is not None:
                return
            self._fd = fd
            self._owner = owner
            self._watch = _watch_of(loop)
            self._watch.add(fd, self)

    def instead(self, owner: Owner) -> None:
        """Tell *owner* of the departure, instead of the owner that `watch` was given.

        Does nothing if the first owner was told already.
        """
        with self._lock:
            if self._owner is not None:
                self._owner = owner

    def release(self, cut: bool = False) -> None:
        """Forget the socket. The server closes it.

        With *cut* the socket is shut down first, both ways. Then a stuck send fails at once,
        and nothing more is read.
        """
        with self._lock:
            sock, self._sock = self._sock, None
            self._owner = self._on_writable = None
            if self._watch is not None:
                self._watch.remove(self._fd, self)
                self._watch = None
            # Under the lock: after another release the server may close the socket and give
            # its number to a new one.
            if cut:
                _shutdown(sock)

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

    def when_writable(self, on_writable: Callable[[], object]) -> None:
        """Call *on_writable* once, in the loop of its watch, when the socket has room."""
        with self._lock:
            self._on_writable = on_writable
            if self._watch is not None:
                self._watch.await_room(self._fd, self)

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
            fd = _fileno(self._sock)
            if fd < 0:
                return None
            try:
                # This is SIOCOUTQ: it has the same number as TIOCOUTQ.
                answer = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0")
            except OSError:
                return None
            return int.from_bytes(answer, sys.byteorder)

    def cut(self) -> None:
        """Shut the connection down, both ways, and stop watching it."""
        self.release(cut=True)

    def _has_room(self) -> None:
        with self._lock:
            on_writable, self._on_writable = self._on_writable, None
        if on_writable is not None:
            on_writable()

    def _hang_up(self) -> None:
        with self._lock:
            # The report may be old, from an earlier socket with the same descriptor.
            owner = self._owner
            if owner is None or not _peer_has_left(_fileno(self._sock)):
                return
            self._owner = None
        owner._connection_lost()

    def _tune(self) -> None:
        sock = self._sock
        if sock is None:
            return
        _set(sock, _TUNING)
        try:
            if sock.gettimeout():
                sock.settimeout(None)
        except OSError:
            pass


if _epoll is not None:
    #: Reported once. The next report needs another call of ``modify``.
    _DEPARTURE = select.EPOLLRDHUP | select.EPOLLONESHOT


class _Watch:
    """Waits for the departures of all clients of one loop, with one epoll."""

    def __init__(self, loop: Loop) -> None:
        self._connections: dict[int, Connection] = {}
        # Keeps the table and the epoll consistent.
        self._lock = new_lock()
        self._epoll = _epoll()
        self._watcher = loop.libev.io(self._epoll.fileno(), 1)
        # Waiting for departures must not keep a loop running.
        self._watcher.ref = False
        loop.call(self._watcher.start, self._ready)

    def add(self, fd: int, connection: Connection) -> None:
        with self._lock:
            self._connections[fd] = connection
            try:
                self._epoll.register(fd, _DEPARTURE)
            except FileExistsError:  # the last socket of this number was closed unannounced
                self._epoll.modify(fd, _DEPARTURE)

    def remove(self, fd: int, connection: Connection) -> None:
        with self._lock:
            if self._connections.get(fd) is connection:
                del self._connections[fd]
                try:
                    self._epoll.unregister(fd)
                except OSError:  # closed already: the kernel has forgotten it
                    pass

    def await_room(self, fd: int, connection: Connection) -> None:
        with self._lock:
            if self._connections.get(fd) is connection:
                self._epoll.modify(fd, _DEPARTURE | select.EPOLLOUT)

    def lose(self, loop: Loop) -> None:
        """Called in a job: the kernel's reports are for the parent, so drop everything."""
        connections, self._connections = self._connections, {}
        self._lock = new_lock()
        if loop.here():  # the job does not have another thread's loop
            self._watcher.stop()
        # The parent shares this epoll. To unregister a socket would change the parent's, too.
        self._epoll.close()
        _let_go_of(connections)

    def _ready(self) -> None:
        for fd, events in self._epoll.poll(0):
            connection = self._connections.get(fd)
            if connection is None:
                continue
            try:
                self._tell(connection, fd, events)
            except Exception:
                # Go on: the events of the other sockets are not reported again.
                logger.exception("%s: handling an event of its socket failed", connection.name)

    def _tell(self, connection: Connection, fd: int, events: int) -> None:
        # Any other event than room is the peer's FIN or worse. Do not ask for it again: the
        # loop would spin until the release.
        if events & ~select.EPOLLOUT:
            connection._hang_up()
            return
        with self._lock:
            if self._connections.get(fd) is connection:
                self._epoll.modify(fd, _DEPARTURE)
        connection._has_room()


class _PeekWatch:
    """Does the same on systems without epoll, with a hub watcher for each connection.

    Each watcher has its own copy of the descriptor. A server may close its descriptor while
    the loop still watches it, and then libev would abort the process.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._watchers: dict[int, tuple[Connection, Any]] = {}

    def add(self, fd: int, connection: Connection) -> None:
        watcher = self._loop.libev.io(os.dup(fd), 1)
        watcher.ref = False
        _, stale = self._watchers.get(fd, (None, None))
        self._watchers[fd] = (connection, watcher)
        if stale is not None:  # the last socket of this number was closed unannounced
            self._drop(stale)
        self._loop.call(self._start, fd, connection)

    def _start(self, fd: int, connection: Connection) -> None:
        watcher = self._watcher_of(fd, connection)
        if watcher is not None:
            watcher.start(self._ready, fd, connection)

    def remove(self, fd: int, connection: Connection) -> None:
        watcher = self._watcher_of(fd, connection)
        if watcher is not None:
            del self._watchers[fd]
            self._drop(watcher)

    def await_room(self, fd: int, connection: Connection) -> None:
        watcher = self._loop.libev.io(os.dup(fd), 2)
        watcher.ref = False

        def ready() -> None:
            _dispose(watcher)
            connection._has_room()

        self._loop.call(watcher.start, ready)

    def lose(self, loop: Loop) -> None:
        """See `_Watch.lose`."""
        watchers, self._watchers = self._watchers, {}
        if loop.here():
            for _, watcher in watchers.values():
                _dispose(watcher)
        _let_go_of(watchers)

    def _drop(self, watcher: Any) -> None:
        # A watcher must be stopped in its loop's thread before it is dropped.
        if self._loop.here():
            _dispose(watcher)
        else:
            self._loop.call(_dispose, watcher)

    def _watcher_of(self, fd: int, connection: Connection) -> Any:
        owner, watcher = self._watchers.get(fd, (None, None))
        return watcher if owner is connection else None

    def _ready(self, fd: int, connection: Connection) -> None:
        watcher = self._watcher_of(fd, connection)
        if watcher is not None:
            # A FIN or a pipelined request makes the socket readable for ever. Look once: any
            # more looks would make the loop spin.
            watcher.stop()
            if _peer_has_left(watcher.fd):
                connection._hang_up()


_watches: "weakref.WeakKeyDictionary[Loop, Any]" = weakref.WeakKeyDictionary()
_watches_lock = new_lock()


def _watch_of(loop: Loop) -> Any:
    with _watches_lock:
        watch = _watches.get(loop)
        if watch is None:
            watch = _watches[loop] = _PeekWatch(loop) if _epoll is None else _Watch(loop)
        return watch


def _after_fork() -> None:
    # A thread of the parent may have held the lock.
    global _watches_lock
    _watches_lock = new_lock()
    for loop, watch in list(_watches.items()):
        if loop.is_lost:
            watch.lose(loop)


os.register_at_fork(after_in_child=_after_fork)


def _let_go_of(fds: Iterable[int]) -> None:
    """Replace each of *fds*, a job's copies of its parent's sockets, by an unconnected socket.

    A copy would keep the client's connection open after the parent has closed its own. And a
    server's greenlet that was sending during the fork would send the same bytes in the job
    again. The numbers stay in use: a free number would go to the next opened file, and then
    code that closes the old socket would close that file.
    """
    try:
        # An unconnected socket, so that a send to it fails.
        with _Socket() as nobody:
            for fd in fds:
                os.dup2(nobody.fileno(), fd, inheritable=False)
    except OSError:
        logger.exception("this job cannot drop its copies of its parent's client sockets")


def _dispose(watcher: Any) -> None:
    fd = watcher.fd
    watcher.stop()
    watcher.close()
    os.close(fd)


def _find(environ: Mapping[str, Any]) -> Any:
    if _HTTP2_KEY in environ:
        return None
    for key in _ENVIRON_KEYS:
        if _is_socket(environ.get(key)):
            return environ[key]
    # gevent.pywsgi and wsgiref put the file of the request's body into the environ. There is
    # a socket inside this file.
    source = environ.get("wsgi.input")
    for reader in (getattr(source, "rfile", None), source):
        sock = getattr(getattr(reader, "raw", None), "_sock", None)
        if _is_socket(sock):
            return sock
    logger.debug("no client socket in the environ of %r", environ.get("SERVER_SOFTWARE"))
    return None


def has_connection(environ: Mapping[str, Any]) -> bool:
    """Whether `Connection.of` was called for *environ*, as every stream of the request does."""
    return _CACHE_KEY in environ


def _is_alone(environ: Mapping[str, Any]) -> bool:
    """Whether a server answers one request at a time in this process.

    The test clients of Flask, Werkzeug and others call the app themselves, and say of
    themselves what a server of that kind says. A server has a name.
    """
    if environ.get("wsgi.multithread", True):
        return False
    name = environ.get("SERVER_SOFTWARE")
    if name is None:
        return "uwsgi.version" in environ
    # Werkzeug's server makes a process for each request instead.
    return not (environ.get("wsgi.multiprocess") and str(name).startswith("Werkzeug/"))


def _is_socket(value: Any) -> bool:
    return hasattr(value, "setsockopt") and _fileno(value) >= 0


def _fileno(sock: Any) -> int:
    try:
        return -1 if sock is None else int(sock.fileno())
    except (OSError, ValueError):
        return -1


def _set(sock: Any, options: tuple[_Option, ...]) -> None:
    for option in options:
        try:
            sock.setsockopt(*option)
        except OSError:  # a Unix socket has no no-delay, and a dead socket no options
            pass


def _peer_has_left(fd: int) -> bool:
    if fd < 0:
        return True
    if _poll is not None and hasattr(select, "POLLRDHUP"):
        poll = _poll()
        poll.register(fd, select.POLLRDHUP)
        return bool(poll.poll(0))
    try:
        with _Socket(fileno=os.dup(fd)) as raw:
            return not raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _shutdown(sock: Any) -> None:
    # Use the bare descriptor. The shutdown() of a TLS socket drops its TLS state, and the
    # server would then send its next bytes as plain text.
    fd = _fileno(sock)
    if fd >= 0:
        raw = None
        try:
            # The given family and type do not matter. Without them Python asks the kernel.
            raw = _Socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
            raw.shutdown(socket.SHUT_RDWR)
        except OSError:  # not connected any more
            pass
        finally:
            if raw is not None:
                raw.detach()
