"""What a developer writes by hand: a queue for each client, and a generator that reads it.

The comment at first is there because gunicorn sends no header before the first bytes of a body.
"""

import json
from collections.abc import Iterator
from typing import Any

from flask import Response
from gevent.queue import Queue

queues: set[Queue] = set()


def view() -> Response:
    """A view that opens the stream of one more client."""
    queue = Queue()
    queues.add(queue)

    def stream() -> Iterator[str]:
        try:
            yield ":ok\n\n"
            while True:
                msg = queue.get()
                yield f"data: {json.dumps(msg)}\n\n"
        finally:
            queues.discard(queue)

    return Response(stream(), mimetype="text/event-stream")


def write(msg: Any) -> None:
    """Write *msg* to all clients."""
    for queue in queues:
        queue.put(msg)
