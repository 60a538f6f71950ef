"""Child processes of threads that have a hub of their own: the default loop waits for them.

libev can wait for children in its default loop only, which is the main thread's. So gevent's
``subprocess`` fails in every other thread. `ChildWatcher` is a watcher for such a thread.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

from gevent import monkey

from .clock import clock
from .loop import Loop, default_loop

_waitpid: Callable[[int, int], tuple[int, int]] = monkey.get_original("os", "waitpid")

#: The status of a child that other code has waited for: the exit code is then 255.
UNKNOWN_STATUS = 255 << 8

#: Seconds for which the end of an unwatched child is kept. Another child may get its number later.
KEPT = 5.0

# Only the thread of the default loop touches these three.
# By the number of a child: the watchers that wait for its end.
_watched: "dict[int, list[ChildWatcher]]" = {}
# The children that ended before they were watched: their statuses, and when they ended.
_ended: dict[int, tuple[int, float]] = {}
# The watcher of all children in the default loop, and that loop.
_catch_all: tuple[Any, Loop] | None = None


def expect_children() -> None:
    """Prepare for children: the end of one that ends soon must not be lost."""
    main = default_loop()
    if main is not None:
        main.call(_begin, main)


def child_watcher(loop: Any, pid: int, ref: bool) -> Any:
    """A watcher of the child *pid* for *loop*, a loop of gevent that is not the default one."""
    main = default_loop()
    if main is None:  # as gevent's own loops
        raise TypeError("child watchers are only available on the default loop")
    return ChildWatcher(loop, main, pid, ref)


class ChildWatcher:
    """A watcher of one child, with the interface of libev's ``child``."""

    def __init__(self, loop: Any, main: Loop, pid: int, ref: bool) -> None:
        self.loop = loop
        self.pid = pid
        self.rpid = self.rstatus = 0
        self._main = main
        self._knock = loop.async_(ref=ref)

    def start(self, callback: Callable[..., object], *args: Any) -> None:
        self._knock.start(callback, *args)
        self._main.call(self._watch)

    def stop(self) -> None:
        self._knock.stop()

    def close(self) -> None:
        self._knock.stop()
        self._knock.close()

    def __enter__(self) -> "ChildWatcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _watch(self) -> None:
        _begin(self._main)
        _watched.setdefault(self.pid, []).append(self)
        status, at = _ended.pop(self.pid, (0, 0.0))
        if clock.real() < at + KEPT:
            _tell(self.pid, status)
            return
        try:
            # It may have ended before the signal had its handler.
            pid, status = _waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self.pid, UNKNOWN_STATUS
        if pid:
            _tell(pid, status)

    def note(self, status: int) -> None:
        """Keep the *status* of the child, which has ended."""
        self.rpid, self.rstatus = self.pid, status

    def tell(self) -> None:
        """Let the loop call the callback."""
        with contextlib.suppress(ValueError):  # the loop is destroyed
            self._knock.send()


def _begin(main: Loop) -> None:
    """Watch the ends of all children: libev takes them, also those that nobody watches yet."""
    global _catch_all
    if _catch_all is None or _catch_all[1] is not main:
        watcher = main.libev.child(0, 0, False)
        _catch_all = watcher, main
        watcher.start(_note, watcher)


def _note(watcher: Any) -> None:
    pid, now = watcher.rpid, clock.real()
    if pid in _watched:
        _tell(pid, watcher.rstatus)
        return
    for each in [each for each, (_, at) in _ended.items() if now > at + KEPT]:
        del _ended[each]
    _ended[pid] = watcher.rstatus, now


def _tell(pid: int, status: int) -> None:
    children = _watched.pop(pid)
    # gevent's os.waitpid() has two watchers of a pid, waits for one and asks the other.
    for child in children:
        child.note(status)
    for child in children:
        child.tell()


def _after_fork() -> None:
    _watched.clear()
    _ended.clear()


os.register_at_fork(after_in_child=_after_fork)
