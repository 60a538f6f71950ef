"""An app whose spans the test is told of, at the end of each.

With ``INSTRUMENTED=1`` opentelemetry-instrumentation-flask makes the spans of the requests.
"""

import os

from flask import Flask, Response, g, request
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from ssestream import ServerResponse, SseStream
from ssestream.metrics.opentelemetry import trace_streams
from tests.servers.apps import tell

app = Flask(__name__)


class Telling(SpanExporter):
    def export(self, spans: "tuple[ReadableSpan, ...]") -> SpanExportResult:  # type: ignore[override]
        for span in spans:
            tell(
                event="span",
                name=span.name,
                id=span.context.span_id,
                trace=span.context.trace_id,
                links=[link.context.span_id for link in span.links],
                seconds=((span.end_time or 0) - (span.start_time or 0)) / 1e9,
                attributes=dict(span.attributes or {}),
            )
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Telling()))
trace.set_tracer_provider(provider)
trace_streams(app)


def begin() -> None:
    g.span = trace.get_tracer("app").start_span("the request")
    g.token = context.attach(trace.set_span_in_context(g.span))


def end(error: BaseException | None) -> None:
    context.detach(g.token)
    g.span.end()


if os.environ.get("INSTRUMENTED") == "1":
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    FlaskInstrumentor().instrument_app(app)
else:
    app.before_request(begin)
    app.teardown_request(end)


@app.get("/piped")
def piped() -> Response:
    return SseStream(request).pipe(ServerResponse())


@app.get("/iterated")
def iterated() -> Response:
    return Response(SseStream(request), mimetype="text/event-stream")
