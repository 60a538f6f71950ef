"""The view that a developer writes by hand: a queue for each client and a generator.

The comment at first is there because gunicorn sends no header before the first
bytes of a body.
"""

import json
from collections.abc import Iterator

from control import TEXT, listen
from flask import Flask, Response
from gevent.queue import Queue

app = Flask(__name__)
queues: set[Queue] = set()


@app.get("/news")
def news() -> Response:
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


def publish(number: int) -> None:
    for queue in queues:
        queue.put({"n": number, "text": TEXT})


listen(publish)
