"""Checks before a process gets an event loop: no eventlet, and enough file descriptors."""

import os
import sys

import greenlet

#: File descriptors of a loop: an epoll, the wake-up from other threads, and a second epoll for
#: the sockets that it watches.
DESCRIPTORS = 3


def refuse_eventlet() -> None:
    """Raise ``RuntimeError`` if eventlet runs the calling code.

    Code in eventlet's greenlets may only wait in ways that eventlet knows, and eventlet's
    threads are greenlets too. The first stream would stop the whole server without a message.
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
    """Raise ``OSError`` if too few descriptors are free. libev would abort the process."""
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
