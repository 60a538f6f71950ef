"""Work that waits: it runs in a greenlet or a thread of its own, and starts again if stopped."""

import sys
from collections.abc import Callable

from gevent import GreenletExit, monkey

from ..runtime.loop import current_loop, logger, service_loop
from ..runtime.threads import start_thread


def spawn(function: Callable[..., object]) -> None:
    """Run *function*, which waits, in a greenlet or a thread of its own.

    A greenlet is used if a wait lets other greenlets run: if the loop runs greenlets, and gevent
    has patched ``socket`` and ``time``.

    Raises as `current_loop`. A caller that notes that *function* runs calls `current_loop` first:
    it may start a thread and fail, and then nothing may be noted. A later `spawn` of the same
    thread does not fail.
    """
    loop = current_loop()
    gives_way = monkey.is_module_patched("socket") and monkey.is_module_patched("time")
    if loop.cooperative and gives_way:
        loop.spawn(function)
    else:
        loop.retry_start(lambda: _start(function), function)


def _start(function: Callable[..., object]) -> None:
    # The thread has no hub of its own, and its work must not fail for want of the shared loop.
    service_loop()
    start_thread(function, ())


def start_again(work: Callable[[], object], error: BaseException) -> None:
    """Start *work* again: *error* has stopped the listener or a reader.

    Its greenlet was killed, or an app's filter has left a ``gevent.Timeout`` running.
    """
    logger.error("channels: %r was stopped, and starts again", work, exc_info=error)
    if not sys.is_finalizing():
        spawn(work)
    if isinstance(error, GreenletExit):
        raise error
