"""Set-ups that are wrong, and look well until somebody waits for an event."""

import logging
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from flask import Flask, Response, request

from ssestream import ServerResponse, SseStream

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

app = Flask(__name__)


@app.get("/stream")
def stream() -> Response:
    return SseStream(request).pipe(ServerResponse())


@app.get("/iterated")
def iterated() -> Response:
    return Response(SseStream(request), mimetype="text/event-stream")


@app.get("/slow-page")
def slow_page() -> Response:
    """No stream: nobody minds when it is collected."""
    res = ServerResponse()
    res.write("one half, ")
    res.end("and the other")
    return res


@app.get("/loop/<how>")
def loop(how: str) -> Response:
    """A view that writes for 1.5 seconds and has not returned meanwhile."""
    res, sse_stream = ServerResponse(), SseStream(request)
    if how == "piped":
        sse_stream.pipe(res)
    for number in range(4):
        if number:
            time.sleep(0.5)
        if how == "by-hand":
            res.write(f"data: {number}\n\n")
        else:
            sse_stream.write({"data": number})
    return Response(sse_stream, mimetype="text/event-stream") if how == "iterated" else res


class Passing:
    """A middleware that does no harm."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    def close(self) -> None:
        if hasattr(self._chunks, "close"):
            self._chunks.close()


class Compressing(Passing):
    """One that compresses, and lets go of nothing before it has enough."""

    def __iter__(self) -> Iterator[bytes]:
        gzip = zlib.compressobj(wbits=31)
        for chunk in self._chunks:
            if out := gzip.compress(chunk)[10:]:
                yield out
        yield gzip.flush()


class Collecting(Passing):
    """One that wants to see the whole."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"".join(self._chunks)


WRAPPERS = {"passing": Passing, "compressing": Compressing, "collecting": Collecting}

if "WRAPPER" in os.environ:
    _inner = app.wsgi_app

    def _wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return WRAPPERS[os.environ["WRAPPER"]](_inner(environ, start_response))

    app.wsgi_app = _wrapped
