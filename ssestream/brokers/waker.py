"""Wake a broker's `wait`, which waits for a file or a socket at the same time."""

import contextlib
import os
import select
from typing import Any


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

    def wait(self, seconds: float, *others: Any) -> tuple[bool, bool]:
        """Wait up to *seconds*: whether the waker was woken, and whether an other can be read."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        for other in others:
            poll.register(other, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(max(seconds, 0) * 1000)}
        woken = self._read in ready
        if woken:
            os.read(self._read, 4096)
        return woken, bool(ready - {self._read})
