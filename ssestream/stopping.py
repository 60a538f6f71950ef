"""How a worker of gunicorn that has open streams stops, and what its jobs have of it.

gunicorn has no hook for the moment at which a worker is to stop. Each of its ways comes down
to the worker's ``alive`` being false, so that is looked at. Two ways leave no time:

* SIGINT and SIGQUIT end the process after a tenth of a second.
* When gunicorn's master is gone, a worker ends at once, or never sees that it is to.

A job is a child that an app forks (see ``forking``). gunicorn's worker goes on in it: its main
greenlet would end the job, as the job has another parent; its handlers of signals would keep
``Process.terminate()`` from it; and its copies of the server would answer clients there.
"""

import contextlib
import os
import signal
import sys
from typing import Any

import gevent

from .clock import clock
from .draining import drain
from .forking import process
from .statistics import books
from .timers import clear_interval, set_interval

#: Milliseconds between two looks at whether the worker is to stop. Twenty a
#: second cost nothing that could be measured, and no stream waits for longer.
LOOK_MS = 50

#: Seconds that a worker has which is told to end at once, from when its last stream is over:
#: for what the kernel has not taken yet, and for the handlers of ``close``.
QUICK = 1.5


class Stopping:
    """That of one worker, which is this process.

    *in_greenlets* or *in_main_thread* is where it runs the app.
    """

    def __init__(
        self, worker: Any, in_greenlets: bool = False, in_main_thread: bool = False
    ) -> None:
        global _stopping
        self._worker = worker
        self._in_greenlets, self._in_main_thread = in_greenlets, in_main_thread
        self._pid = os.getpid()
        #: Whether it was told to end at once, with streams open.
        self.is_quick = False
        self._drained = False
        # When a stream was last open.
        self._open_at = clock.now()
        self._timer: Any = None
        process.serves = True
        process.servers.append(worker)
        _stopping = self

    def look(self) -> None:
        """Drain the streams if the worker is to stop. In a job it does not return."""
        worker = self._worker
        if os.getpid() != self._pid:
            self._stay_still()
            return
        if worker.alive and worker.ppid != os.getppid():
            worker.log.info("Parent changed, shutting down: %s", worker)
            # The worker itself would not wait for its streams.
            worker.ppid = os.getppid()
            worker.alive = False
        if not worker.alive and not self._drained:
            self._drained = True
            clear_interval(self._timer)
            drain()

    def quit(self, number: int, frame: Any) -> None:
        """The handler of SIGINT and SIGQUIT. Streams, where there are any, are ended before."""
        if self.is_quick:  # by a terminal, and then by gunicorn's master
            return
        if not books.has_open:
            self._worker.handle_quit(number, frame)
        else:
            self.is_quick = True
            if self._in_greenlets:
                # Where it may wait.
                gevent.spawn(self._quit_soon)
            elif self._in_main_thread:
                # It would exit in the very thread that sends, in its midst.
                self.begin()
            else:
                self._worker.handle_quit(number, frame)

    def begin(self) -> None:
        """Stop, and let gunicorn's hook for this know."""
        self._worker.alive = False
        self._worker.cfg.worker_int(self._worker)

    def _quit_soon(self) -> None:
        try:
            self.begin()
        finally:
            self.look()
            # Mostly the worker is gone before, as nothing is left to wait for.
            while not self.has_waited():
                gevent.sleep(LOOK_MS / 1000)
            sys.exit(0)

    def has_waited(self) -> bool:
        """Whether it is time for a worker to go that was told to end at once."""
        if books.has_open:
            self._open_at = clock.now()
        return clock.now() > self._open_at + QUICK

    def watch(self) -> None:
        """Do all of it beside a worker that knows nothing of it."""
        worker = self._worker
        notify = worker.notify

        def look_and_notify() -> None:
            self.look()
            notify()

        # Before a worker looks for its master it says that it is alive.
        worker.notify = look_and_notify
        self._timer = set_interval(self.look, LOOK_MS)
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.quit)

    # -- in a job

    def _stay_still(self) -> None:
        """In the greenlet of the worker, of which this is a copy."""
        survivor = process.survivor
        if self._in_greenlets and survivor is not gevent.getcurrent():
            while not survivor.dead:
                gevent.sleep(LOOK_MS / 1000)
            os._exit(0)

    def leave(self) -> None:
        """This process is a job: nothing of the worker's goes on in it."""
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


def _after_fork() -> None:
    if _stopping is not None and process.is_job:
        # A thread is no place for handlers of signals.
        with contextlib.suppress(ValueError):
            _stopping.leave()


os.register_at_fork(after_in_child=_after_fork)
