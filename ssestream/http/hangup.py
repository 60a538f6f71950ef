"""Know at once that the peer of a connection has left.

WSGI does not tell an app that the client has left. A server notices a departure when it
writes, and mostly at the second write. The kernel knows at once. So each loop has one epoll
that waits only for the peer's FIN or RST (``EPOLLRDHUP``), and one hub watcher on that epoll.
The epoll does not wait for arriving bytes, such as a pipelined request. They wake nothing,
do not look like a departure, and are never read.

On systems without such an epoll, a hub watcher on the socket itself peeks (``MSG_PEEK``)
without reading. There a pipelined request hides the departure behind it, and the next write
finds the departure.
"""

import os
import select
import socket
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gevent import monkey

from ..runtime.loop import Loop, logger
from ..runtime.threads import new_lock
from ..runtime.weak import snapshot
from .lent_socket import LentSocket


def _plain(module: str, name: str) -> Any:
    """The unpatched *name* of *module*, or None if this system has none."""
    try:
        return monkey.get_original(module, name)
    except AttributeError:
        return None


#: The unpatched class of sockets: gevent's class waits in the hub, which must not happen here.
Socket: Any = _plain("socket", "socket")
# gevent's poll waits in the hub, too. gevent has no epoll, and removes Python's.
_poll: Any = _plain("select", "poll")
_epoll: Any = _plain("select", "epoll")


class Owner(Protocol):
    """The object that is told when the client has left.

    It is not a function, as a bound method would be one more object for each stream.
    """

    def connection_lost(self) -> None: ...


class Watched:
    """A connection, as far as its watch knows it."""

    __slots__ = ("_fd", "_lock", "_on_writable", "_owner", "_sock", "_watch")

    _fd: int
    _lock: Any
    _sock: Any
    _owner: Owner | None
    _on_writable: Callable[[], object] | None
    _watch: "_Watch | _PeekWatch | None"

    @property
    def name(self) -> str:
        """The name of the connection, for the log."""
        raise NotImplementedError

    def watch(self, loop: Loop, owner: Owner) -> None:
        """Tell *owner* once, in the loop of *loop*, when the peer has left.

        After `release` it is not told any more.
        """
        if loop.is_copy:
            return
        with self._lock:
            if self._owner is not None:
                return
            sock = self._sock
            # The kernel reports nothing about a descriptor that the server has closed.
            fd = sock.copy_descriptor() if type(sock) is LentSocket else fileno(sock)
            if fd < 0:
                return
            self._fd = fd
            self._owner = owner
            self._watch = watch_of(loop)
            self._watch.add(fd, self)

    def replace_owner(self, owner: Owner) -> None:
        """Tell *owner* of the departure, instead of the owner that `watch` was given.

        Does nothing if the first owner was told already.
        """
        with self._lock:
            if self._owner is not None:
                self._owner = owner

    def when_writable(self, on_writable: Callable[[], object]) -> None:
        """Call *on_writable* once, in the loop of its watch, when the socket has room."""
        with self._lock:
            self._on_writable = on_writable
            if self._watch is not None:
                self._watch.await_writable(self._fd, self)

    def became_writable(self) -> None:
        """The socket has room again. Called by the watch."""
        with self._lock:
            on_writable, self._on_writable = self._on_writable, None
        if on_writable is not None:
            on_writable()

    def lent_descriptor(self) -> int:
        """The server's descriptor of a lent socket, of which a copy is watched; -1 for others."""
        return fileno(self._sock) if type(self._sock) is LentSocket else -1

    def hang_up(self) -> None:
        """The peer seems to have left. Called by the watch."""
        with self._lock:
            # The report may be old, from an earlier socket with the same descriptor.
            owner = self._owner
            if owner is None or not _peer_has_left(fileno(self._sock)):
                return
            self._owner = None
        owner.connection_lost()


def fileno(sock: Any) -> int:
    """The descriptor of *sock*; -1 if *sock* is None or closed."""
    try:
        return -1 if sock is None else int(sock.fileno())
    except (OSError, ValueError):
        return -1


def _peer_has_left(fd: int) -> bool:
    if fd < 0:
        return True
    if _poll is not None and hasattr(select, "POLLRDHUP"):
        poll = _poll()
        poll.register(fd, select.POLLRDHUP)
        return bool(poll.poll(0))
    try:
        with Socket(fileno=os.dup(fd)) as raw:
            return not raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


if _epoll is not None:
    #: Reported once. The next report needs another call of ``modify``.
    _DEPARTURE = select.EPOLLRDHUP | select.EPOLLONESHOT


class _Watch:
    """Waits for the departures of all clients of one loop, with one epoll."""

    def __init__(self, loop: Loop) -> None:
        self._connections: dict[int, Watched] = {}
        # Keeps the table and the epoll consistent.
        self._lock = new_lock()
        self._epoll = _epoll()
        # Waiting for departures must not keep a loop running (*ref*).
        self._watcher = loop.libev.io(self._epoll.fileno(), 1, ref=False)
        loop.call(self._watcher.start, self._ready)

    def add(self, fd: int, connection: Watched) -> None:
        with self._lock:
            self._connections[fd] = connection
            try:
                self._epoll.register(fd, _DEPARTURE)
            except FileExistsError:  # an earlier socket of this number was closed without `remove`
                self._epoll.modify(fd, _DEPARTURE)

    def remove(self, fd: int, connection: Watched) -> None:
        with self._lock:
            if self._connections.get(fd) is connection:
                del self._connections[fd]
                try:
                    self._epoll.unregister(fd)
                except OSError:  # closed already: the kernel has forgotten it
                    pass

    def await_writable(self, fd: int, connection: Watched) -> None:
        with self._lock:
            if self._connections.get(fd) is connection:
                self._epoll.modify(fd, _DEPARTURE | select.EPOLLOUT)

    def become_copy(self, loop: Loop) -> None:
        """Drop everything. Called in a job, because the kernel's reports are for the parent."""
        connections, self._connections = self._connections, {}
        self._lock = new_lock()
        if loop.here():  # the job does not have another thread's loop
            self._watcher.stop()
        # The parent shares this epoll. To unregister a socket would change the parent's, too.
        self._epoll.close()
        lent = [connection.lent_descriptor() for connection in connections.values()]
        _let_go_of([*connections, *(fd for fd in lent if fd >= 0)])

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

    def _tell(self, connection: Watched, fd: int, events: int) -> None:
        # Any event but EPOLLOUT says that the peer has sent a FIN, or that the connection is
        # broken. Do not ask for it again: the loop would spin until the release.
        if events & ~select.EPOLLOUT:
            connection.hang_up()
            return
        with self._lock:
            if self._connections.get(fd) is connection:
                self._epoll.modify(fd, _DEPARTURE)
        connection.became_writable()


class _PeekWatch:
    """Does the same on systems without epoll, with a hub watcher for each connection.

    Each watcher has its own copy of the descriptor. A server may close its descriptor while
    the loop still watches it, and then libev would abort the process.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._watchers: dict[int, tuple[Watched, Any]] = {}

    def add(self, fd: int, connection: Watched) -> None:
        watcher = self._loop.libev.io(os.dup(fd), 1, ref=False)
        _, stale = self._watchers.get(fd, (None, None))
        self._watchers[fd] = (connection, watcher)
        if stale is not None:  # an earlier socket of this number was closed without `remove`
            self._drop(stale)
        self._loop.call(self._start, fd, connection)

    def _start(self, fd: int, connection: Watched) -> None:
        watcher = self._watcher_of(fd, connection)
        if watcher is not None:
            watcher.start(self._ready, fd, connection)

    def remove(self, fd: int, connection: Watched) -> None:
        watcher = self._watcher_of(fd, connection)
        if watcher is not None:
            del self._watchers[fd]
            self._drop(watcher)

    def await_writable(self, fd: int, connection: Watched) -> None:
        watcher = self._loop.libev.io(os.dup(fd), 2, ref=False)

        def ready() -> None:
            _dispose(watcher)
            connection.became_writable()

        self._loop.call(watcher.start, ready)

    def become_copy(self, loop: Loop) -> None:
        """See `_Watch.become_copy`."""
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

    def _watcher_of(self, fd: int, connection: Watched) -> Any:
        owner, watcher = self._watchers.get(fd, (None, None))
        return watcher if owner is connection else None

    def _ready(self, fd: int, connection: Watched) -> None:
        watcher = self._watcher_of(fd, connection)
        if watcher is not None:
            # A FIN or a pipelined request makes the socket readable for ever. Look once: any
            # more looks would make the loop spin.
            watcher.stop()
            if _peer_has_left(watcher.fd):
                connection.hang_up()


_watches: "weakref.WeakKeyDictionary[Loop, Any]" = weakref.WeakKeyDictionary()
_watches_lock = new_lock()


def watch_of(loop: Loop) -> Any:
    """The watch of *loop*, made when it is first needed."""
    with _watches_lock:
        watch = _watches.get(loop)
        if watch is None:
            watch = _watches[loop] = _PeekWatch(loop) if _epoll is None else _Watch(loop)
        return watch


def _after_fork() -> None:
    # A thread of the parent may have held the lock.
    global _watches_lock
    _watches_lock = new_lock()
    for loop, watch in snapshot(_watches.items):
        if loop.is_copy:
            watch.become_copy(loop)


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
        with Socket() as nobody:
            for fd in fds:
                os.dup2(nobody.fileno(), fd, inheritable=False)
    except OSError:
        logger.exception("this job cannot drop its copies of its parent's client sockets")


def _dispose(watcher: Any) -> None:
    fd = watcher.fd
    watcher.stop()
    watcher.close()
    os.close(fd)
