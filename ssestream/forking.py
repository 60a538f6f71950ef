"""What a fork leaves to the child: nothing of what its parent serves.

A child of a process that runs gevent has copies of all greenlets, and of all that the
loop waits for. They go on in the child, and have the sockets of the same clients. So
after a fork each part of this package forgets in the child what is its parent's (see the
functions that are given to ``os.register_at_fork`` elsewhere).

Not every fork makes such a child. gunicorn with ``--preload`` forks its workers from a
process that has loaded the app, and an app's module may have begun a stream or a timer there
for each of them. Such a process has served nobody yet, and forks where its program began,
not in a greenlet of its own. Every other fork is that of a job.
"""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import greenlet
from gevent import monkey

_new_lock: Any = monkey.get_original("_thread", "RLock")
_socketpair: Any = monkey.get_original("socket", "socketpair")


class _Process:
    """What this process is."""

    def __init__(self) -> None:
        #: Whether it has begun to answer requests, or is about to.
        self.serves = False
        #: Whether it is a job of a process that serves.
        self.is_job = False
        #: How often that has come about, in this process and those before it.
        self.life = 0
        #: The greenlet that goes on in it. All others are copies of the parent's.
        self.survivor: Any = None
        #: The servers of gevent's, or the worker of gunicorn's, that listen in it.
        self.servers: list[Any] = []
        self._silence: tuple[socket.socket, socket.socket] | None = None

    def begin(self) -> None:
        """It answers a request, in the calling greenlet."""
        if not self.serves:
            self.serves = True
            self._find_server()

    def _find_server(self) -> None:
        """Find the server of gevent's, or the worker of gunicorn's, that calls the app.

        A request knows neither.
        """
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            caller = frame.f_locals.get("self")
            module = type(caller).__module__
            if module.startswith(("gevent.pywsgi", "gunicorn.workers.")):
                server = caller if hasattr(caller, "sockets") else getattr(caller, "server", None)
                if server is not None:
                    self.servers.append(server)
                    return

    def fork(self) -> None:
        """This is a child now."""
        self.survivor = greenlet.getcurrent()
        if self.serves or self.survivor.parent is not None:
            self.serves = False
            self.is_job = True
            self.life += 1
            self._deafen()

    def _deafen(self) -> None:
        """Whoever connects is answered by the parent, also once this is the last to listen."""
        servers, self.servers = self.servers, []
        try:
            # Nothing ever comes to it, as long as its other end is open and silent.
            self._silence = deaf, _ = _socketpair()
            for server in servers:
                for sock in server.sockets if hasattr(server, "sockets") else [server.socket]:
                    if sock.fileno() >= 0:
                        os.dup2(deaf.fileno(), sock.fileno(), inheritable=False)
        except (OSError, AttributeError):  # no descriptors; a server that has stopped
            pass


process = _Process()


class Held(Protocol):
    """What must not be in the middle of something when the process forks."""

    #: Held for a few instructions, and while it is held no other is waited for.
    _lock: Any

    def before_fork(self) -> None:
        """Under the lock."""

    def after_fork(self) -> None:
        """In the child, whose locks may all be held by threads that are not there."""


class AtFork:
    """Holds the locks of all *members* while a thread forks.

    Several threads may fork at the same time. One after the other does, as a lock that one
    of them has taken could not be given back by another.
    """

    def __init__(self, members: "Sequence[Held] | Any") -> None:
        self._members = members
        self._turn = _new_lock()
        # Of the thread whose turn it is. A greenlet may fork in the midst of another's fork.
        self._held: list[list[Held]] = []
        os.register_at_fork(
            before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child
        )

    def _before(self) -> None:
        self._turn.acquire()
        held = list(self._all())
        for each in held:
            each._lock.acquire()
            each.before_fork()
        self._held.append(held)

    def _in_parent(self) -> None:
        for each in self._held.pop():
            each._lock.release()
        self._turn.release()

    def _in_child(self) -> None:
        self._held = []
        self._turn = _new_lock()
        for each in self._all():
            each._lock = _new_lock()
            each.after_fork()

    def _all(self) -> Iterator[Held]:
        return iter(list(self._members))


# Before all others, which ask what has become of this process.
os.register_at_fork(after_in_child=process.fork)
