"""Wake a broker's `wait`, which waits for a file or a socket at the same time."""

import contextlib
import os
import select
from typing import Any

from gevent import get_hub, monkey
from gevent.hub import Waiter

#: What gevent's loop calls to be readable.
READ = 1


class PollableWaker:
    """Wakes a waiting thread or greenlet from any thread, by a pipe.

    The waiter can wait for the waker and for another file at the same time.
    """

    _read = _write = -1

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def __del__(self) -> None:
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)

    def wake(self) -> None:
        # A full pipe already wakes the waiter.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")

    def wait(self, seconds: float, *others: Any) -> tuple[bool, list[Any]]:
        """Wait up to *seconds*: whether the waker was woken, and which of *others* can be read."""
        # `select` of a patched process would take twice the time.
        poll = poll_in_greenlet if monkey.is_module_patched("select") else poll_in_thread
        ready = poll(max(seconds, 0), [self._read, *others])
        woken = self._read in ready
        if woken:
            os.read(self._read, 4096)
            ready.remove(self._read)
        return woken, ready


def poll_in_thread(seconds: float, files: list[Any]) -> list[Any]:
    """Which of *files* can be read, as soon as there is one, or after *seconds*."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
    return [file for file in files if _descriptor(file) in ready]


def poll_in_greenlet(seconds: float, files: list[Any]) -> list[Any]:
    """The same, and other greenlets run meanwhile, as with gevent's own ``poll()``."""
    hub = get_hub()
    waiter, ready = Waiter(hub), list[Any]()

    def tell(file: Any) -> None:
        if not ready:
            # The others that can be read now are told of before this runs.
            hub.loop.run_callback(waiter.switch, None)
        ready.append(file)

    watchers: list[Any] = []
    # The files come first, if one can be read at once.
    timer = hub.loop.timer(seconds, priority=-1)
    try:
        for file in files:
            watchers.append(hub.loop.io(_descriptor(file), READ))
            watchers[-1].start(tell, file)
        timer.start(waiter.switch, None, update=True)
        waiter.get()
    finally:
        for each in (timer, *watchers):
            each.stop()
            each.close()
    return ready


def _descriptor(file: Any) -> int:
    return file if isinstance(file, int) else int(file.fileno())
