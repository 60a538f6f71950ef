"""Views that write all they have at once."""

import logging
import threading

from flask import Flask, request

from ssestream import ServerResponse, SseStream, set_timeout

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

app = Flask(__name__)

COUNT = 5000


def replay(sse_stream: SseStream) -> None:
    for number in range(COUNT):
        sse_stream.write({"id": number, "data": "x" * 100})
    sse_stream.end()


@app.get("/<how>")
def burst(how: str) -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    if how == "unpiped":
        replay(sse_stream)
    if how != "by-hand":
        sse_stream.pipe(res)
    if how == "view":
        replay(sse_stream)
    elif how == "by-hand":
        res.header("Content-Type", "text/event-stream")
        for number in range(COUNT):
            res.write(f"id: {number}\ndata: {'x' * 100}\n\n")
        res.end()
    elif how == "timer":
        set_timeout(replay, 1, sse_stream)
    elif how == "thread":
        threading.Thread(target=replay, args=(sse_stream,)).start()
    elif how == "drain":
        # Behind what the client has just been sent.
        while sse_stream.write({"comment": "full"}):
            pass
        sse_stream.once("drain", lambda: replay(sse_stream))
    return res
