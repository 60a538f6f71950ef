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

import atexit
import functools
import logging
import os
import queue
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

from .clock import clock
from .forking import process
from .preconditions import check_descriptors, refuse_eventlet

logger = logging.getLogger("ssestream")

# The real ones: a lock that is only ever held for a few instructions, among
# real threads, is not helped by switching greenlets.
new_lock: Callable[[], Any] = monkey.get_original("_thread", "RLock")
start_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
#: Lets every other thread run, and none of its own greenlets.
sleep: Callable[[float], object] = monkey.get_original("time", "sleep")
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_ThreadQueue: Callable[[], Any] = monkey.get_original("queue", "SimpleQueue")

# Seconds between two chances for the signal handlers of a main thread that waits.
LISTEN = 0.5

# Calls that are made before the loop may look at anything else.
TURN = 64

# Seconds for which a thread of the pool waits for more to do before it ends.
IDLE = 10.0


# Seconds for which the end of the process waits for handlers that run.
LAST_SECONDS = 1.0

# What says that no thread can be started now, and seconds before it is tried again.
NO_THREAD = (RuntimeError, MemoryError)
AGAIN = 0.1


class Pool:
    """Plain threads for what may block, as many as there is to do at once.

    Not ``concurrent.futures``: that has a bound, at which handlers which wait for
    a database would hold up every timer, and the process does not end before
    the last of its threads does.
    """

    def __init__(self) -> None:
        self._lock = new_lock()
        self._calls: Any = _ThreadQueue()
        # Threads that wait and for which no call is on its way; below 0 it is the calls
        # for which there was no thread.
        self._idle = 0
        self._unfinished = 0
        #: In whose loop a thread that could not be started is tried again.
        self.home: weakref.ref[Home] | None = None
        atexit.register(self.finish)

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Run *function*, soon, in a thread that nothing else uses meanwhile."""
        with self._lock:
            self._unfinished += 1
            start = self._idle <= 0
            if not start:
                self._idle -= 1
        self._calls.put((function, args))
        if start:
            try:
                start_thread(self._work, ())
            except NO_THREAD:
                with self._lock:
                    first = self._idle == 0
                    self._idle -= 1
                logger.exception("no thread to be had for %r", function)
                if first:
                    self._try_again_later()

    def _try_again_later(self) -> None:
        # Until then a call waits for one of those that there are, which may all be stuck.
        home = None if self.home is None else self.home()
        if home is not None:
            home.call_later(AGAIN, self._try_again)

    def _try_again(self) -> None:
        while True:
            with self._lock:
                if self._idle >= 0:
                    return
                self._idle += 1
            try:
                start_thread(self._work, ())
            except NO_THREAD:
                with self._lock:
                    self._idle -= 1
                self._try_again_later()
                return

    def _work(self) -> None:
        while True:
            try:
                function, args = self._calls.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if self._idle <= 0:  # a call is on its way
                        continue
                    self._idle -= 1
                return
            try:
                function(*args)
            except BaseException:  # it would leave its place among the threads for ever
                logger.exception("%r failed", function)
            function = args = None
            with self._lock:
                self._idle += 1
                self._unfinished -= 1

    def forget(self) -> None:
        """In a child, which has none of its threads."""
        self._unfinished = 0

    def finish(self) -> None:
        """At the process's end: let what has been begun come to its end, but not for long."""
        deadline = clock.now() + LAST_SECONDS
        while self._unfinished and clock.now() < deadline:
            time.sleep(0.005)


class Task(gevent.Greenlet):  # type: ignore[misc]
    """A greenlet that does not go on in a job which its process forks."""

    __slots__ = ()

    #: The `_Process.life` of its process. Another class is made for each, as there are many
    #: greenlets.
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


class Home:
    """One hub, reached from any thread. Made in the hub's own."""

    def __init__(self, hub: Any, pool: Pool | None = None) -> None:
        self.hub = hub
        self.loop = hub.loop
        self.generation = _generation
        #: Whether it is a copy of the parent's, in which nothing is called any more.
        self.is_lost = False
        self._ident = hub.thread_ident
        self._pool = pool
        if pool is not None:
            pool.home = weakref.ref(self)
        # Not the loop's run_callback_threadsafe(): it counts what keeps the loop
        # running from whatever thread calls it, without a lock, until the count is
        # wrong and the loop ends while greenlets sleep in it.
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._turns: deque[Callable[[None], object]] = deque()
        self._turning = False
        self._knock = self.loop.async_(ref=False)
        # A watcher lives as long as it is started, and must not keep what it calls.
        self._knock.start(_answer, weakref.ref(self))
        _homes.add(self)

    def lose(self) -> None:
        """This process is a job of the one that it was made in."""
        self.is_lost = True
        self._calls.clear()
        self._turns.clear()

    @property
    def cooperative(self) -> bool:
        """Whether an app's code runs on this hub, in greenlets."""
        return self._pool is None

    def here(self) -> bool:
        """Whether the calling thread is the hub's."""
        return bool(_get_ident() == self._ident)

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Run *callback* in the hub's loop, soon; it must not block."""
        if self.is_lost:
            return
        try:
            if self.here():
                self.loop.run_callback(callback, *args)
            else:
                self._call_later(callback, *args)
        except ValueError:
            # The loop was destroyed, and with it whatever this is about.
            logger.debug("not called in a hub that is no more: %r", callback)

    def _call_later(self, callback: Callable[..., object], *args: Any) -> None:
        self._calls.append((callback, args))
        self._knock.send()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Run *callback* in the hub's loop in so many *seconds*; it must not block."""
        self.call(self._set_timer, seconds, callback)

    def _set_timer(self, seconds: float, callback: Callable[[], object]) -> None:
        timer = self.loop.timer(seconds)

        def due() -> None:
            timer.stop()
            timer.close()
            callback()

        timer.start(due)

    def insist(self, start: Callable[[], object], what: object) -> None:
        """Call *start*, which starts a thread for *what*, and again until there is one.

        In the calling thread, and then in the hub's loop.
        """
        try:
            start()
        except NO_THREAD:
            logger.exception("no thread to be had for %r", what)
            self.call_later(AGAIN, functools.partial(self._start_again, start))

    def _start_again(self, start: Callable[[], object]) -> None:
        try:
            start()
        except NO_THREAD:  # which was said
            self.call_later(AGAIN, functools.partial(self._start_again, start))

    def _call_behind(self, callback: Callable[..., object], *args: Any) -> None:
        """Run *callback* behind whatever the loop's poll finds. In the hub's thread."""
        # Somebody waits for it, and there may be nothing else for which the loop goes on.
        self._knock.ref = True
        self._call_later(callback, *args)

    def answer(self) -> None:
        """Run what was asked for. The loop calls it."""
        self._knock.ref = False
        # Those that come meanwhile knock again.
        left = len(self._calls)
        try:
            while left and self._calls:  # a job that one of them has forked has none
                left -= 1
                callback, args = self._calls.popleft()
                try:
                    callback(*args)
                except Exception:
                    logger.exception("%r failed", callback)
        finally:
            if left and self._calls:  # interrupted by a signal
                self._knock.send()

    def in_turn(self, calls: Iterable[Callable[[None], object]]) -> None:
        """Call each of *calls* with None in the hub's loop, soon, a few at a time.

        In the hub's thread. One callback runs many of those that are asked for
        together, as the greenlets are that a broadcast wakes.
        """
        if self.is_lost:
            return
        self._turns.extend(calls)
        if self._turns and not self._turning:
            self._turning = True
            self.loop.run_callback(self._take_turns)

    def _take_turns(self) -> None:
        turns = self._turns
        try:
            for _ in range(min(TURN, len(turns))):
                if not turns:  # this is a job, which one of them has forked
                    break
                turns.popleft()(None)
        finally:
            self._turning = bool(turns)
            if self._turning:
                self._call_behind(self._take_turns)

    def give_way(self) -> None:
        """Let the loop look at all its other events. In a greenlet of its own.

        gevent's ``sleep(0)`` lets other callbacks run, and comes back up to fifty times
        before the loop has looked at a socket.
        """
        waiter = Waiter(self.hub)
        self._call_behind(waiter.switch, None)
        waiter.get()

    def close(self) -> None:
        """Before its loop is destroyed. What is called afterwards is not run."""
        self._knock.stop()
        self._knock.close()

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run *function*, soon, where it may block."""
        if self.is_lost:
            return
        if self._pool is not None:
            self._pool.submit(function, *args)
        elif self.here():
            _task.spawn(function, *args)
        else:
            self.call(_task.spawn, function, *args)

    def enter(self, function: Callable[..., object], *args: Any) -> None:
        """Run *function* at once, where it may block. In the loop of a hub that runs an app."""
        if not self.is_lost:
            _task(function, *args).switch()


def _answer(home: "weakref.ref[Home]") -> None:
    called = home()
    if called is not None:
        called.answer()


class Doorbell:
    """Lets the one thread or greenlet that made it sleep until any other rings.

    In a greenlet it does what gevent's `Waiter` does, of which queues are made. A queue
    would take two kilobytes and a callback in the loop for each ring, and a `Waiter`
    two hundred bytes of each sleeper's stack.
    """

    __slots__ = ("_rung", "_sleeper", "home")

    def __init__(self) -> None:
        hub = _hub_of_greenlet()
        #: Where its sleeper is a greenlet; None where it is a thread.
        self.home: Home | None = None if hub is None else home_of(hub)
        # A thread's queue, or a greenlet while it sleeps.
        self._sleeper: Any = _ThreadQueue() if hub is None else None
        self._rung = False

    def wake(self, _: None = None) -> None:
        """For `Home.in_turn` of its own home, and for no other."""
        if self._sleeper is None:
            self._rung = True
        else:
            self._sleeper.switch()

    def is_mine(self) -> bool:
        """Whether the caller may sleep in it."""
        return self.home is None or self.home.here()

    def ring(self) -> None:
        """Wake the sleeper, now or when it next sleeps. Once for each sleep; from any thread."""
        home = self.home
        if home is None:
            self._sleeper.put(None)
        elif home.here():
            home.in_turn((self.wake,))
        else:
            home.call(home.in_turn, (self.wake,))

    def sleep(self) -> None:
        """Return once for each ring."""
        home = self.home
        if home is not None:
            if self._rung:
                self._rung = False
                return
            self._sleeper = greenlet.getcurrent()
            try:
                home.hub.switch()
            finally:
                # Also when it was killed: nobody may switch to it for this any more.
                self._sleeper = None
            return
        # gunicorn asks that its signals not interrupt what a request waits for,
        # so a sync worker would hear that it is to stop only when woken.
        timeout = LISTEN if _in_main_thread() else None
        while True:
            try:
                self._sleeper.get(timeout=timeout)
                return
            except queue.Empty:
                pass


def current_home() -> Home:
    """The home of what the caller is about to make."""
    hub = _hub_of_greenlet()
    if hub is None:
        refuse_eventlet()
    # The main thread of a patched process waits in its hub. A real thread
    # beside it has none that runs, and must not be given one.
    if hub is None and monkey.is_module_patched("threading") and _in_main_thread():
        hub = gevent.get_hub()
    return _service() if hub is None else home_of(hub)


def give_way() -> None:
    """Let whatever else there is to do have its turn: all of it, and not only greenlets."""
    hub = _hub_of_greenlet()
    if hub is None:
        time.sleep(0)
    else:
        home_of(hub).give_way()


def _leave_loop(record: logging.LogRecord) -> bool:
    """A filter: what is logged in a hub's loop goes to the handlers from a greenlet.

    They may wait, for a lock or a network, and where that is gevent's it cannot be done in
    a loop.
    """
    current = greenlet.getcurrent()
    home = home_of(current) if isinstance(current, Hub) else None
    if home is None or not home.cooperative:
        return True
    home.spawn(logger.handle, record)
    return False


logger.addFilter(_leave_loop)

_service_home: Home | None = None
_service_lock = new_lock()

# How often this process is a child of one that had homes.
_generation = 0

_homes: "weakref.WeakSet[Home]" = weakref.WeakSet()


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


def home_of(hub: Any) -> Home:
    """That of *hub*, which is the calling thread's."""
    # Kept on the hub itself, so that it goes when the hub goes. What watched
    # the parent's sockets must not answer for those of a child.
    home: Home | None = getattr(hub, "ssestream_home", None)
    if home is None or home.generation != _generation:
        home = hub.ssestream_home = Home(hub)
    return home


def _service() -> Home:
    global _service_home
    with _service_lock:
        if _service_home is None:
            started = _ThreadQueue()
            start_thread(_serve, (started,))
            found = started.get()
            if isinstance(found, BaseException):
                raise found
            _service_home = found
        return _service_home


def _serve(started: Any) -> None:
    try:
        check_descriptors()
        hub = gevent.get_hub()
        # A loop without a watcher would end.
        hub.loop.async_().start(_nothing)
        # In a patched process even what blocks gives way.
        pool = None if monkey.is_module_patched("threading") else Pool()
        home = hub.ssestream_home = Home(hub, pool)
    except BaseException as error:
        # Somebody waits for it, and with them whoever comes next.
        started.put(error)
        return
    started.put(home)
    hub.join()


def _nothing() -> None:
    pass


def _forget() -> None:
    # Threads do not survive a fork.
    global _service_home, _service_lock, _generation, _task
    _generation += 1
    if _service_home is not None and _service_home._pool is not None:
        _service_home._pool.forget()
    _service_home = None
    _service_lock = new_lock()
    if process.life != _task.life:
        _task = type("Task", (Task,), {"__slots__": (), "life": process.life})
        for home in list(_homes):
            home.lose()


os.register_at_fork(after_in_child=_forget)
