"""The span of each stream, as the SDK of OpenTelemetry exports it."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import flask
import gevent
import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from ssestream import ServerResponse, SseStream
from ssestream.http import body as bodies
from ssestream.http import registry as room
from ssestream.metrics.opentelemetry import trace_streams
from tests.kit.visit import Visit, until


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of this test alone, as nobody stops an observer."""
    own = type(room.registry)()
    from ssestream.metrics.opentelemetry import spans

    for module in (room, bodies, spans):
        monkeypatch.setattr(module, "registry", own)


def traced(app: flask.Flask, tracer: trace.Tracer) -> None:
    """Give each request of *app* a span that ends with it, as an instrumentation does."""

    @app.before_request
    def begin() -> None:
        flask.g.span = tracer.start_span("the request")
        flask.g.token = context.attach(trace.set_span_in_context(flask.g.span))

    @app.teardown_request
    def end(error: BaseException | None) -> None:
        context.detach(flask.g.token)
        flask.g.span.end()


class Traced:
    """An app with spans, and what was exported."""

    def __init__(self, *, requests: bool = True, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.streams: list[SseStream] = []
        tracer = self.provider.get_tracer("test")
        self.app = flask.Flask("app")
        trace_streams(self.app, tracer)
        if requests:
            traced(self.app, tracer)

        def stream() -> SseStream:
            self.streams.append(SseStream(flask.request))
            return self.streams[-1]

        @self.app.get("/piped/<int:number>")
        def piped(number: int) -> ServerResponse:
            return stream().pipe(ServerResponse())

        @self.app.get("/iterated/<int:number>")
        def iterated(number: int) -> flask.Response:
            return flask.Response(stream(), mimetype="text/event-stream")

        @self.app.get("/plain")
        def plain() -> str:
            return "hello"

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [each for each in self.exporter.get_finished_spans() if each.name.startswith(name)]

    def stream_span(self) -> ReadableSpan:
        """The only one that is over, waited for."""
        until(lambda: self.spans("stream"), "the span")
        (span,) = self.spans("stream")
        return span


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


@pytest.mark.parametrize("how", ["piped", "iterated"])
def test_a_stream_has_one_span_with_its_duration_and_the_cause_of_its_end(how: str) -> None:
    traced = Traced()
    with Visit(traced.app, f"/{how}/7?secret=1") as visit:
        visit.read_until(b":ok")
        until(lambda: traced.spans("the request"), "the end of the request")
        (request,) = traced.spans("the request")
        assert not traced.spans("stream")
        for number in range(20):
            traced.streams[0].write({"data": str(number)})
        visit.read_until(b"data: 19")
        # The client may have a message before its server comes back from the kernel.
        until(lambda: room.statistics().messages == 20, "all to be counted")
    span = traced.stream_span()
    # Neither for a message, nor for anything else.
    assert len(traced.spans()) == 2
    assert span.name == f"stream {how}"
    attributes = dict(span.attributes or {})
    assert attributes.pop("ssestream.message_bytes", 0) > 0  # type: ignore[operator]
    assert attributes == {
        "url.path": f"/{how}/7",
        "ssestream.endpoint": how,
        "ssestream.cause": "client",
        "ssestream.messages": 20,
    }
    assert span.parent is None
    assert [link.context for link in span.links] == [request.context]
    assert span.context.trace_id != request.context.trace_id
    assert span.end_time is not None
    assert request.end_time is not None
    assert span.end_time > request.end_time
    assert seconds(span) > 0
    assert span.status.status_code is trace.StatusCode.UNSET


def end(stream: SseStream) -> None:
    stream.end()


def destroy(stream: SseStream) -> None:
    stream.destroy()


def drain(stream: SseStream) -> None:
    room.drain()


@pytest.mark.parametrize(
    ("finish", "cause", "status"),
    [
        (end, "ended", trace.StatusCode.UNSET),
        (destroy, "error", trace.StatusCode.ERROR),
        (drain, "shutdown", trace.StatusCode.UNSET),
    ],
)
def test_the_status_is_an_error_where_the_stream_was_broken_off(
    finish: Callable[[SseStream], None], cause: str, status: trace.StatusCode
) -> None:
    traced = Traced()
    with Visit(traced.app, "/piped/1") as visit:
        visit.read_until(b":ok")
        finish(traced.streams[0])
        span = traced.stream_span()
    assert (span.attributes or {})["ssestream.cause"] == cause
    assert span.status.status_code is status
    assert len(traced.spans("stream")) == 1


def test_a_stream_of_a_request_without_a_span_has_no_link() -> None:
    traced = Traced(requests=False)
    for how in ("piped", "iterated"):
        with Visit(traced.app, f"/{how}/1") as visit:
            visit.read_until(b":ok")
        span = traced.stream_span()
        assert (span.name, span.links) == (f"stream {how}", ())
        traced.exporter.clear()


def test_only_a_stream_has_such_a_span() -> None:
    traced = Traced()
    with Visit(traced.app, "/plain") as visit:
        visit.read_until(b"hello")
    with Visit(traced.app, "/piped/1", method="HEAD") as visit:
        visit.read_until(b"\r\n\r\n")
    traced.app.config["SSESTREAM_MAX_STREAMS"] = 1
    with Visit(traced.app, "/piped/2") as let_in:
        let_in.read_until(b":ok")
        with Visit(traced.app, "/piped/3") as refused:
            refused.read_until(b"retry")
            until(lambda: len(traced.spans("the request")) == 4, "the end of all requests")
            assert not traced.spans("stream")
    assert (traced.stream_span().attributes or {})["url.path"] == "/piped/2"


def test_a_sampler_may_leave_streams_out() -> None:
    traced = Traced(sampler=ALWAYS_OFF)
    with Visit(traced.app, "/piped/1") as visit:
        visit.read_until(b":ok")
    until(lambda: not room.registry.has_open, "the end")
    assert traced.spans() == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_does_not_end_the_spans_of_its_parent() -> None:
    traced = Traced()
    with Visit(traced.app, "/piped/1") as visit:
        visit.read_until(b":ok")
        child = os.fork()
        if child == 0:
            traced.streams[0].destroy()
            os._exit(len(traced.spans("stream")))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not traced.spans("stream")
    assert (traced.stream_span().attributes or {})["ssestream.cause"] == "client"


class Broken:
    """A tracer that fails, as one of an app's own might."""

    def __init__(self, raised: type[BaseException]) -> None:
        self.raised = raised

    def start_span(self, *args: Any, **options: Any) -> Any:
        raise self.raised


class BrokenAtEnd(SpanProcessor):
    """A processor that fails at the end of the span of a stream."""

    def on_end(self, span: Any) -> None:
        if span.name.startswith("stream"):
            raise gevent.Timeout


def test_a_processor_that_fails_harms_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    traced = Traced()
    traced.provider.add_span_processor(BrokenAtEnd())
    closed: list[bool] = []
    with Visit(traced.app, "/piped/1") as visit:
        visit.read_until(b":ok")
        traced.streams[0].on("close", lambda: closed.append(True))
    until(lambda: bool(closed), "the close")
    assert "the span of a stream was not ended" in caplog.text


@pytest.mark.parametrize("raised", [RuntimeError, gevent.Timeout])
def test_a_tracer_that_fails_harms_no_stream(
    raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    traced = Traced()
    trace_streams(traced.app, Broken(raised))  # type: ignore[arg-type]
    with Visit(traced.app, "/piped/1") as visit:
        visit.read_until(b":ok")
        traced.streams[0].write({"data": "still here"})
        visit.read_until(b"still here")
    assert traced.stream_span().name == "stream piped"
    assert "a stream has no span" in caplog.text


@pytest.fixture(autouse=True)
def no_context_left() -> Iterator[None]:
    yield
    assert not trace.get_current_span().get_span_context().is_valid
