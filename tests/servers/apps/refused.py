"""Views that begin a stream, and then refuse it or answer with something else."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import flask
from flask import Flask, Response, abort, copy_current_request_context, request, stream_with_context

from ssestream import (
    Channels,
    ServerResponse,
    SseStream,
    clear_interval,
    pipeline,
    set_interval,
)
from tests.kit.visit import until

#: The ways to refuse what was begun.
WAYS = ["abort", "raise", "nothing", "text", "iterator", "ended", "replaced", "before", "copied"]

#: What a view begins.
BEGINS = [
    "",
    "subscribe",
    "timer",
    "write timer subscribe",
    "pipe",
    "pipe subscribe timer",
    "subscribe pipe",
    "pipe unpipe subscribe",
    "subscribe pipe unpipe",
    "pipeline",
    "subscribe pipeline timer",
]

#: The ways to send a stream.
SENT = ["pipe", "iterated", "passed", "wrapped", "context", "forwarded", "drawn"]


def nothing_is_left(ask: Callable[[], Any], begun: int) -> None:
    """Wait until *ask*, which reads ``/left``, says that all of at least *begun* steps is gone."""

    def over() -> bool:
        said = ask()
        return bool(said["begun"] >= begun and not said["left"] and not said["subscribers"])

    try:
        until(over, "all to be gone", 60)
    except AssertionError:
        raise AssertionError(f"left is {ask()}") from None


#: What a view has begun, and what is gone of it.
Steps = list[str]


def make_app() -> Flask:
    """``/WAY`` refuses what ``?begin=`` has begun; ``/left`` says what is left of it all."""
    app = Flask(__name__)
    channels = Channels("memory://")
    begun: Steps = []
    gone: Steps = []
    kept: list[SseStream] = []

    def begins(what: str, over: Callable[[str], object] = gone.append) -> Callable[[], None]:
        begun.append(what)
        return lambda: over(what)

    def source() -> Iterator[dict[str, int]]:
        yield from ({"data": number} for number in itertools.count())

    class Closing:
        def __init__(self) -> None:
            self.over = begins("source")

        def __iter__(self) -> "Closing":
            return self

        def __next__(self) -> dict[str, int]:
            return {"data": 1}

        def close(self) -> None:
            self.over()

    def begin() -> tuple[SseStream, ServerResponse]:
        res, sse_stream = ServerResponse(), SseStream(request)
        sse_stream.on("close", begins("stream"))
        res.on("close", begins("response"))
        for step in request.args.get("begin", "").split():
            if step == "subscribe":
                channels.subscribe(sse_stream, "news", "sports")
            elif step == "timer":
                timer = set_interval(lambda: sse_stream.write({"data": 1}), 1)
                over = begins("timer")
                sse_stream.on("close", lambda timer=timer: clear_interval(timer))
                sse_stream.on("close", over)
            elif step == "pipe":
                sse_stream.pipe(res)
            elif step == "unpipe":
                sse_stream.unpipe()
            elif step == "pipeline":
                pipeline(Closing(), sse_stream, res)
            elif step == "write":
                sse_stream.write({"data": 1})
        return sse_stream, res

    @app.get("/abort")
    def aborts() -> Any:
        begin()
        abort(403)

    @app.get("/raise")
    def raises() -> Any:
        begin()
        raise ValueError("of the view")

    @app.get("/nothing")
    def nothing() -> Any:
        begin()
        return "", 204

    @app.get("/text")
    def text() -> Any:
        begin()
        return "no stream"

    @app.get("/iterator")
    def iterator() -> Any:
        begin()
        return Response(iter(["no ", "stream"]))

    @app.get("/ended")
    def ended() -> Any:
        """By a response that is sent, and that the stream may not be piped into."""
        _, res = begin()
        res.destroy()
        other = ServerResponse()
        other.end("no stream")
        return other

    @app.get("/replaced")
    def replaced() -> Any:
        _, res = begin()
        return res

    @app.get("/before")
    def before() -> Any:
        raise AssertionError("refused before it is run")

    @app.before_request
    def refuse() -> Any:
        if request.path == "/before":
            begin()
            return "no stream", 403
        return None

    @app.after_request
    def replace(response: Any) -> Any:
        return Response("no stream", 403) if request.path == "/replaced" else response

    @app.get("/copied")
    def copied() -> Any:
        thread = threading.Thread(target=copy_current_request_context(begin))
        thread.start()
        thread.join()
        return "no stream"

    @app.get("/kept")
    def keeps() -> Any:
        kept.append(begin()[0])
        return ""

    @app.get("/late")
    def late() -> Any:
        """Another request pipes what the one before it has kept."""
        res = ServerResponse()
        try:
            kept.pop().pipe(res)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return res

    # These are sent, and must not be touched.

    def few(sse_stream: SseStream) -> None:
        for number in range(3):
            sse_stream.write({"data": number})
        sse_stream.end()

    @app.get("/sent/pipe")
    def sent() -> Any:
        sse_stream, res = SseStream(request), ServerResponse()
        few(sse_stream.pipe(res) and sse_stream)
        return res

    @app.get("/sent/iterated")
    def iterated() -> Any:
        few(sse_stream := SseStream(request))
        return Response(sse_stream, mimetype="text/event-stream")

    @app.get("/sent/passed")
    def passed() -> Any:
        few(sse_stream := SseStream(request))
        return Response(sse_stream, mimetype="text/event-stream", direct_passthrough=True)

    @app.get("/sent/wrapped")
    def wrapped() -> Any:
        few(sse_stream := SseStream(request))
        return Response((chunk for chunk in sse_stream), mimetype="text/event-stream")

    @app.get("/sent/context")
    def context() -> Any:
        few(sse_stream := SseStream(request))
        return Response(stream_with_context(iter(sse_stream)), mimetype="text/event-stream")

    @app.get("/sent/forwarded")
    def forwarded() -> Any:
        """Through a destination of the app's own."""
        sse_stream, res = SseStream(request), ServerResponse()
        res.header("Content-Type", "text/event-stream")

        class Through:
            def write(self, chunk: bytes) -> None:
                res.write(chunk)

            def end(self) -> None:
                res.end()

        few(sse_stream.pipe(Through()) and sse_stream)
        return res

    @app.get("/sent/drawn")
    def drawn() -> Any:
        return pipeline(itertools.islice(source(), 3), SseStream(request), ServerResponse())

    @app.get("/torn-down")
    def torn_down() -> Any:
        """What its source is told of the request: whether the teardown was run before."""
        flask.g.torn_down = torn = []
        return pipeline(
            ({"data": len(torn)} for _ in range(1)), SseStream(request), ServerResponse()
        )

    @app.get("/with-context")
    def with_context() -> Any:
        rows = ({"data": request.args["name"]} for _ in range(3))
        return pipeline(stream_with_context(rows), SseStream(request), ServerResponse())

    @app.teardown_request
    def tear_down(error: object) -> None:
        if "torn_down" in flask.g:
            time.sleep(0.02)
            flask.g.torn_down.append(1)

    @app.get("/left")
    def left() -> Any:
        subscribers = {name: each.subscribers for name, each in channels.statistics().items()}
        rest = list(begun)
        for each in gone:
            rest.remove(each)
        return flask.jsonify(begun=len(begun), left=rest, subscribers=subscribers)

    return app


app = make_app()
