"""Find the tasks of an ``async def`` view that are cancelled when the view returns.

Flask runs such a view in an event loop of its own, which ends when the view returns. asyncio
then cancels every unfinished task, without a message. If a stream's messages come from such a
task, the stream would be silent for ever.
"""

import functools
import sys
from typing import Any

#: Where the environ keeps what is known of the view's loop.
_KEY = "ssestream.loop"


class _Loop:
    """The loop that runs a view, and the tasks that were unfinished when the view returned."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.unfinished: list[Any] = []

    def returned(self, asyncio: Any, view: Any) -> None:
        """Note the unfinished tasks. The loop calls it when the task *view* is done."""
        for task in asyncio.all_tasks(self.loop):
            if task is not view and not _is_being_cancelled(task):
                self.unfinished.append(task)


def note_loop(environ: dict[str, Any]) -> None:
    """Note the event loop, if the view of the request of *environ* runs in one."""
    asyncio = sys.modules.get("asyncio")
    # Where nobody has imported asyncio, no loop runs.
    if asyncio is None or _KEY in environ:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    view = asyncio.current_task()
    if view is not None:
        noted = environ[_KEY] = _Loop(loop)
        view.add_done_callback(functools.partial(noted.returned, asyncio))


def cancelled_tasks(environ: dict[str, Any]) -> list[str]:
    """The names of the coroutines that were cancelled because the view returned.

    Call this when the view has returned. A loop that still runs is not the loop of one view.
    """
    noted = environ.pop(_KEY, None)
    if noted is None or not noted.loop.is_closed():
        return []
    cancelled = [task for task in noted.unfinished if task.cancelled() or _is_being_cancelled(task)]
    return sorted({_name(task) for task in cancelled})


def _is_being_cancelled(task: Any) -> bool:
    # Python 3.10 does not tell.
    cancelling = getattr(task, "cancelling", None)
    return cancelling is not None and cancelling() > 0


def _name(task: Any) -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", None) or task.get_name())
