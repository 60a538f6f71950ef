"""Run an app's function beside its request, where gevent can end every wait of it.

On a gevent server the function gets a greenlet on the hub of the request. On a threaded
server it gets a thread of its own with a hub (see ``threadloop``).
"""

import functools
from collections.abc import Callable
from typing import Any

import gevent
from gevent import GreenletExit

from .loop import Loop, loop_of
from .threadloop import run_in_hub
from .threads import start_thread
from .waits import join_through


def start_beside(loop: Loop, main: Callable[[], object], what: object) -> None:
    """Run *main* soon in a greenlet: on the hub of *loop*, or in a thread if *loop* has threads.

    *what* is what *main* runs, for the log.
    """
    if loop.cooperative:
        loop.spawn(main)
    else:
        in_thread = functools.partial(_run_in_thread, main, what)
        loop.retry_start(lambda: start_thread(run_in_hub, (in_thread, loop)), what)


def end_function(greenlet: Any) -> None:
    """End the function that waits in *greenlet*, at once. Called by the loop of *greenlet*.

    `Greenlet.kill` would raise later in the same turn of the loop. Meanwhile the function may have
    come to its end, and the code after it would be ended instead.
    """
    greenlet.throw(GreenletExit)


def _run_in_thread(main: Callable[[], object], what: object) -> None:
    join_through(gevent.spawn(main), what)
    loop_of(gevent.get_hub()).close()
