"""Views whose code fails once its request is over, each in another place.

Where ``SENTRY`` is set, sentry-sdk collects what is logged, and each of its events is told.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, request

from ssestream import Channels, ServerResponse, SseStream, pipeline, set_timeout
from tests.servers.apps import tell

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

if "SENTRY" in os.environ:
    import sentry_sdk
    from sentry_sdk.envelope import Envelope
    from sentry_sdk.transport import Transport

    class Telling(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            event: Any = envelope.get_event()
            if event is not None:
                extra = event.get("extra", {})
                error = event["exception"]["values"][-1]["type"] if "exception" in event else None
                tell(name="sentry", level=event["level"], error=error, extra=extra)

    # Without the integrations that it finds by itself: it imports every client of a model for them,
    # which takes longer than a test waits.
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1", transport=Telling, auto_enabling_integrations=False
    )

app = Flask(__name__)
channels = Channels()


class Mistake(Exception):
    """None of the library's own."""


def fail(*args: object) -> None:
    raise Mistake


@app.get("/generator", endpoint="drawn")
def generator() -> Response:
    def source() -> Iterator[dict[str, Any]]:
        yield {"data": 1}
        raise Mistake

    return pipeline(source(), SseStream(request), ServerResponse())


@app.get("/heard", endpoint="drawn and heard")
def heard() -> Response:
    """The app has a handler of the error."""
    sse_stream = SseStream(request)
    sse_stream.on("error", lambda error: None)
    return pipeline(map(fail, [1]), sse_stream, ServerResponse())


@app.get("/closing", endpoint="closed")
def closing() -> Response:
    class Closed:
        close = staticmethod(fail)

        def __iter__(self) -> "Closed":
            return self

        def __next__(self) -> dict[str, Any]:
            raise StopIteration

    return pipeline(Closed(), SseStream(request), ServerResponse())


def piped() -> tuple[SseStream, ServerResponse]:
    sse_stream, res = SseStream(request), ServerResponse()
    sse_stream.pipe(res)
    return sse_stream, res


@app.get("/any/<text>", endpoint="any")
@app.get("/timer", endpoint="timer")
def timer(text: str = "") -> Response:
    set_timeout(fail, 1)
    return piped()[1]


@app.get("/late-timer", endpoint="timer of a timer")
def late_timer() -> Response:
    set_timeout(lambda: set_timeout(fail, 1), 1)
    return piped()[1]


@app.get("/handler", endpoint="handler")
def handler() -> Response:
    sse_stream, res = piped()
    res.on("finish", fail)
    sse_stream.end()
    return res


@app.get("/stream-handler", endpoint="handler of a stream")
def stream_handler() -> Response:
    sse_stream, res = piped()
    sse_stream.on("close", fail)
    sse_stream.end()
    return res


@app.get("/callback", endpoint="callback")
def callback() -> Response:
    sse_stream, res = piped()
    sse_stream.write({"data": 1}, callback=fail)
    return res


@app.get("/filter", endpoint="filter")
def filter_() -> Response:
    sse_stream, res = piped()
    channels.subscribe(sse_stream, "news", filter=fail)
    set_timeout(lambda: channels.publish("news", {"data": 1}), 1)
    return res


@app.get("/unsent", endpoint="unsent")
def unsent() -> Response:
    ServerResponse().on("close", fail)
    return Response("another")


@app.get("/destroyed", endpoint="destroyed")
def destroyed() -> Response:
    """An error, and nobody listens."""
    _, res = piped()
    set_timeout(lambda: res.destroy(Mistake()), 1)
    return res
