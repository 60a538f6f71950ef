"""The views of ``refused`` without Flask: a plain WSGI app, and one view of each framework."""

import functools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from ssestream import Channels, ServerResponse, SseStream, clear_interval, pipeline, set_interval
from ssestream.wire import HEADERS

#: The ways to refuse what was begun.
WAYS = [
    "forbidden",
    "raise",
    "nothing",
    "text",
    "iterator",
    "ended",
    "failed",
    "beside",
    "replaced",
    "thread",
]

#: The ways to send a stream.
SENT = ["pipe", "copy", "iterated", "wrapped", "closed", "forwarded", "drawn"]

channels = Channels("memory://")

#: What a view has begun, and what is gone of it.
begun: list[str] = []
gone: list[str] = []


def begins(what: str) -> Callable[[], None]:
    begun.append(what)
    return lambda: gone.append(what)


class Source:
    """A source that tells when it is closed."""

    def __init__(self) -> None:
        self.over = begins("source")

    def __iter__(self) -> "Source":
        return self

    def __next__(self) -> dict[str, int]:
        return {"data": 1}

    def close(self) -> None:
        self.over()


def begin(environ: Any, steps: str | None = None) -> tuple[SseStream, ServerResponse]:
    """Begin the *steps*; None means those of the query."""
    if steps is None:
        steps = parse_qs(environ["QUERY_STRING"]).get("begin", [""])[0]
    res, sse_stream = ServerResponse(), SseStream(environ)
    sse_stream.on("close", begins("stream"))
    for step in steps.split():
        if step == "subscribe":
            channels.subscribe(sse_stream, "news", "sports")
        elif step == "timer":
            timer = set_interval(lambda: sse_stream.write({"data": 1}), 1)
            sse_stream.on("close", lambda timer=timer: clear_interval(timer))
            sse_stream.on("close", begins("timer"))
        elif step == "held":
            held = set_interval(lambda: sse_stream.write({"data": environ["PATH_INFO"]}), 1)
            sse_stream.on("close", lambda held=held: clear_interval(held))
        elif step == "pipe":
            sse_stream.pipe(res)
        elif step == "unpipe":
            sse_stream.unpipe()
        elif step == "pipeline":
            pipeline(Source(), sse_stream, res)
        elif step == "write":
            sse_stream.write({"data": 1})
    return sse_stream, res


def few(sse_stream: SseStream) -> None:
    for number in range(3):
        sse_stream.write({"data": number})
    sse_stream.end()


class Through:
    """A destination of the app's own, which forwards to a response."""

    def __init__(self, res: ServerResponse) -> None:
        self.write, self.end = res.write, res.end


class Closing:
    """The chunks of a stream, with a ``close`` that is not the stream's own."""

    def __init__(self, sse_stream: SseStream) -> None:
        self._chunks = iter(sse_stream)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks


def plain(environ: Any, start: Any) -> Iterable[bytes]:
    """``/WAY`` refuses what ``?begin=`` has begun, and ``/sent/WAY`` sends a stream."""
    way = environ["PATH_INFO"].removeprefix("/")
    if way.startswith("sent/"):
        return sent(way.removeprefix("sent/"), environ, start)
    if way == "thread":
        thread = threading.Thread(target=begin, args=[environ])
        thread.start()
        thread.join()
        return answer(start, "200 OK")
    if way == "replaced":
        refused(environ)
        return answer(start, "403 Forbidden")
    begin(environ)
    if way == "raise":
        raise ValueError("of the view")
    if way in ("ended", "failed", "beside"):
        # By a response that is sent, and that the stream is not piped into.
        other = ServerResponse(500 if way == "failed" else 200)
        other.end("no stream")
        return other(environ, start)
    if way == "nothing":
        start("204 No Content", [])
        return []
    if way == "iterator":
        start("200 OK", [])
        return iter([b"no ", b"stream"])
    return answer(start, "403 Forbidden" if way == "forbidden" else "200 OK")


def refused(environ: Any) -> ServerResponse:
    """A view, the response of which a middleware does not call."""
    return begin(environ)[1]


def sent(way: str, environ: Any, start: Any) -> Iterable[bytes]:
    if way == "copy":  # of a middleware
        environ = dict(environ)
    res, sse_stream = ServerResponse(), SseStream(environ)
    if way == "drawn":
        return pipeline(({"data": number} for number in range(3)), sse_stream, res)(environ, start)
    if way in ("pipe", "copy"):
        sse_stream.pipe(res)
    elif way == "forwarded":
        res.header("Content-Type", "text/event-stream")
        sse_stream.pipe(Through(res))
    # After the view, and after the server may have dropped the environ.
    timer = set_interval(lambda: (few(sse_stream), clear_interval(timer)), 100)
    if way in ("pipe", "copy", "forwarded"):
        return res(environ, start)
    start("200 OK", list(HEADERS.items()))
    if way == "wrapped":
        return (chunk for chunk in sse_stream)
    return Closing(sse_stream) if way == "closed" else sse_stream


def answer(start: Any, status: str, text: bytes = b"no stream") -> list[bytes]:
    start(status, [("Content-Length", str(len(text)))])
    return [text]


def left(environ: Any, start: Any) -> list[bytes]:
    subscribers = {name: each.subscribers for name, each in channels.statistics().items()}
    rest = list(begun)
    for each in list(gone):
        rest.remove(each)
    said = {"begun": len(begun), "left": rest, "subscribers": subscribers}
    return answer(start, "200 OK", json.dumps(said).encode())


# -- one view of each framework, which refuses what it has begun


def with_webob() -> Any:
    from webob.dec import wsgify
    from webob.exc import HTTPForbidden

    @wsgify
    def app(request: Any) -> Any:
        begin(request.environ)
        raise HTTPForbidden

    return app


def with_pyramid() -> Any:
    from pyramid.config import Configurator
    from pyramid.httpexceptions import HTTPForbidden

    def view(request: Any) -> Any:
        begin(request.environ)
        raise HTTPForbidden

    with Configurator() as config:
        config.add_route("view", "/")
        config.add_view(view, route_name="view")
        return config.make_wsgi_app()


def with_django() -> Any:
    from django.conf import settings
    from django.core.exceptions import PermissionDenied
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    def view(request: Any) -> Any:
        begin(request.environ)
        raise PermissionDenied

    settings.configure(ROOT_URLCONF=type("Urls", (), {"urlpatterns": [path("", view)]}))
    settings.ALLOWED_HOSTS = ["*"]
    return get_wsgi_application()


def with_bottle() -> Any:
    from bottle import Bottle, abort, request

    app = Bottle()

    @app.get("/")
    def view() -> None:
        begin(request.environ)
        abort(403)

    return app


def with_falcon() -> Any:
    import falcon

    class Resource:
        def on_get(self, req: Any, resp: Any) -> None:
            begin(req.env)
            raise falcon.HTTPForbidden

    app = falcon.App()
    app.add_route("/", Resource())
    return app


FRAMEWORKS = {
    "webob": with_webob,
    "pyramid": with_pyramid,
    "django": with_django,
    "bottle": with_bottle,
    "falcon": with_falcon,
}


@functools.cache
def made(name: str) -> Any:
    return FRAMEWORKS[name]()


def app(environ: Any, start: Any) -> Any:
    first, _, rest = environ["PATH_INFO"].removeprefix("/").partition("/")
    if first == "left":
        return left(environ, start)
    if first in FRAMEWORKS:
        environ["PATH_INFO"] = f"/{rest}"
        return made(first)(environ, start)
    return plain(environ, start)
