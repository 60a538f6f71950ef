"""Forks: a child process must not serve its parent's clients.

The child of a process that runs gevent has copies of all greenlets and of all watchers. The
copies run on in the child, with the sockets of the same clients. So each room of this
package registers a function with ``os.register_at_fork``. In the child, the function drops
everything that belongs to the parent.

There are two kinds of children. gunicorn with ``--preload`` forks its workers from a process
that has loaded the app. The app's modules may have made streams or timers for the workers
there. Such a parent has served no request yet, and forks in its main greenlet. Every other
child is called a job here.
"""

import contextlib
import gc
import os
import socket
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import greenlet
from gevent import monkey

from .weak import snapshot

_new_lock: Any = monkey.get_original("_thread", "RLock")
_socketpair: Any = monkey.get_original("socket", "socketpair")


class LeftBehind(NamedTuple):
    """Things of one kind that run in the parent of this process only."""

    #: A name for the kind; what an app did to begin such a thing, and should do again.
    what: str
    how: str
    again: str
    names: list[str]


class _Process:
    """The state of this process: does it serve clients, or is it a job?"""

    def __init__(self) -> None:
        #: Whether the process answers requests, or is about to.
        self.serves = False
        #: Whether a request or its server has said that there are processes beside this one.
        self.is_one_of_several = False
        #: Whether the process is a job: a child of a process that serves.
        self.is_job = False
        #: How many jobs there are in the line of processes from the first to this one.
        self.life = 0
        #: The greenlet that forked, in a child. All other greenlets are copies of the parent's.
        self.survivor: Any = None
        #: The gunicorn worker that listens in this process.
        self.workers: list[Any] = []
        # gevent's servers, as far as the garbage collector does not show them any more.
        self._hidden_servers: list[Any] = []
        #: Things that run in the parent only, though this process is no job.
        self.left_behind: list[LeftBehind] = []
        self._silence: tuple[socket.socket, socket.socket] | None = None

    def begin(self) -> bool:
        """Note that this process answers a request. Return whether it is the first one."""
        is_first, self.serves = not self.serves, True
        return is_first

    def listens(self, worker: Any) -> None:
        """Note that the gunicorn *worker* listens in this process; None is no worker."""
        if worker is not None:
            self.workers.append(worker)

    def before_freeze(self) -> None:
        """Called before ``gc.freeze()``, which hides objects from the garbage collector."""
        self._hidden_servers = _gevent_servers()

    def has_others(self) -> None:
        """Note that there are processes beside this one."""
        self.is_one_of_several = True

    def leave_behind(self, what: str, how: str, again: str, names: Iterable[str]) -> None:
        """Note the *names* of things that run in the parent only (see `LeftBehind`)."""
        if names := sorted(set(names)):
            self.left_behind.append(LeftBehind(what, how, again, names))

    def take_left_behind(self) -> list[LeftBehind]:
        """What was noted with `leave_behind`, once."""
        left_behind, self.left_behind = self.left_behind, []
        return left_behind

    def fork(self) -> None:
        """Called in the child of a fork."""
        self.survivor = greenlet.getcurrent()
        if self.serves or self.survivor.parent is not None:
            self.serves = False
            self.is_job = True
            self.life += 1
            self._deafen()

    def _deafen(self) -> None:
        """Replace the listening sockets, so that only the parent accepts connections.

        Without this, the job would accept connections, and keep the port open when the parent
        has closed it.
        """
        workers, self.workers = self.workers, []
        for worker in workers:
            for sock in worker.sockets:
                self.silence(sock)
        servers, self._hidden_servers = self._hidden_servers, []
        for server in [*servers, *_gevent_servers()]:
            # The app may have bound a server for the job itself, and not started it.
            with contextlib.suppress(AttributeError):  # not made to the end
                if server.started:
                    self.silence(server.socket)
        # uWSGI makes this module in its own processes, and has bare descriptors. With its gevent
        # loop, a job would go on to accept.
        for fd in getattr(sys.modules.get("uwsgi"), "sockets", ()):
            self._silence_descriptor(fd)

    def silence(self, sock: Any) -> None:
        """Called in the child of a fork: let nothing arrive at the copy of the parent's *sock*.

        A frame of a greenlet or thread that does not run here may hold the copy for ever. So the
        copy is not closed, but its descriptor becomes another socket.
        """
        self._silence_descriptor(sock.fileno())

    def _silence_descriptor(self, fd: int) -> None:
        with contextlib.suppress(OSError):  # no descriptors
            if fd >= 0:
                # Nothing ever arrives at this socket: its other end stays open and silent.
                self._silence = self._silence or _socketpair()
                os.dup2(self._silence[0].fileno(), fd, inheritable=False)


def _gevent_servers() -> list[Any]:
    """All servers of gevent in this process, also those that have had no request yet.

    gevent keeps no list of its servers. The garbage collector knows them by their classes. The
    search takes 0.2 microseconds for each object of the process.
    """
    if (baseserver := sys.modules.get("gevent.baseserver")) is None:
        return []
    classes = [baseserver.BaseServer]
    for each in classes:
        classes += each.__subclasses__()
    return [each for each in gc.get_referrers(*classes) if type(each) in classes]


process = _Process()


class ForkSafe(Protocol):
    """An object that must be in a consistent state when the process forks."""

    @property
    def lock(self) -> Any:
        """Held for a few instructions only. A thread that holds it waits for no other lock."""

    def before_fork(self) -> None:
        """Called before the fork, under the lock."""

    def after_fork(self) -> None:
        """Called in the child, to make the lock anew: a thread that is not there may hold it."""


class AtFork:
    """Holds the locks of all *members* while a thread forks.

    Threads fork one after another: a thread cannot release the locks of another thread.
    """

    def __init__(self, members: Iterable[ForkSafe]) -> None:
        self._members = members
        self._turn = _new_lock()
        # The locked members of the forking thread, as a stack: a greenlet may fork while
        # another greenlet of the thread is forking.
        self._held: list[list[ForkSafe]] = []
        os.register_at_fork(
            before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child
        )

    def _before(self) -> None:
        self._turn.acquire()
        held: list[ForkSafe] = []
        # Python forks even if this raises, and then calls `_in_parent`.
        self._held.append(held)
        for each in self._all():
            each.lock.acquire()
            held.append(each)
            each.before_fork()

    def _in_parent(self) -> None:
        for each in self._held.pop():
            each.lock.release()
        self._turn.release()

    def _in_child(self) -> None:
        self._held = []
        self._turn = _new_lock()
        for each in self._all():
            each.after_fork()

    def _all(self) -> list[ForkSafe]:
        return snapshot(lambda: self._members)


# Registered first: the functions of all other rooms ask whether this process is a job.
os.register_at_fork(after_in_child=process.fork)
