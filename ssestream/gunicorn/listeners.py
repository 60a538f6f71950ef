"""The names of a worker's listeners, which the worker closes before its connections are over.

gunicorn's asynchronous workers ask the listener of a connection for its name when the greenlet
of the connection begins. A worker that stops closes its listeners. A greenlet that begins after
that fails with EBADF, and its client gets nothing. So these workers learn the names before.
"""

from typing import Any


class ListenerName:
    """The name of a listener, in the place of the listener, for gunicorn's ``handle``."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


def keep_names(worker: Any) -> None:
    """Let *worker*, one of gunicorn's gevent workers, handle connections by names only."""
    handle = worker.handle
    names = {id(listener): ListenerName(listener) for listener in worker.sockets}

    def handle_by_name(listener: Any, client: Any, address: Any) -> None:
        # `SseWorker` gives the name itself.
        handle(names.get(id(listener), listener), client, address)

    worker.handle = handle_by_name
