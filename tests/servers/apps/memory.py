"""An app that publishes to ``memory://`` wherever an app can."""

import logging
import multiprocessing
import os
import threading
import time

from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

app = Flask(__name__)
channels = Channels()
channels.publish("boot", {"data": "loaded"})


def publish_for_ever() -> None:
    while True:
        channels.publish("news", {"data": "x"})
        time.sleep(0.02)


if "THREAD" in os.environ:
    threading.Thread(target=publish_for_ever, daemon=True).start()


@app.get("/stream")
def stream() -> ServerResponse:
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    channels.subscribe(sse_stream, "news")
    return res


@app.get("/page")
def page() -> str:
    """Nothing of the library's."""
    return "page\n"


def publish() -> None:
    channels.publish("news", {"data": "x"})


@app.get("/publish")
def publish_in_view() -> str:
    publish()
    return "published\n"


@app.get("/job")
def job() -> str:
    if request.args["how"] == "os":
        if not os.fork():
            publish()
            os._exit(0)
        os.wait()
    else:
        process = multiprocessing.get_context(request.args["how"]).Process(target=publish)
        process.start()
        process.join()
    return "done\n"


@app.cli.command("publish")
def publish_by_command() -> None:
    publish()


if __name__ == "__main__":
    publish()
    app.run(port=0)
