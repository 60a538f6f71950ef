"""The gevent hub of a stream, and how to reach the hub from any thread.

Watchers and timers belong to one gevent hub, and gevent's objects are safe only in the
thread of their hub. A `Loop` is one hub with two ways to reach it from any thread:
`Loop.call` runs a few instructions in the hub's loop, and `Loop.spawn` runs an app's code,
which may block.

The loop of a stream depends on where the stream is made:

* In a greenlet: the hub that runs the greenlet. So it is for every request under gunicorn's
  ``gevent`` worker and under ``gevent.pywsgi``.
* On the main thread of a monkey-patched process: the main hub.
* In any other thread (``gthread``, ``sync``, ``flask run``, waitress): one hub for the
  whole process. It has its own daemon thread, which starts when first needed. An app's code
  may block, so it never runs on this hub, but in a pool of plain threads.
"""

import contextlib
import functools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import greenlet
from gevent import monkey
from gevent.hub import Hub, Waiter

from .forking import process
from .preconditions import check_descriptors, refuse_eventlet
from .threads import AGAIN, NO_THREAD, Pool, ThreadQueue, get_ident, new_lock, start_thread
from .waits import join_through
from .weak import snapshot

logger = logging.getLogger("ssestream")

# The calls that the loop runs before it looks at its other events.
CALLS_AT_ONCE = 64


class Task(gevent.Greenlet):  # type: ignore[misc]
    """A greenlet that does not run on in a job that its process forks (see ``forking``)."""

    __slots__ = ()

    #: The `_Process.life` of the greenlet's process. It is on the class, and each life has
    #: its own class: there are many greenlets, and an attribute of each would cost memory.
    life = 0

    def switch(self, *args: Any) -> Any:
        if self.life == process.life or self is process.survivor:
            return super().switch(*args)
        return None

    def throw(self, *args: Any) -> Any:
        if self.life == process.life or self is process.survivor:
            return super().throw(*args)
        return None


_task: type[Task] = Task


class Loop:
    """One hub, reachable from any thread. It must be made in the hub's thread.

    *pool* runs the app's code; without a pool, greenlets of this hub do.
    """

    def __init__(self, hub: Any, pool: Pool | None = None) -> None:
        self.hub = hub
        self.libev = hub.loop
        self.generation = _generation
        #: Whether this is a job's copy of its parent's loop. Then all calls are dropped.
        self.is_copy = False
        self._ident: int = hub.thread_ident
        #: Whether the app's code runs in greenlets of this hub.
        self.cooperative = pool is None
        self._pool = pool
        if pool is not None:
            pool.retry_with(self.call_later)
        # The loop's run_callback_threadsafe() is not used. It changes the loop's count of
        # active watchers from the calling thread, without a lock. In time the count is
        # wrong, and the loop ends while greenlets sleep in it.
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._turns: deque[Callable[[None], object]] = deque()
        self._turning = False
        self._knock = self.libev.async_(ref=False)
        # A started watcher stays alive, and so does its callback. So the callback gets only
        # a weak reference.
        self._knock.start(_answer, weakref.ref(self))
        _loops.add(self)

    def become_copy(self) -> None:
        """Drop all calls, now and later. Called in a job, for its copy of its parent's loop."""
        self.is_copy = True
        self._calls.clear()
        self._turns.clear()

    def forget_threads(self) -> None:
        """Called in a forked child, which has none of the pool's threads."""
        if self._pool is not None:
            self._pool.forget()

    def here(self) -> bool:
        """Whether the calling thread is the hub's thread."""
        return get_ident() == self._ident

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Run *callback* soon in the hub's loop. It must not block. Thread-safe."""
        if self.is_copy:
            return
        try:
            if self.here():
                self.libev.run_callback(callback, *args)
            else:
                self._call_later(callback, *args)
        except ValueError:
            # The loop was destroyed, and its watchers and timers with it.
            logger.debug("not called, as its hub was destroyed: %r", callback)

    def call_from_finalizer(self, callback: Callable[..., object], *args: Any) -> None:
        """As `call`, for a finaliser: it may interrupt any code, so this takes no lock."""
        if not self.is_copy:
            with contextlib.suppress(ValueError):  # the loop was destroyed
                self._call_later(callback, *args)

    def _call_later(self, callback: Callable[..., object], *args: Any) -> None:
        self._calls.append((callback, args))
        self._knock.send()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Run *callback* in the hub's loop after *seconds*. It must not block. Thread-safe."""
        self.call(self._set_timer, seconds, callback)

    def _set_timer(self, seconds: float, callback: Callable[[], object]) -> None:
        timer = self.libev.timer(seconds)

        def due() -> None:
            timer.stop()
            timer.close()
            callback()

        timer.start(due)

    def retry_start(self, start: Callable[[], object], what: object) -> None:
        """Call *start*, which starts a thread for *what*, until the thread starts.

        *start* may also start the `service_loop`, for which descriptors may be missing.
        The first call comes from the calling thread, and later calls from the hub's loop.
        """
        try:
            start()
        except (*NO_THREAD, OSError):
            logger.exception("cannot start a thread for %r, and will try again", what)
            self.call_later(AGAIN, functools.partial(self._start_again, start))

    def _start_again(self, start: Callable[[], object]) -> None:
        try:
            start()
        except (*NO_THREAD, OSError):  # already logged
            self.call_later(AGAIN, functools.partial(self._start_again, start))

    def call_after_events(self, callback: Callable[..., object], *args: Any) -> None:
        """Run *callback* after the loop has handled its other events. For the hub's thread."""
        # A caller waits for *callback*, and there may be nothing else to keep the loop running.
        self._knock.ref = True
        self._call_later(callback, *args)

    def answer(self) -> None:
        """Run the calls of other threads. Called by the loop."""
        self._knock.ref = False
        # Calls that come meanwhile wake the loop again.
        remaining = len(self._calls)
        try:
            while remaining and self._calls:  # if a call forks a job, the job has no calls
                remaining -= 1
                callback, args = self._calls.popleft()
                try:
                    callback(*args)
                except Exception:
                    logger.exception("%r failed", callback)
        finally:
            if remaining and self._calls:  # interrupted by a signal
                self._knock.send()

    def call_each(self, calls: Iterable[Callable[[None], object]]) -> None:
        """Call each of *calls* with None, soon, in the hub's loop.

        Call it in the hub's thread only. One callback of the loop runs up to `CALLS_AT_ONCE` of the
        calls: a broadcast wakes many greenlets together.
        """
        if self.is_copy:
            return
        self._turns.extend(calls)
        if self._turns and not self._turning:
            self._turning = True
            self.libev.run_callback(self._take_turns)

    def _take_turns(self) -> None:
        turns = self._turns
        try:
            for _ in range(min(CALLS_AT_ONCE, len(turns))):
                if not turns:  # one of the calls has forked, and this is the job
                    break
                turns.popleft()(None)
        finally:
            self._turning = bool(turns)
            if self._turning:
                self.call_after_events(self._take_turns)

    def checkpoint(self) -> None:
        """Wait until the loop has handled its other events. Call it in a greenlet of the hub.

        gevent's ``sleep(0)`` is not enough. It lets other callbacks run, but may return fifty
        times before the loop has looked at a socket.
        """
        waiter = Waiter(self.hub)
        self.call_after_events(waiter.switch, None)
        waiter.get()

    def close(self) -> None:
        """Call it before the loop is destroyed. Later calls are not run."""
        self._knock.stop()
        self._knock.close()

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run *function* soon, where it may block. Thread-safe."""
        if self.is_copy:
            return
        if self._pool is not None:
            self._pool.submit(function, *args)
        elif self.here():
            _task.spawn(function, *args)
        else:
            self.call(_task.spawn, function, *args)

    def run_now(self, function: Callable[..., object], *args: Any) -> None:
        """Run *function* at once in a new greenlet, where it may block.

        Call it in the hub's loop, and only if the hub is `cooperative`.
        """
        if not self.is_copy:
            _task(function, *args).switch()


def _answer(loop: "weakref.ref[Loop]") -> None:
    called = loop()
    if called is not None:
        called.answer()


def current_loop() -> Loop:
    """Return the loop for a stream or timer that the caller is about to make."""
    hub = hub_of_greenlet()
    if hub is None:
        refuse_eventlet()
    # The main thread of a patched process waits in its hub. Another real thread has no
    # running hub, and must not get one.
    if hub is None and monkey.is_module_patched("threading") and in_main_thread():
        hub = gevent.get_hub()
    if hub is None:
        return service_loop()
    # The thread of a pipeline or a handler ends, and what is made in it may go on. So that
    # belongs to the loop that started the thread (see ``threadloop``).
    shared: Loop | None = getattr(hub.loop, "shared", None)
    if shared is not None and not shared.is_copy and shared.generation == _generation:
        return shared
    return loop_of(hub)


def checkpoint() -> None:
    """Let all other work have its turn: other threads, greenlets and the loop's events."""
    hub = hub_of_greenlet()
    if hub is None:
        time.sleep(0)
    else:
        loop_of(hub).checkpoint()


def _leave_loop(record: logging.LogRecord) -> bool:
    """A logging filter: a record from a hub's loop is handled in a greenlet instead.

    A logging handler may wait in gevent's way, for a lock or for the network. In a loop that
    is impossible.
    """
    current = greenlet.getcurrent()
    loop = loop_of(current) if isinstance(current, Hub) else None
    if loop is None or not loop.cooperative:
        return True
    loop.spawn(logger.handle, record)
    return False


logger.addFilter(_leave_loop)

_service_loop: Loop | None = None
_service_lock = new_lock()

# The number of forks that led to this process.
_generation = 0

_loops: "weakref.WeakSet[Loop]" = weakref.WeakSet()


def hub_of_greenlet() -> Any:
    """The hub to which the running greenlet switches when it waits. None outside of hubs."""
    ancestor = greenlet.getcurrent()
    while ancestor is not None:
        if isinstance(ancestor, Hub):
            return ancestor
        ancestor = ancestor.parent
    return None


def in_main_thread() -> bool:
    # In a patched process these are numbers of greenlets. The main thread has the number of
    # its first greenlet. (The main thread's native_id is stale after a fork.)
    return threading.main_thread().ident == threading.get_ident()


def loop_of(hub: Any, pool: Pool | None = None) -> Loop:
    """The loop of *hub*, the calling thread's hub. If there is none, make it with *pool*."""
    # The loop is an attribute of the hub, so that it ends with the hub. A child gets a new
    # loop: the parent's watchers must not answer for the child's sockets.
    loop: Loop | None = getattr(hub, "ssestream_loop", None)
    if loop is None or loop.generation != _generation:
        loop = hub.ssestream_loop = Loop(hub, pool)
    return loop


def default_loop() -> Loop | None:
    """The `Loop` of libev's default loop, which is the main thread's. None if there is none."""
    for loop in snapshot(lambda: _loops):
        if loop.libev.default and loop.generation == _generation and not loop.is_copy:
            return loop
    return None


def service_loop() -> Loop:
    """The loop for all threads that have no hub of their own. Make it if there is none."""
    global _service_loop
    with _service_lock:
        if _service_loop is None:
            started = ThreadQueue()
            start_thread(_serve, (started,))
            found = started.get()
            if isinstance(found, BaseException):
                raise found
            _service_loop = found
        return _service_loop


def _serve(started: Any) -> None:
    try:
        check_descriptors()
        hub = gevent.get_hub()
        # A loop without a watcher would end.
        hub.loop.async_().start(_nothing)
        # In a patched process blocking calls switch greenlets, so no threads are needed.
        pool = None if monkey.is_module_patched("threading") else Pool()
        loop = loop_of(hub, pool)
    except BaseException as error:
        # The starting thread waits for an answer, and others wait for its lock.
        started.put(error)
        return
    started.put(loop)
    join_through(hub, loop)


def _nothing() -> None:
    pass


def _forget() -> None:
    # Threads do not survive a fork.
    global _service_loop, _service_lock, _generation, _task
    _generation += 1
    if _service_loop is not None:
        _service_loop.forget_threads()
    _service_loop = None
    _service_lock = new_lock()
    if process.life != _task.life:
        _task = type("Task", (Task,), {"__slots__": (), "life": process.life})
        for loop in snapshot(lambda: _loops):
            loop.become_copy()


os.register_at_fork(after_in_child=_forget)
