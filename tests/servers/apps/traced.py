"""Tells which functions of the package have run, since before the package was imported.

All threads and all greenlets are traced.
"""

import _thread
import sys
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any

import greenlet
from flask import Flask, request
from gevent import monkey

#: The file and the name of each function that has run.
functions: set[tuple[str, str]] = set()


def _called(code: CodeType, *_: object) -> Any:
    functions.add((code.co_filename, code.co_name))
    # Once for each line is enough.
    return sys.monitoring.DISABLE


def _trace(frame: Any, event: str, argument: object) -> None:
    functions.add((frame.f_code.co_filename, frame.f_code.co_name))


def _trace_greenlet(*_: object) -> None:
    """Each greenlet has a trace function of its own. Called in the greenlet that begins to run."""
    if sys.gettrace() is not _trace:
        sys.settrace(_trace)


if sys.version_info >= (3, 12):
    _events = sys.monitoring.events
    sys.monitoring.use_tool_id(sys.monitoring.COVERAGE_ID, "functions")
    sys.monitoring.register_callback(sys.monitoring.COVERAGE_ID, _events.LINE, _called)
    sys.monitoring.set_events(sys.monitoring.COVERAGE_ID, _events.LINE)
else:
    # gevent keeps the function for native threads, in a process that it has patched.
    _native = monkey.get_original("_thread", "start_new_thread")
    _kept = monkey.saved.get("_thread", vars(_thread))

    def _start(function: Callable[..., object], *rest: Any) -> int:
        def traced(*args: Any, **kwargs: Any) -> None:
            sys.settrace(_trace)
            greenlet.settrace(_trace_greenlet)
            function(*args, **kwargs)

        number: int = _native(traced, *rest)
        return number

    _kept["start_new_thread"] = _start
    threading.settrace(_trace)
    sys.settrace(_trace)
    greenlet.settrace(_trace_greenlet)

import ssestream  # noqa: E402 - traced from its import on
from ssestream import Channels, ServerResponse, SseStream  # noqa: E402 - traced from its import on
from tests.servers.apps import tell  # noqa: E402 - imports nothing of the package

PACKAGE = ssestream.__file__.removesuffix("__init__.py")

app = Flask(__name__)
channels = Channels()
streams: set[SseStream] = set()


@app.get("/news")
def news() -> ServerResponse:
    client = request.args["client"]
    res = ServerResponse()
    sse_stream = SseStream(request, compress="compress" in request.args)
    sse_stream.pipe(res)
    channels.subscribe(sse_stream, "news")
    streams.add(sse_stream)

    @sse_stream.on("close")
    def close() -> None:
        streams.discard(sse_stream)
        tell(event="close", client=client)

    return res


@app.post("/write")
def write() -> str:
    for sse_stream in list(streams):
        sse_stream.write({"data": "written"})
    return "written"


@app.post("/publish/<int:count>")
def publish(count: int) -> str:
    for number in range(count):
        channels.publish("news", {"data": str(number)})
    return "published"


@app.get("/functions")
def seen() -> list[list[str]]:
    """The functions of the package that have run, each with its file, as ``http/output.py``."""
    return [
        [file.removeprefix(PACKAGE), name]
        for file, name in functions.copy()
        if file.startswith(PACKAGE)
    ]
