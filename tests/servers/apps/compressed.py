"""What the compression tests run: streams that wait for word of what to send, with or
without Flask-Compress around them."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import gevent.event
import gevent.queue
from flask import Flask, Response, request
from flask_compress import Compress

from ssestream import ServerResponse, SseStream, clear_interval, pipeline, set_interval
from tests.servers.apps import tell

#: Every event stream counts as compressible for this Flask-Compress.
GREEDY = {"COMPRESS_MIMETYPES": ["text/event-stream", "text/html", "application/json"]}

#: What no compressor makes small.
NOISE = "c1f07a95e83b2d64f9a0471bd8e6325c7e01b9f4a3d85c62907eb41fd03a6c58"

#: The ways to send a stream, by the path of each.
WAYS = ("piped", "raw", "drawn")

PAGE = "<!doctype html><link rel=icon href='data:,'><title>gzip</title>"


def build(config: dict[str, Any], flask_compress: bool = False) -> Flask:
    """An app whose ``senders`` write one message to the stream of that ``?key=``."""
    app = Flask("compressed")
    app.config.update(config)
    if flask_compress:
        Compress(app)
    senders: dict[str, Callable[[dict[str, Any]], object]] = {}
    enders: dict[str, Callable[[], object]] = {}

    def options() -> Any:
        return {"compress": True} if "compress" in request.args else {}

    @app.get("/")
    def page() -> str:
        return PAGE

    @app.get("/piped")
    def piped() -> Response:
        res = ServerResponse()
        sse_stream = SseStream(request, **options())
        sse_stream.pipe(res)
        senders[request.args["key"]] = sse_stream.write
        enders[request.args["key"]] = sse_stream.end
        return res

    @app.get("/raw")
    def raw() -> Response:
        res = ServerResponse()
        res.header("Content-Type", "text/event-stream")
        res.write("data:begun\n\n")
        senders[request.args["key"]] = lambda message: res.write(f"data:{message['data']}\n\n")
        return res

    @app.get("/drawn")
    def drawn() -> Response:
        queue: Any = gevent.queue.Queue()
        senders[request.args["key"]] = queue.put
        return pipeline(iter(queue.get, None), SseStream(request, **options()), ServerResponse())

    @app.get("/iterated")
    def iterated() -> Response:
        sse_stream = SseStream(request, **options())
        sse_stream.write({"data": NOISE})
        enders[request.args["key"]] = sse_stream.end
        return Response(sse_stream, mimetype="text/event-stream")

    @app.get("/generated")
    def generated() -> Response:
        """No stream of this package: a generator, which tells when it is asked for more."""
        key = request.args["key"]
        ended = gevent.event.Event()
        enders[key] = ended.set

        def frames() -> Iterator[str]:
            yield f"data: {NOISE}\n\n"
            tell(event="asked for more", key=key)
            ended.wait()

        return Response(frames(), mimetype="text/event-stream")

    @app.get("/noise")
    def noise() -> Response:
        """More than any socket buffers, also when it is gzipped."""
        res = ServerResponse()
        sse_stream = SseStream(request, **options())
        sse_stream.pipe(res)
        key = request.args["key"]

        def fill() -> None:
            while sse_stream.write({"data": os.urandom(30_000).hex()}):
                pass

        res.on("close", lambda: tell(event="close", key=key))
        sse_stream.on("drain", fill)
        fill()
        return res

    @app.get("/cut")
    def cut() -> Response:
        """Some messages, and once they have been taken the connection is cut."""
        res = ServerResponse()
        sse_stream = SseStream(request, **options())
        sse_stream.pipe(res)
        for number in range(3):
            sse_stream.write({"id": number, "data": NOISE})

        def look() -> None:
            if not res.writable_length:
                sse_stream.destroy()

        timer = set_interval(look, 5)
        res.on("close", lambda: clear_interval(timer))
        return res

    @app.post("/send")
    def send() -> str:
        senders[request.args["key"]](request.get_json())
        return "sent"

    @app.post("/end")
    def end() -> str:
        enders[request.args["key"]]()
        return "ended"

    return app


class Heads:
    """Tells what each response begins with, and leaves its body alone."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            encodings = [value for name, value in headers if name.lower() == "content-encoding"]
            accepted = environ.get("HTTP_ACCEPT_ENCODING")
            tell(event="head", path=environ["PATH_INFO"], encodings=encodings, accepted=accepted)
            return start_response(status, headers, *more)

        return self._app(environ, start)


app = build(json.loads(os.environ.get("SETTINGS", "{}")))
told = Heads(app)
default = build({}, flask_compress=True)
greedy = build(GREEDY, flask_compress=True)
