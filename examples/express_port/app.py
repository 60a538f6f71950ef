# gunicorn -k gevent -b 127.0.0.1:3000 examples.express_port.app:app
import os
from datetime import datetime, timezone
from itertools import count
from time import sleep

from flask import Flask, request

from ssestream import ServerResponse, SseStream, clear_interval, handler, set_interval

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


# Handlers that write between their waits.
def words_of(text):
    for word in text.split(" "):
        yield word
        sleep(INTERVAL / 1000)


texts = {"first": "it comes word by word"}


@app.get("/texts/<id>")
@handler
def text(req, res, id):
    text = texts.get(req.params["id"])
    if not text:
        return res.status(404).json({"error": "no such text"})
    res.write_head(200, {"Content-Type": "text/event-stream"})
    for word in words_of(text):
        res.write(f"data: {word}\n\n")
    res.end()


@app.post("/answers")
@handler
def answer(req, res):
    if not (req.body or {}).get("prompt"):
        return res.status(400).json({"error": "no prompt"})
    sse_stream = SseStream(req)
    sse_stream.pipe(res)
    for word in words_of(req.body["prompt"]):
        sse_stream.write({"event": "word", "data": {"word": word}})
    sse_stream.end({"event": "done", "data": "[DONE]"})


@app.get("/count")
@handler
def counting(req, res):
    @res.on("close")
    def closed():
        print("/count closed", flush=True)

    sse_stream = SseStream(req)
    sse_stream.pipe(res)
    for counter in count(1):
        sse_stream.write({"id": counter, "data": {"counter": counter}})
        sleep(INTERVAL / 1000)
