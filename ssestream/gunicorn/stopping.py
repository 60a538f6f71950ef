"""How a gunicorn worker with open streams stops, and how its jobs leave the worker's code.

gunicorn has no hook for the moment when a worker has to stop. In each case it sets the
worker's ``alive`` to False, so this room looks at ``alive`` now and then. Two cases leave no
time, and are handled apart:

* SIGINT and SIGQUIT end the process after a tenth of a second.
* When gunicorn's master is gone, a worker ends at once, or never learns that it has to.

A job is a child that an app forks (see ``forking``). It has a copy of gunicorn's worker. The
worker's main greenlet would end the job, as the job has another parent. The worker's signal
handlers would make ``Process.terminate()`` useless. And its copy of the server would answer
clients.
"""

import contextlib
import os
import signal
import sys
from typing import Any

import gevent
from gevent import monkey
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

from ..http.registry import drain, registry
from ..runtime.clock import clock
from ..runtime.forking import process
from ..runtime.threads import NO_THREAD, sleep, start_thread
from ..timers import clear_interval, set_interval

# The real one: a mask of signals belongs to a thread, not to a greenlet.
_get_ident: Any = monkey.get_original("_thread", "get_ident")

#: Milliseconds between two looks at ``alive``. Twenty looks a second cost nothing measurable,
#: and no stream waits longer for its end.
LOOK_MS = 50

#: If a worker is told to end at once, it ends so many seconds after its last stream. The
#: kernel then takes the last bytes, and the handlers of ``close`` run.
QUICK = 1.5

#: A stream that finishes (``on_shutdown``) has so many seconds less than the worker waits. They
#: are for its last message.
LAST = 1.0


class Stopping:
    """Stops one worker, which is this process.

    *in_greenlets* says that the worker runs the app in greenlets, and *in_main_thread* that
    it runs the app in its main thread.
    """

    def __init__(
        self, worker: Any, in_greenlets: bool = False, in_main_thread: bool = False
    ) -> None:
        global _stopping
        self._worker = worker
        self._in_greenlets, self._in_main_thread = in_greenlets, in_main_thread
        self._pid = os.getpid()
        #: Whether the worker was told to end at once while streams were open.
        self.is_quick = False
        # The seconds for which the last drain lets streams finish; None before it.
        self._grace: float | None = None
        # When a stream was last open.
        self._open_at = clock.now()
        self._timer: Any = None
        process.begin()
        process.listens(worker)
        _stopping = self

    def look(self) -> None:
        """Drain the streams if the worker has to stop. In the copy in a job, do not return."""
        worker = self._worker
        if os.getpid() != self._pid:
            self._stay_still()
            return
        if worker.alive and worker.ppid != os.getppid():
            worker.log.info("Parent changed, shutting down: %s", worker)
            # Do this before the worker itself does: it would not wait for its streams.
            worker.ppid = os.getppid()
            worker.alive = False
        if not worker.alive:
            self._drain(0.0 if self.is_quick else max(0.0, worker.cfg.graceful_timeout - LAST))

    def _drain(self, grace: float) -> None:
        """Drain the streams, unless this was done. Being told to end at once ends the *grace*."""
        if self._grace is not None and grace >= self._grace:
            return
        self._grace = grace
        if not grace:
            clear_interval(self._timer)
        drain(grace=grace)

    def quit(self, number: int, frame: Any) -> None:
        """Handle SIGINT or SIGQUIT. Open streams are ended before the worker exits."""
        if self.is_quick:  # a terminal sends the signal, and then gunicorn's master does, too
            return
        if not registry.has_open:
            self._quit_now(number, frame)
        else:
            self.is_quick = True
            if self._in_greenlets:
                # A greenlet may wait; a signal handler must not.
                gevent.spawn(self._quit_soon)
            elif self._in_main_thread:
                # Exiting here would interrupt this very thread while it sends a stream.
                self.begin()
            else:
                self._end_streams()
                self._quit_now(number, frame)

    def _quit_now(self, number: int, frame: Any) -> None:
        """Do what the worker's class does at SIGQUIT."""
        worker = self._worker
        if type(worker).handle_quit is ThreadWorker.handle_quit:
            # The worker would also shut down its pool of threads here. It would wait for ever for
            # a lock of the pool if the signal has interrupted the pool. Another thread gets the
            # lock as soon as the exit ends the interrupted code.
            with contextlib.suppress(*NO_THREAD):
                start_thread(worker.tpool.shutdown, (False,))
            Worker.handle_quit(worker, number, frame)
        else:
            worker.handle_quit(number, frame)

    def _end_streams(self) -> None:
        """End the streams of a worker with threads, while its process can still start threads.

        The code that the signal interrupted may hold a lock that the drain needs. So another
        thread does it, and this one waits for a while.
        """
        with contextlib.suppress(*NO_THREAD):
            start_thread(self._drain, (0.0,))
        until = clock.real() + QUICK
        while registry.has_open and clock.real() < until:
            sleep(LOOK_MS / 1000)

    def begin_soon(self) -> None:
        """Let the worker stop, which was told to end at once. For a signal handler."""
        self.is_quick = True
        # A greenlet may wait; a signal handler must not.
        gevent.spawn(self.begin)

    def begin(self) -> None:
        """Let the worker stop, and call gunicorn's hook ``worker_int``."""
        self._worker.alive = False
        self._worker.cfg.worker_int(self._worker)

    def _quit_soon(self) -> None:
        try:
            self.begin()
        finally:
            self.look()
            # The worker mostly exits before this does, as it has nothing left to wait for.
            while not self.has_waited():
                gevent.sleep(LOOK_MS / 1000)
            sys.exit(0)

    def has_waited(self) -> bool:
        """Whether a worker that was told to end at once has waited long enough."""
        if registry.has_open:
            self._open_at = clock.now()
        return clock.now() > self._open_at + QUICK

    def watch(self) -> None:
        """Stop a worker of any class. The worker's own code need not call this object."""
        worker = self._worker
        notify = worker.notify

        def look_and_notify() -> None:
            self.look()
            notify()

        # Every worker calls notify() before it checks for a changed parent.
        worker.notify = look_and_notify
        self._timer = set_interval(self.look, LOOK_MS)
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.quit)

    # -- in a job

    def _stay_still(self) -> None:
        """Called in a job, in the copy of the worker's greenlet: wait until the job ends."""
        survivor = process.survivor
        if self._in_greenlets and survivor is not gevent.getcurrent():
            while not survivor.dead:
                gevent.sleep(LOOK_MS / 1000)
            os._exit(0)

    def restore_signals(self) -> None:
        """Called in a job: give the signals back their usual handlers."""
        worker = self._worker
        usual: dict[int, Any] = {
            signal.SIGTERM: signal.SIG_DFL,
            signal.SIGQUIT: signal.SIG_DFL,
            signal.SIGINT: signal.default_int_handler,
        }
        for number, handler in usual.items():
            if getattr(signal.getsignal(number), "__self__", None) in (worker, self):
                signal.signal(number, handler)


_stopping: Stopping | None = None


def ends_streams() -> bool:
    """Whether this process is a worker that ends its streams when it stops."""
    return _stopping is not None


_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


# The signals that each thread which forks had blocked before.
_blocked: dict[int, set[int]] = {}


def _before_fork() -> None:
    # A signal that came to a job before `restore_signals` would be lost: the worker's handler
    # would take it, or Python would forget it. A blocked signal waits.
    if _stopping is not None:
        _blocked[_get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)


def _unblock() -> None:
    mask = _blocked.pop(_get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork() -> None:
    if _stopping is not None and process.is_job:
        # Only the main thread can set signal handlers.
        with contextlib.suppress(ValueError):
            _stopping.restore_signals()
    _unblock()
    _blocked.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_after_fork)
