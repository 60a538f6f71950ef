"""For gthread workers: SIGQUIT comes while the main thread begins a thread."""

import os
import signal
import threading

from ssestream import statistics
from ssestream.gunicorn import post_worker_init  # noqa: F401 - gunicorn calls it

_start = threading.Thread.start


def start(thread: threading.Thread) -> None:
    # The new thread of the pool opens one more.
    is_due = statistics().open == int(os.environ["INTERRUPTED_AT"])
    _start(thread)
    if is_due and thread.name.startswith("ThreadPoolExecutor"):
        os.kill(os.getpid(), signal.SIGQUIT)


threading.Thread.start = start  # type: ignore[method-assign]
