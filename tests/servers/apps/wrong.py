"""Set-ups that are wrong, and look well until somebody waits for an event."""

import logging
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from flask import Flask, Response, request

from ssestream import ServerResponse, SseStream
from ssestream.doctor import probe

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

app = Flask(__name__)
app.add_url_rule("/probe", view_func=probe)


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

    #: Headers that it adds.
    headers: tuple[tuple[str, str], ...] = ()

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    def close(self) -> None:
        if hasattr(self._chunks, "close"):
            self._chunks.close()


#: Bytes that gzip gives before all others, and at once.
GZIP_HEAD = 10


class Compressing(Passing):
    """One that compresses, and lets go of nothing before it has enough."""

    headers = (("Content-Encoding", "gzip"),)

    def __iter__(self) -> Iterator[bytes]:
        gzip = zlib.compressobj(wbits=31)
        held = b""
        for chunk in self._chunks:
            held += gzip.compress(chunk)
            if len(held) > GZIP_HEAD:
                yield held
                held = b""
        yield held + gzip.flush()


class Collecting(Passing):
    """One that wants to see the whole."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"".join(self._chunks)


WRAPPERS = {"passing": Passing, "compressing": Compressing, "collecting": Collecting}

if "WRAPPER" in os.environ:
    _inner = app.wsgi_app

    _wrapper = WRAPPERS[os.environ["WRAPPER"]]

    def _wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            return start_response(status, [*headers, *_wrapper.headers], *error)

        return _wrapper(_inner(environ, start))

    app.wsgi_app = _wrapped
