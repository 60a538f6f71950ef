"""Warn of events that are published to ``memory://`` in a process where no client gets them.

Each process has its own ``memory://``. Publishing in another process than the server's succeeds,
and nothing is delivered. Three cases are recognised, and each is logged once:

* One of several processes of a server publishes. Clients of the others get nothing.
* A job publishes: a child process of the server's, or a worker of a task queue.
* A script or a command publishes, and until its end no stream follows a channel there.

A server may publish before its first client comes. So a process that is a server, or may become
one, does not count as a script.
"""

import atexit
import os
import socket
import stat
import sys
from typing import Any, Literal

import flask
from gevent import monkey

from ..http.diagnosis import warn_of_memory
from ..http.view import current_request
from ..runtime.clock import clock
from ..runtime.forking import process
from ..runtime.frames import module_of, of_thread, stack, worker_of_gunicorn

#: Seconds for which a script may publish before a stream follows. Some scripts never end.
LONG = 10.0

#: Seconds between two looks at whether a script has become a server.
LOOK = 0.5

#: Modules that run a server, by the beginning of their names.
_SERVERS = (
    "cheroot.",
    "gevent.baseserver",
    "gevent.pywsgi",
    "granian.",
    "gunicorn.",
    "hypercorn.",
    "socketserver",
    "tornado.",
    "uvicorn.",
    "waitress.",
    "werkzeug.serving",
    "wsgiref.simple_server",
)

#: Modules that only a process with a server imports.
_OF_SERVERS = (
    "bjoern",
    "cheroot",
    "gevent.pywsgi",
    "granian",
    "gunicorn.workers.base",
    "hypercorn",
    "mod_wsgi",
    "tornado.httpserver",
    "uvicorn",
    "uwsgi",
    "waitress",
    "wsgiref.simple_server",
)

#: Modules of task queues. A process in which one of them runs code is a job.
_QUEUES = ("billiard.", "celery.concurrency", "celery.worker", "dramatiq.worker", "rq.worker")

#: Modules that run tests. A test may look at what was published without following it.
_TESTS = ("_pytest.", "unittest.")

#: Adapters that set ``wsgi.multiprocess`` in every process, so that it says nothing.
_UNKNOWING = ("a2wsgi", "asgiref.wsgi", "starlette.middleware.wsgi", "uvicorn.middleware.wsgi")

#: Where werkzeug's server keeps its socket for its reloader. A child process inherits it.
_SERVER_FD = "WERKZEUG_SERVER_FD"
_inherited_fd = os.environ.get(_SERVER_FD)

_Socket: Any = monkey.get_original("socket", "socket")


class Audience:
    """Whether the events that one `Channels` publishes to ``memory://`` can reach clients."""

    def __init__(self) -> None:
        # Whether the parent of this process was the server. Its streams are not in this process.
        self._was_parent_server = False
        # Whether a view has forked this process.
        self._is_of_view = False
        self._begin()

    def _begin(self) -> None:
        # Whether this process is the server: a stream has followed, or a request has published.
        self._is_server = False
        # Whether this process has read the history of a channel.
        self._has_read = False
        self._has_warned = False
        self._has_looked_for_several = False
        # Whether this process was a child at the last look for a job; None before the first.
        self._looked_as_child: bool | None = None
        # When a script first published, if this process looks like one.
        self._script_since: float | None = None
        self._look_again_at = 0.0

    def forked(self) -> None:
        """Begin anew in a child process, where no stream follows a channel yet."""
        self._was_parent_server = self._was_parent_server or self._is_server
        self._is_of_view = self._is_of_view or flask.has_request_context()
        self._begin()

    def read(self) -> None:
        """Note that this process reads history. A script may read its own events."""
        self._has_read = True
        self._script_since = None

    def followed(self) -> None:
        """Note that a stream of this process follows a channel. May log a warning."""
        self._is_server = True
        self._script_since = None
        if not self._has_warned and flask.has_request_context() and _says_several():
            self._warn("several")

    def published(self) -> None:
        """Note that an event was published. May log a warning."""
        if self._has_warned:
            return
        # Check for a job first: a job that a view forks has a copy of the request's context, and
        # is not the server.
        if not (self._is_server or process.serves) and self._is_in_job():
            self._warn("job")
        elif flask.has_request_context():
            self._is_server = True
            self._script_since = None
            if _says_several():
                self._warn("several")
        elif _is_one_of_several() or self._finds_several():
            self._warn("several")
        elif not (self._is_server or self._has_read or process.serves):
            self._published_by_script()

    def ended(self) -> None:
        """Note that the script has ended, or has published for long. May log a warning."""
        if self._script_since is not None and not (process.serves or _has_served()):
            self._warn("script")

    def _warn(self, cause: Literal["several", "job", "script"]) -> None:
        self._has_warned = True
        self._script_since = None
        warn_of_memory(cause)

    def _is_in_job(self) -> bool:
        if process.is_job or self._is_of_view:
            return True
        # A child that was started by "spawn" imports modules before multiprocessing knows that
        # the process is a child.
        is_child = self._was_parent_server or _is_child_of_multiprocessing()
        if is_child is self._looked_as_child:
            return False
        self._looked_as_child = is_child
        if is_child:
            return not _runs_server()
        return any(module_of(frame).startswith(_QUEUES) for frame in of_thread())

    def _finds_several(self) -> bool:
        """Whether gunicorn has several workers. Works before the first request, too."""
        if self._has_looked_for_several:
            return False
        self._has_looked_for_several = True
        for worker in [*process.workers, worker_of_gunicorn()]:
            count = getattr(getattr(worker, "cfg", None), "workers", 1)
            if isinstance(count, int) and count > 1:
                process.has_others()
                return True
        return False

    def _published_by_script(self) -> None:
        now = clock.real()
        if now < self._look_again_at or "_pytest" in sys.modules or _is_loading_or_testing():
            return
        self._look_again_at = now + LOOK
        if _runs_server():
            # A server: its first client may come later.
            self._is_server = True
            self._script_since = None
        elif self._script_since is None:
            self._script_since = now
            _scripts.add(self)
        elif now - self._script_since > LONG:
            self.ended()


#: The audiences of processes that look like scripts.
_scripts: set[Audience] = set()


@atexit.register
def _at_exit() -> None:
    for audience in list(_scripts):
        audience.ended()


os.register_at_fork(after_in_child=_scripts.clear)


def _runs_server() -> bool:
    """Whether a server runs in this process, or is about to."""
    return _listens() or any(module_of(frame).startswith(_SERVERS) for frame in of_thread())


def _says_several() -> bool:
    """Whether the server of the current request says that it has several processes."""
    if current_request().environ.get("wsgi.multiprocess"):
        process.has_others()
    return _is_one_of_several()


def _is_one_of_several() -> bool:
    if not process.is_one_of_several:
        return False
    return sys.modules.keys().isdisjoint(_UNKNOWING) or _is_child_of_multiprocessing()


def _is_child_of_multiprocessing() -> bool:
    multiprocessing = sys.modules.get("multiprocessing.process")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


def _is_loading_or_testing() -> bool:
    """Whether the calling code runs while a module or an app is loaded, or in a test."""
    return any(
        frame.f_code.co_filename.startswith("<frozen importlib")
        or (module_of(frame) == "flask.cli" and frame.f_code.co_name == "load_app")
        or module_of(frame).startswith(_TESTS)
        for frame in stack(sys._getframe())
    )


def _has_served() -> bool:
    """Whether this process has had a server, which may be gone."""
    return (
        not sys.modules.keys().isdisjoint(_OF_SERVERS)
        or os.environ.get(_SERVER_FD) != _inherited_fd
        or os.environ.get("WERKZEUG_RUN_MAIN") == "true"
    )


def _listens() -> bool:
    """Whether this process has a socket on which it accepts connections."""
    for fd in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                sock = _Socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
                try:
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        return True
                finally:
                    sock.detach()
        except OSError:
            continue
    return False
