"""A span for each stream: how long it was open, why it is over, and which request opened it."""

import os
from contextvars import ContextVar

import flask
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    get_tracer,
)

from ...http.body import Body
from ...http.registry import BREAKING, REASONS, Cause, Open, StreamObserver, registry
from ...runtime.loop import logger

#: The span of the request that runs here, or ran here last. A server asks for the first chunk of
#: ``Response(sse_stream)`` when the request, and so its span, is over.
_request: ContextVar[SpanContext | None] = ContextVar(
    "ssestream.metrics.opentelemetry", default=None
)


def trace_streams(app: flask.Flask, tracer: Tracer | None = None) -> None:
    """Make one span for each stream of this process, from its opening to its end.

    The span of a request ends when its view has returned, and so says nothing of its stream. The
    span of a stream begins a trace of its own, as it may be open for days, and has a link to the
    span of its request. It is exported when the stream is over. Messages have no spans.

    The name of the span is ``"stream"`` and the endpoint of the view. Its attributes are
    ``url.path``, ``ssestream.endpoint``, ``ssestream.cause`` (as in `Statistics.closed`),
    ``ssestream.messages`` and ``ssestream.message_bytes``. Its status is an error if the stream was
    broken off. A stream that was refused has no span.

    Call it once. Each open stream then has a span in memory, about 3 kB with the SDK.

    :param app: the app whose requests are linked.
    :param tracer: None for the tracer ``"ssestream"`` of the global provider.
    """
    app.after_request(_note_request)
    spans = _Spans(get_tracer("ssestream") if tracer is None else tracer)
    registry.observe(spans)
    os.register_at_fork(after_in_child=spans.begin)


def _note_request(response: flask.Response) -> flask.Response:
    _request.set(get_current_span().get_span_context())
    return response


class _Spans(StreamObserver):
    """The spans of the open streams."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.begin()

    def begin(self) -> None:
        """Begin with no streams, as a new process does. The parent ends its own spans."""
        # By the id() of the stream. Whoever takes a span out ends it.
        self._spans: dict[int, Span] = {}

    def opened(self, stream: Open) -> None:
        if not isinstance(stream, Body):
            return
        try:
            self._spans[id(stream)] = self._start(stream)
        except BaseException:  # of a processor of the app, for example gevent.Timeout
            logger.exception("a stream has no span")
        # It may have ended before the span was there.
        if stream.over:
            self.closed(stream, stream.cause, *stream.sent())

    def closed(self, stream: Open, cause: Cause, messages: int, length: int) -> None:
        span = self._spans.pop(id(stream), None)
        if span is None:
            return
        try:
            span.set_attributes(
                {
                    "ssestream.cause": cause,
                    "ssestream.messages": messages,
                    "ssestream.message_bytes": length,
                }
            )
            if cause in BREAKING:
                span.set_status(Status(StatusCode.ERROR, REASONS[cause]))
            span.end()
        except BaseException:
            logger.exception("the span of a stream was not ended")

    def _start(self, body: Body) -> Span:
        origin = body.call_queue.origin
        known = {} if origin is None else origin.attributes
        attributes = {
            name: value
            for name, key in (("url.path", "path"), ("ssestream.endpoint", "endpoint"))
            if (value := known.get(key)) is not None
        }
        request = get_current_span().get_span_context()
        if not request.is_valid:
            request = _request.get() or request
            _request.set(None)
        return self._tracer.start_span(
            " ".join(["stream", *filter(None, [known.get("endpoint")])]),
            # Without a parent, also if the span of a request is current.
            context=Context(),
            attributes=attributes,
            links=[Link(request)] if request.is_valid else None,
        )
