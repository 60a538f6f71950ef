"""Three clocks on a page: one written raw, one through an SseStream, one through a pipeline.

::

    gunicorn -k gevent -b 127.0.0.1:8000 examples.clock:app

and open http://127.0.0.1:8000/. The page shows the browser's events. This console shows
when a stream opens and closes. Stop the server and start it again: the clocks go on by
themselves, and their ids continue.
"""

import itertools
import re
import time
from datetime import datetime
from pathlib import Path

import gevent
from flask import Flask, request, send_file

from ssestream import (
    ServerResponse,
    SseStream,
    check_origin,
    clear_interval,
    pipeline,
    set_interval,
)

app = Flask(__name__)

PAGE = Path(__file__).resolve().with_name("clock.html")

GREETINGS = ["Grüße", "Привет", "Olá", "안녕하세요", "こんにちは", "👋"]

#: The open streams of /clock, for /end.
clocks: set[SseStream] = set()


@app.before_request
def refuse_other_sites():
    """Refuse what a page of another site sends with the visitor's browser."""
    if request.method == "POST":
        check_origin(request)


@app.get("/")
def page():
    return send_file(PAGE)


@app.get("/favicon.ico")
def favicon():
    return "", 204


@app.get("/raw")
def raw():
    """Write the format of the events by hand."""
    res = ServerResponse()
    res.header("Content-Type", "text/event-stream")
    first = next_id(request.headers.get("Last-Event-ID"))
    counter = itertools.count(first)
    timer = set_interval(
        lambda: res.write(f"id:{next(counter)}\nevent:message\ndata:{now()}\n\n"), 1000
    )
    tell("/raw", first, res)

    @res.on("close")
    def closed():
        clear_interval(timer)

    return res


@app.get("/clock")
def clock():
    """Write messages into an SseStream: the time, and every three seconds an event "foo"."""
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    first = next_id(sse_stream.last_event_id)
    counter = itertools.count(first)
    greetings = itertools.cycle(GREETINGS)
    pusher = set_interval(
        lambda: sse_stream.write(
            {
                "id": next(counter),
                "event": "message",
                "retry": 2000,  # the browser reconnects after two seconds
                "data": now(),
            }
        ),
        1000,
    )
    greeter = set_interval(
        lambda: sse_stream.write({"event": "foo", "data": {"greeting": next(greetings)}}), 3000
    )
    clocks.add(sse_stream)
    tell("/clock", first, res)

    @res.on("close")
    def closed():
        clear_interval(pusher)
        clear_interval(greeter)
        clocks.discard(sse_stream)
        sse_stream.unpipe(res)

    return res


@app.post("/end")
def end():
    """End all streams of /clock from the server. The browser then reconnects."""
    for sse_stream in tuple(clocks):
        sse_stream.end()
    return "", 204


@app.get("/pipeline")
def through_a_pipeline():
    """Send a generator's messages at the client's pace. Close it when the client leaves."""
    sse_stream = SseStream(request)
    first = next_id(sse_stream.last_event_id)
    res = ServerResponse()
    tell("/pipeline", first, res)
    return pipeline(ticks(first), sse_stream, res)


def ticks(first):
    yield {"retry": 2000}
    for number in itertools.count(first):
        yield {"id": number, "data": now()}
        gevent.sleep(1)


def next_id(last_event_id):
    """The id after the client's last one. The client may send any text as its last id."""
    if last_event_id is not None and re.fullmatch("[0-9]{1,15}", last_event_id):
        return int(last_event_id) + 1
    return 0


def now():
    return datetime.now().strftime("%H:%M:%S")


def tell(path, first, res):
    """Print that a stream opens, and later that it closes and how long it lived."""
    opened = time.monotonic()
    print(f"{path} opens with id {first}", flush=True)

    @res.on("close")
    def closed():
        print(f"{path} closed after {time.monotonic() - opened:.1f} s", flush=True)
