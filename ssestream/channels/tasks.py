"""Work that waits: it runs in a greenlet or a thread of its own, and starts again if stopped."""

import sys
from collections.abc import Callable

from gevent import GreenletExit, monkey

from ..runtime.loop import current_loop, logger
from ..runtime.threads import start_thread


def spawn(function: Callable[..., object]) -> None:
    """Run *function*, which waits, in a greenlet or a thread of its own.

    A greenlet is used if a wait lets other greenlets run: if the loop runs greenlets, and gevent
    has patched ``socket`` and ``time``.
    """
    loop = current_loop()
    gives_way = monkey.is_module_patched("socket") and monkey.is_module_patched("time")
    if loop.cooperative and gives_way:
        loop.spawn(function)
    else:
        loop.retry_start(lambda: start_thread(function, ()), function)


def start_again(work: Callable[[], object], error: BaseException) -> None:
    """Start *work* again: *error* has stopped the listener or a reader.

    Its greenlet was killed, or an app's filter has left a ``gevent.Timeout`` running.
    """
    logger.error("channels: %r was stopped, and starts again", work, exc_info=error)
    if not sys.is_finalizing():
        spawn(work)
    if isinstance(error, GreenletExit):
        raise error
