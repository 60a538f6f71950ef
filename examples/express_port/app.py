# gunicorn -k gevent -b 127.0.0.1:3000 examples.express_port.app:app
import os
from datetime import datetime, timezone
from itertools import count

from flask import Flask, request

from ssestream import ServerResponse, SseStream, clear_interval, set_interval

app = Flask(__name__)
INTERVAL = float(os.environ.get("INTERVAL", 1000))


def today():
    return datetime.now(timezone.utc).date().isoformat()


# Start with 1, like app.js. Here an id of 0 would be sent, too.
@app.get("/raw")
def raw():
    res = ServerResponse()
    counter = count(1)
    res.header("Content-Type", "text/event-stream")
    timer = set_interval(
        lambda: res.write(f"id:{next(counter)}\nevent:message\ndata:{today()}\n\n"), INTERVAL
    )

    @res.on("close")
    def closed():
        clear_interval(timer)
        print("/raw closed", flush=True)

    return res


@app.get("/clock")
def clock():
    res = ServerResponse()
    counter = count(1)
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    pusher = set_interval(
        lambda: sse_stream.write(
            {
                "id": next(counter),
                "event": "message",
                "retry": 20000,
                "data": today(),
            }
        ),
        INTERVAL,
    )

    @res.on("close")
    def closed():
        clear_interval(pusher)
        sse_stream.unpipe(res)
        print("/clock closed", flush=True)

    return res
