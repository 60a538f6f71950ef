"""What a process must have before it gets a loop: descriptors, and no eventlet."""

import os
import sys

import greenlet

#: Of a loop: an epoll, what wakes it from other threads, and the epoll of what it watches.
DESCRIPTORS = 3


def refuse_eventlet() -> None:
    """Raise ``RuntimeError`` where eventlet runs what would wait here.

    What waits in its greenlets must be what it knows of, and its threads are greenlets:
    the first stream would stop the whole server, without a word.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is None:
        return
    if getattr(patcher, "already_patched", None) or greenlet.getcurrent().parent is not None:
        raise RuntimeError(
            "eventlet runs this process, and ssestream does not work with it: use gevent"
            " (gunicorn -k gevent) or a server with threads, and no eventlet.monkey_patch()"
        )


def check_descriptors() -> None:
    """Raise ``OSError`` where there are too few for a loop: libev would end the process."""
    taken: list[int] = []
    try:
        while len(taken) < DESCRIPTORS:
            taken += os.pipe()
    except OSError as error:
        what = f"{error.strerror}: none are left for the loop that all streams share"
        raise OSError(error.errno, what) from None
    finally:
        for descriptor in taken:
            os.close(descriptor)
