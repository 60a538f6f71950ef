"""Several channels on one stream, and a plot that moves.

::

    python examples/dashboard.py

and open http://127.0.0.1:8000/. A thread beside the server makes up the weather. To do this
in another process, and to use several workers, give all of them one broker::

    export SSESTREAM_URL=sqlite:///dashboard.db
    python examples/dashboard.py station &
    gunicorn -k gevent -w 2 -b 127.0.0.1:8000 examples.dashboard:app
"""

import os
import random
import sys
import threading
import time

from flask import Flask, request, send_from_directory

from ssestream import BrokerError, Channels, ServerResponse, SseStream

app = Flask(__name__)

#: Each channel keeps a minute of measurements, for new clients.
channels = Channels(os.environ.get("SSESTREAM_URL", "memory://"), history=120)

# The page imports ssestream.js, which this serves.
channels.init_app(app)

#: Seconds between two measurements.
EVERY = 0.5

STORM = 12.0


@app.get("/")
def page():
    return send_from_directory(app.root_path, "dashboard.html")


@app.get("/events")
def events():
    """One stream for all channels, and for all tabs of a browser."""
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    # A new client gets the last measurements first.
    channels.subscribe(sse_stream, "temperature", "wind", "warnings", latest=1000)
    return res


def station():
    """Measure for ever. The page tells the channels apart by the names of the events."""
    temperature, wind = 18.0, 8.0
    while True:
        temperature += random.uniform(-0.4, 0.4) + (18 - temperature) / 50
        wind = max(0.0, wind + random.uniform(-1, 1) + (8 - wind) / 50)
        try:
            tell("temperature", temperature)
            tell("wind", wind)
            if wind > STORM:
                tell("warnings", wind)
        except BrokerError as error:
            print(error, file=sys.stderr)
        time.sleep(EVERY)


def tell(channel, value):
    data = {"at": time.time(), "value": round(value, 2)}
    channels.publish(channel, {"event": channel, "data": data})


if __name__ == "__main__":
    if sys.argv[1:] == ["station"]:
        station()
    else:
        threading.Thread(target=station, daemon=True).start()
        app.run(port=int(os.environ.get("PORT", 8000)))
