"""Real locks, real threads and a pool of threads, also in a monkey-patched process.

gevent's ``monkey.patch_all()`` replaces Python's locks and threads with ones for greenlets.
The functions of this module are Python's own, from before the patch.
"""

import atexit
import contextlib
import logging
import queue
import time
import weakref
from collections.abc import Callable
from typing import Any

from gevent import monkey

from .clock import clock

logger = logging.getLogger("ssestream")

# The unpatched functions. Real threads hold these locks for a few instructions only, so
# switching greenlets while waiting would not help.
new_lock: Callable[[], Any] = monkey.get_original("_thread", "RLock")
start_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
#: Sleep with all greenlets of the thread, so that other threads can run.
sleep: Callable[[float], object] = monkey.get_original("time", "sleep")
get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
ThreadQueue: Callable[[], Any] = monkey.get_original("queue", "SimpleQueue")

# Seconds for which an idle thread of the pool waits for a call before it ends.
IDLE = 10.0

# Seconds for which the end of the process waits for handlers that still run.
LAST_SECONDS = 1.0

_new_plain_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")

# The errors of a thread that cannot be started now, and the seconds until the next try.
NO_THREAD = (RuntimeError, MemoryError)
AGAIN = 0.1


class Wake:
    """Wakes a thread that sleeps, or else ends its next sleep at once.

    It is one lock, so that a finalizer or a signal handler may call `wake` anywhere. It is no
    ``SimpleQueue``: before Python 3.13 a ``get`` of that may wait for ever if its time is over
    before it looks a second time.
    """

    def __init__(self) -> None:
        self._lock = _new_plain_lock()
        self._lock.acquire()

    def wake(self) -> None:
        """End one sleep. Several calls before a sleep end this one sleep. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # nobody has slept since the last call
            self._lock.release()

    def sleep(self, seconds: float | None) -> bool:
        """Sleep for *seconds*; None means until `wake`. Returns whether `wake` was called."""
        return bool(self._lock.acquire(timeout=-1 if seconds is None else max(seconds, 0.0)))


class Pool:
    """Plain threads for calls that may block: as many threads as calls that block together.

    ``concurrent.futures`` does not fit, for two reasons. It bounds the number of threads, so
    handlers that wait for a database would hold up every timer. And the process would not
    end before the last of its threads.

    One thread starts at a time, and it starts the next one when it has taken its first call. So a
    thousand calls that do not block share a few threads. A thread for each of them would wait for
    the GIL, and a waiting thread wakes up every 5 ms: thousands of such threads keep the processor
    so busy that none of them gets on.
    """

    def __init__(self) -> None:
        #: Guards the three counts and the flag below.
        self._lock = new_lock()
        self._calls: Any = ThreadQueue()
        self._unfinished = 0
        #: The calls that no thread has taken yet.
        self._queued = 0
        #: The threads that wait for a call.
        self._idle = 0
        #: Whether a thread is about to run, or is to be tried for again.
        self._starting = False
        self._call_later: Callable[[], Any] | None = None
        atexit.register(self.finish)

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Run *function* soon, in a thread that runs nothing else meanwhile."""
        with self._lock:
            self._unfinished += 1
            self._queued += 1
            start = self._needs_thread()
        self._calls.put((function, args))
        if start:
            self._start()

    def _needs_thread(self) -> bool:
        """Whether the caller must start a thread. The caller holds the lock."""
        if self._starting or self._queued <= self._idle:
            return False
        self._starting = True
        return True

    def _start(self) -> None:
        try:
            start_thread(self._work, ())
        except NO_THREAD:
            logger.exception("no thread to be had for %d calls, and will try again", self._queued)
            self._try_again_later()

    def retry_with(self, call_later: Callable[[float, Callable[[], object]], None]) -> None:
        """If a thread cannot be started, try again with *call_later*, a method of a loop."""
        # The loop holds the pool.
        self._call_later = weakref.WeakMethod(call_later)

    def _try_again_later(self) -> None:
        # Until then the calls wait for the existing threads, and all of these may be stuck.
        call_later = None if self._call_later is None else self._call_later()
        if call_later is None:
            self._starting = False
        else:
            call_later(AGAIN, self._try_again)

    def _try_again(self) -> None:
        with self._lock:
            self._starting = False
            start = self._needs_thread()
        if start:
            try:
                start_thread(self._work, ())
            except NO_THREAD:  # already logged
                self._try_again_later()

    def _work(self) -> None:
        with self._lock:
            self._starting = False
            self._idle += 1
        while True:
            try:
                # If this waits on after its time (see `Wake`), it still takes the next call.
                function, args = self._calls.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if self._queued >= self._idle:  # a call is on its way
                        continue
                    self._idle -= 1
                return
            with self._lock:
                self._idle -= 1
                self._queued -= 1
                start = self._needs_thread()
            if start:
                self._start()
            try:
                function(*args)
            except BaseException:  # or the thread would end and its place would be lost
                logger.exception("%r failed", function)
            function = args = None
            with self._lock:
                self._idle += 1
                self._unfinished -= 1

    def forget(self) -> None:
        """Called in a forked child, which has none of the pool's threads."""
        self._unfinished = 0

    def finish(self) -> None:
        """At the end of the process, wait up to `LAST_SECONDS` for the running calls."""
        deadline = clock.real() + LAST_SECONDS
        while self._unfinished and clock.real() < deadline:
            time.sleep(0.005)
