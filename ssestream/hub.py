"""Where a stream lives, and who runs what for it.

Watchers and timers belong to one gevent hub, and gevent's objects are safe in
their own hub's thread only. A `Home` is such a hub together with the two ways
to reach it from anywhere: `Home.call` for a few instructions in its loop, and
`Home.spawn` for an app's code, which may block.

Which home?

* In a greenlet: the hub that runs it. That is every request under gunicorn's
  ``gevent`` worker and under ``gevent.pywsgi``.
* On the main thread of a monkey-patched process: the main hub.
* In any other thread (``gthread``, ``sync``, ``flask run``, waitress): one hub
  shared by the process, in a daemon thread of its own that starts when first
  needed. An app's code never runs on it but in a pool of plain threads, as
  it may block.
"""

import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gevent
import greenlet
from gevent import monkey
from gevent.hub import Hub
from gevent.queue import SimpleQueue

logger = logging.getLogger("ssestream")

# The real ones: a lock that is only ever held for a few instructions, among
# real threads, is not helped by switching greenlets.
new_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")
start_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_ThreadQueue: Callable[[], Any] = monkey.get_original("queue", "SimpleQueue")

# Seconds between two chances for the signal handlers of a main thread that waits.
LISTEN = 0.5

# How many handlers and timer callbacks may block at the same time on threaded
# servers. Four times what Python's own executor takes at most by default: a
# handler that waits for a database must not hold up the others.
CALLBACK_THREADS = 128


class Home:
    """One hub, reached from any thread."""

    def __init__(self, hub: Any, pool: ThreadPoolExecutor | None = None) -> None:
        self.hub = hub
        self.loop = hub.loop
        self._ident = hub.thread_ident
        self._pool = pool

    @property
    def cooperative(self) -> bool:
        """Whether an app's code runs on this hub, in greenlets."""
        return self._pool is None

    def here(self) -> bool:
        """Whether the calling thread is the hub's."""
        return bool(_get_ident() == self._ident)

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Run *callback* in the hub's loop, soon; it must not block."""
        if self.here():
            self.loop.run_callback(callback, *args)
        else:
            self.loop.run_callback_threadsafe(callback, *args)

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run *function*, soon, where it may block."""
        if self._pool is not None:
            try:
                self._pool.submit(_logged, function, *args)
            except RuntimeError:  # the interpreter is on its way out
                logger.debug("not run at exit: %r", function)
        elif self.here():
            gevent.spawn(function, *args)
        else:
            self.loop.run_callback_threadsafe(gevent.spawn, function, *args)


class Doorbell:
    """Lets the one thread or greenlet that made it sleep until any other rings."""

    def __init__(self) -> None:
        hub = _hub_of_greenlet()
        self._home = None if hub is None else _home_of(hub)
        self._queue = SimpleQueue() if hub is not None else _ThreadQueue()

    def ring(self) -> None:
        """Wake the sleeper, now or when it next sleeps. From any thread."""
        if self._home is None or self._home.here():
            self._queue.put(None)
        else:
            self._home.call(self._queue.put, None)

    def sleep(self) -> None:
        """Return once for each ring."""
        # gunicorn asks that its signals not interrupt what a request waits for,
        # so a sync worker would hear that it is to stop only when woken.
        timeout = None
        if self._home is None and _in_main_thread():
            timeout = LISTEN
        while True:
            try:
                self._queue.get(timeout=timeout)
                return
            except queue.Empty:
                pass


def current_home() -> Home:
    """The home of what the caller is about to make."""
    hub = _hub_of_greenlet()
    # The main thread of a patched process waits in its hub. A real thread
    # beside it has none that runs, and must not be given one.
    if hub is None and monkey.is_module_patched("threading") and _in_main_thread():
        hub = gevent.get_hub()
    return _service() if hub is None else _home_of(hub)


_homes: "weakref.WeakKeyDictionary[Any, Home]" = weakref.WeakKeyDictionary()
_service_home: Home | None = None
_service_lock = new_lock()


def _hub_of_greenlet() -> Any:
    """The hub that the running greenlet goes back to when it waits, or None."""
    ancestor = greenlet.getcurrent()
    while ancestor is not None:
        if isinstance(ancestor, Hub):
            return ancestor
        ancestor = ancestor.parent
    return None


def _in_main_thread() -> bool:
    # In a patched process these are greenlets' numbers, of which the main
    # thread keeps that of its first. (Its native_id is stale after a fork.)
    return threading.main_thread().ident == threading.get_ident()


def _home_of(hub: Any) -> Home:
    home = _homes.get(hub)
    if home is None:
        home = _homes.setdefault(hub, Home(hub))
    return home


def _service() -> Home:
    global _service_home
    with _service_lock:
        if _service_home is None:
            started = _ThreadQueue()
            start_thread(_serve, (started,))
            hub = started.get()
            # In a patched process its threads are greenlets already.
            pool = None
            if not monkey.is_module_patched("threading"):
                pool = ThreadPoolExecutor(CALLBACK_THREADS, "ssestream")
            _service_home = _homes[hub] = Home(hub, pool)
        return _service_home


def _serve(started: Any) -> None:
    hub = gevent.get_hub()
    # A loop without a watcher would end.
    hub.loop.async_().start(_nothing)
    started.put(hub)
    hub.join()


def _nothing() -> None:
    pass


def _logged(function: Callable[..., object], *args: Any) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("%r failed", function)


def _forget() -> None:
    # Threads do not survive a fork, and what watched the parent's sockets
    # must not answer for the child's.
    global _service_home, _service_lock
    _service_home = None
    _service_lock = new_lock()
    _homes.clear()


os.register_at_fork(after_in_child=_forget)
