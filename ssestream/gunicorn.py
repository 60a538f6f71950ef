"""gunicorn: streams that end when their worker is told to stop.

Left alone, gunicorn waits for open streams until its ``graceful_timeout``, 30
seconds, and then kills their worker with no cleanup run. Either of these ends
them at once, on SIGTERM, SIGINT, a reload, ``max_requests`` and SIGTTOU:

* ``gunicorn -k ssestream.gunicorn.SseWorker app:app``
* for any other worker class, in ``gunicorn.conf.py``::

      from ssestream.gunicorn import post_worker_init
"""

import signal
from typing import Any

from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.sync import SyncWorker

from .draining import drain
from .statistics import statistics
from .timers import clear_interval, set_interval

#: Milliseconds between two looks at whether the worker is to stop. Twenty a
#: second cost nothing that could be measured, and no stream waits for longer.
LOOK_MS = 50


def post_worker_init(worker: Any) -> None:
    """Drain the streams of *worker* once it is told to stop.

    gunicorn has no hook for that moment: each of its ways to stop a worker
    comes down to its ``alive`` being false, so that is looked at.
    """

    def look() -> None:
        if not worker.alive:
            clear_interval(timer)
            drain()

    timer = set_interval(look, LOOK_MS)

    def quit_behind_a_stream(number: int, frame: Any) -> None:
        if statistics().open:
            worker.alive = False
        else:
            worker.handle_quit(number, frame)

    # The handler of a sync worker exits in the very thread that sends, in its midst.
    if isinstance(worker, SyncWorker):
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, quit_behind_a_stream)


class SseWorker(GeventWorker):
    """gunicorn's gevent worker, which ends its streams when it is told to stop."""

    def run(self) -> None:
        post_worker_init(self)
        super().run()
