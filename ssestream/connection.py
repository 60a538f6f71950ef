"""The client's socket behind a WSGI request: find it, tune it, watch it, cut it.

WSGI has no word for "the client has left": a server notices when it writes,
and mostly at the second write. The kernel knows at once. So each home has one
epoll that waits for nothing but the peer's FIN or RST (``EPOLLRDHUP``), and one
hub watcher on that epoll. Bytes that arrive, a pipelined request for example,
are not waited for: they neither wake anybody nor look like a close, and they
are never read.

Where a system has no such epoll, a hub watcher on the socket itself peeks
(``MSG_PEEK``) without consuming. A request pipelined there hides the departure
behind it, so that the next write finds it.
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

from .events import lane_of
from .hub import Home, logger, new_lock
from .peer import unread


def _plain(module: str, name: str) -> Any:
    """What a monkey-patched process had under this name, or None where there is none."""
    try:
        return monkey.get_original(module, name)
    except AttributeError:
        return None


# Their gevent forms wait, and waiting is what we do elsewhere; epoll has none
# at all and is taken away.
_Socket: Any = _plain("socket", "socket")
#: And that of the interpreter itself, which is smaller.
SocketType: Any = _plain("socket", "SocketType")
#: For ``send()``: a client that has just left must not end the process with a signal.
SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)

_poll: Any = _plain("select", "poll")
_epoll: Any = _plain("select", "epoll")

# Where servers put the socket: gunicorn's gevent, gthread and sync workers,
# its gevent_pywsgi worker, Werkzeug's development server.
_ENVIRON_KEYS = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")

# gunicorn marks a request that came over HTTP/2 with this. Its socket carries
# other streams beside ours, so it is not ours to watch or to cut.
_HTTP2_KEY = "gunicorn.http2.send_trailers"

_CACHE_KEY = "ssestream.connection"

#: Bytes that the kernel may have for a client and not have sent yet. It would
#: take megabytes for one that never reads, and nothing in them could be
#: dropped, counted or taken back; what is on its way is not bounded by this.
IN_KERNEL = 16 * 1024

# Behind a proxy the address is text of a header, which the client may have written.
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{1,45}(%[\w.-]{1,20})?", re.ASCII)

#: Characters of anything else in the place of an address that go into the log.
SHOWN = 80

# Of a struct tcp_info, up to the last field that is asked for.
_INFO_SIZE = 216

# Level, option, value.
_Option = tuple[int, int, int]


def _tcp(**values: int) -> tuple[_Option, ...]:
    """Options of TCP by their names, those of them that this system has."""
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
    """For `Connection.give_up_after`: mostly the same for all."""
    return _tcp(
        TCP_USER_TIMEOUT=max(1, round(seconds * 1000)),
        TCP_KEEPIDLE=max(1, round(seconds / 2)),
        TCP_KEEPINTVL=max(1, round(seconds / 6)),
        TCP_KEEPCNT=3,
    )


class Standing(NamedTuple):
    """How far a peer has got with what it is sent."""

    #: Bytes that this kernel has and the peer has not acknowledged; None where unknown.
    unsent: int | None
    #: A number that grows with every byte that the peer has got; None where unknown.
    acknowledged: int | None
    #: Seconds since the peer last acknowledged anything, if only that it has no room.
    silent: float


class Owner(Protocol):
    """Whose client it is. Not a function: a method would be one more object for each."""

    def _client_left(self) -> None: ...


class Connection:
    """What is known of the client of one request; most of it may be unknown.

    It keeps the socket, never the environ. ``reachable`` says whether there is
    a socket to watch; where there is none, a departed client is found by
    writing to it.
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
        #: Whether the response's end shows in its framing. Without that
        #: (HTTP/1.0) only the connection's end tells the client.
        self.delimited = delimited
        #: Whether its server answers nobody else meanwhile, in this process.
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
        """Whether its server has closed the socket, and has not said so.

        The kernel forgets what it was to tell of a descriptor that is closed.
        """
        return self._sock is not None and _fileno(self._sock) < 0

    @property
    def name(self) -> str:
        """For the log: who asked for what. No query, which may hold secrets.

        What the client may have chosen is escaped, and cannot look like another entry.
        """
        client = self._client or "a client"
        if self._client and not _ADDRESS.fullmatch(client):
            client = repr(client[:SHOWN])
        return client if self._path is None else f"{client} {self._path!r}"

    @classmethod
    def of(cls, environ: dict[str, Any]) -> "Connection":
        """The connection behind a WSGI *environ*, tuned as Node's ssestream does.

        Keep-alive on, no-delay on, no timeout. The same object for the same
        request.
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
            not environ.get("wsgi.multithread", True),
            lane_of(environ).lock,
        )
        connection._tune()
        environ[_CACHE_KEY] = connection
        return connection

    def watch(self, home: Home, owner: Owner) -> None:
        """Tell *owner* once, in the loop of *home*, when the peer has left.

        Not after `release`.
        """
        if home.is_lost:
            return
        with self._lock:
            fd = _fileno(self._sock)
            if fd < 0 or self._owner is not None:
                return
            self._fd = fd
            self._owner = owner
            self._watch = _watch_of(home)
            self._watch.add(fd, self)

    def instead(self, owner: Owner) -> None:
        """Tell *owner* then, and not whom `watch` was given, if the peer is still there."""
        with self._lock:
            if self._owner is not None:
                self._owner = owner

    def release(self, cut: bool = False) -> None:
        """Forget the socket, which is the server's to close from now on.

        With *cut* it is shut down first, both ways, so that a send that is
        stuck in it fails at once and nothing more is read from it.
        """
        with self._lock:
            sock, self._sock = self._sock, None
            self._owner = self._on_writable = None
            if self._watch is not None:
                self._watch.remove(self._fd, self)
                self._watch = None
            # Under the lock: whoever releases last must not find that the
            # server has closed the socket and given its number to another.
            if cut:
                _shutdown(sock)

    def take_over(self) -> Any:
        """The socket, taken from the server, which is left with a closed one.

        None where it cannot be: not over TLS, whose state is the server's. It does not
        block. It is watched and cut as before; whoever took it closes it, after
        `release`.
        """
        with self._lock:
            sock = self._sock
            if sock is None or isinstance(sock, ssl.SSLSocket):
                return None
            # Its number stays, and with that the watch.
            own = SocketType(-1, socket.SOCK_STREAM, 0, sock.detach())
            own.setblocking(False)
            self._sock = own
        return own

    def when_writable(self, on_writable: Callable[[], object]) -> None:
        """Call *on_writable* once, in the loop of its watch, when more may be sent."""
        with self._lock:
            self._on_writable = on_writable
            if self._watch is not None:
                self._watch.await_room(self._fd, self)

    def give_up_after(self, seconds: float) -> None:
        """Let the kernel close it once the peer has not answered for *seconds*.

        With something on its way the kernel sends that again and again
        (``TCP_USER_TIMEOUT``), without it sends probes (keep-alive), whose last is
        unanswered at the same time. Where a system lacks one of them, it has
        its own idea of it.
        """
        self._set(_giving_up(seconds))

    def bear_with(self) -> None:
        """The peer does answer, if only slowly, which the kernel would not forgive.

        To ``TCP_USER_TIMEOUT`` a window that stays small is as no answer.
        """
        self._set(_tcp(TCP_USER_TIMEOUT=0))

    def _set(self, options: tuple[_Option, ...]) -> None:
        with self._lock:
            if self._sock is not None:
                _set(self._sock, options)

    def written(self) -> int | None:
        """Bytes that the kernel was given for the peer so far; None where unknown."""
        info = self._info()
        if info is None:
            return None
        # See struct tcp_info of linux/tcp.h.
        (not_sent,) = struct.unpack_from("I", info, 144)
        sent, again = struct.unpack_from("QQ", info, 200)
        return int(not_sent + sent - again)

    def standing(self) -> Standing:
        """What the kernel knows of how the peer takes what it is sent."""
        info = self._info()
        if info is None:
            return Standing(self._unsent(), None, 0.0)
        # See struct tcp_info of linux/tcp.h.
        (silent,) = struct.unpack_from("I", info, 56)
        (acknowledged,) = struct.unpack_from("Q", info, 120)
        return Standing(self._unsent(), acknowledged, silent / 1000)

    def unread(self) -> int | None:
        """Bytes that the peer's kernel has and the peer has not read; None where unknown."""
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
        # It is shorter before Linux 4.19.
        return info if len(info) == _INFO_SIZE else None

    def _unsent(self) -> int | None:
        with self._lock:
            fd = _fileno(self._sock)
            if fd < 0:
                return None
            try:
                # SIOCOUTQ, which has the number of TIOCOUTQ.
                answer = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0")
            except OSError:
                return None
            return int.from_bytes(answer, sys.byteorder)

    def cut(self) -> None:
        """Shut the connection down, both ways, and go on watching nothing."""
        self.release(cut=True)

    def _has_room(self) -> None:
        with self._lock:
            on_writable, self._on_writable = self._on_writable, None
        if on_writable is not None:
            on_writable()

    def _hang_up(self) -> None:
        with self._lock:
            # The report may be old: of the last owner of this descriptor.
            owner = self._owner
            if owner is None or not _peer_has_left(_fileno(self._sock)):
                return
            self._owner = None
        owner._client_left()

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
    #: Reported once, and not again before it is asked for again.
    _DEPARTURE = select.EPOLLRDHUP | select.EPOLLONESHOT


class _Watch:
    """One home's wait for hang-ups, however many connections it has."""

    def __init__(self, home: Home) -> None:
        self._connections: dict[int, Connection] = {}
        # So that table and epoll agree about who owns a descriptor.
        self._lock = new_lock()
        self._epoll = _epoll()
        self._watcher = home.loop.io(self._epoll.fileno(), 1)
        # A loop is not kept running for the sake of clients who may leave.
        self._watcher.ref = False
        home.call(self._watcher.start, self._ready)

    def add(self, fd: int, connection: Connection) -> None:
        with self._lock:
            self._connections[fd] = connection
            try:
                self._epoll.register(fd, _DEPARTURE)
            except FileExistsError:  # its number's last owner was closed unannounced
                self._epoll.modify(fd, _DEPARTURE)

    def remove(self, fd: int, connection: Connection) -> None:
        with self._lock:
            if self._connections.get(fd) is connection:
                del self._connections[fd]
                try:
                    self._epoll.unregister(fd)
                except OSError:  # closed already, and so forgotten by the kernel
                    pass

    def await_room(self, fd: int, connection: Connection) -> None:
        with self._lock:
            if self._connections.get(fd) is connection:
                self._epoll.modify(fd, _DEPARTURE | select.EPOLLOUT)

    def lose(self, home: Home) -> None:
        """This process is a job. What the kernel reports is for the parent."""
        connections, self._connections = self._connections, {}
        self._lock = new_lock()
        if home.here():  # the loop of another thread does not run any more
            self._watcher.stop()
        # The parent has it, too, and a change to it would be one for the parent.
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
                # The others are not reported again.
                logger.exception("%s: what its socket reported could not be told", connection.name)

    def _tell(self, connection: Connection, fd: int, events: int) -> None:
        # Whatever is reported beside room is the peer's FIN or worse. Once is
        # enough of that, or the loop would spin until the release.
        if events & ~select.EPOLLOUT:
            connection._hang_up()
            return
        with self._lock:
            if self._connections.get(fd) is connection:
                self._epoll.modify(fd, _DEPARTURE)
        connection._has_room()


class _PeekWatch:
    """The same where there is no epoll: a hub watcher for each connection.

    Each on a descriptor of its own, as a server may close its own before the
    loop has stopped to watch; libev ends the process for that.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._watchers: dict[int, tuple[Connection, Any]] = {}

    def add(self, fd: int, connection: Connection) -> None:
        watcher = self._home.loop.io(os.dup(fd), 1)
        watcher.ref = False
        _, stale = self._watchers.get(fd, (None, None))
        self._watchers[fd] = (connection, watcher)
        if stale is not None:  # its number's last owner was closed unannounced
            self._drop(stale)
        self._home.call(self._start, fd, connection)

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
        watcher = self._home.loop.io(os.dup(fd), 2)
        watcher.ref = False

        def ready() -> None:
            _dispose(watcher)
            connection._has_room()

        self._home.call(watcher.start, ready)

    def lose(self, home: Home) -> None:
        """See `_Watch.lose`."""
        watchers, self._watchers = self._watchers, {}
        if home.here():
            for _, watcher in watchers.values():
                _dispose(watcher)
        _let_go_of(watchers)

    def _drop(self, watcher: Any) -> None:
        # A watcher must be stopped before it is forgotten, in its own thread.
        if self._home.here():
            _dispose(watcher)
        else:
            self._home.call(_dispose, watcher)

    def _watcher_of(self, fd: int, connection: Connection) -> Any:
        owner, watcher = self._watchers.get(fd, (None, None))
        return watcher if owner is connection else None

    def _ready(self, fd: int, connection: Connection) -> None:
        watcher = self._watcher_of(fd, connection)
        if watcher is not None:
            # Readable for good, whether by a FIN or by a request behind: once
            # is enough, and any more would spin.
            watcher.stop()
            if _peer_has_left(watcher.fd):
                connection._hang_up()


_watches: "weakref.WeakKeyDictionary[Home, Any]" = weakref.WeakKeyDictionary()
_watches_lock = new_lock()


def _watch_of(home: Home) -> Any:
    with _watches_lock:
        watch = _watches.get(home)
        if watch is None:
            watch = _watches[home] = _PeekWatch(home) if _epoll is None else _Watch(home)
        return watch


def _after_fork() -> None:
    # A thread of the parent may have held it.
    global _watches_lock
    _watches_lock = new_lock()
    for home, watch in list(_watches.items()):
        if home.is_lost:
            watch.lose(home)


os.register_at_fork(after_in_child=_after_fork)


def _let_go_of(fds: Iterable[int]) -> None:
    """Of each of *fds*, a copy of a descriptor of the parent, keep the number and nothing else.

    A copy keeps the client's connection when the parent has closed its own, and a server's
    greenlet that was sending when the process forked sends here what the parent sends, too.
    A number that was free would be given to the next file, which is closed then as the socket.
    """
    try:
        # Not connected, so that whoever sends to it is told so.
        with _Socket() as nobody:
            for fd in fds:
                os.dup2(nobody.fileno(), fd, inheritable=False)
    except OSError:
        logger.exception("a job has copies of its parent's sockets, and keeps them")


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
    # gevent.pywsgi and wsgiref hand out the file that they read the body
    # from; a socket is at the bottom of it.
    source = environ.get("wsgi.input")
    for reader in (getattr(source, "rfile", None), source):
        sock = getattr(getattr(reader, "raw", None), "_sock", None)
        if _is_socket(sock):
            return sock
    logger.debug("no client socket in the environ of %r", environ.get("SERVER_SOFTWARE"))
    return None


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
        except OSError:  # a Unix socket has no no-delay; a dead one nothing
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
    # On the bare descriptor: a TLS socket's own shutdown() forgets its TLS,
    # and what the server then sends would leave in the clear.
    fd = _fileno(sock)
    if fd >= 0:
        raw = None
        try:
            # Of any kind, or Python asks the kernel of which this one is.
            raw = _Socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
            raw.shutdown(socket.SHUT_RDWR)
        except OSError:  # not connected any more
            pass
        finally:
            if raw is not None:
                raw.detach()
