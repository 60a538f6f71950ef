"""The numbers as the SDK of OpenTelemetry exports them."""

from typing import Any

from flask import Flask, request
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ssestream import Channels, ServerResponse, SseStream, statistics
from ssestream.metrics import Metrics
from ssestream.metrics.opentelemetry import observe
from tests.kit.visit import Visit


def exported(reader: InMemoryMetricReader) -> dict[str, dict[str, Any]]:
    """By the name of each number: its samples by their attributes, as text."""
    data: Any = reader.get_metrics_data()
    return {
        metric.name: {
            str(dict(point.attributes or {})): point.value for point in metric.data.data_points
        }
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }


def test_each_export_has_the_numbers_of_its_time() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    channels = Channels()
    metrics = Metrics(channels=channels, group=lambda name: name.partition(".")[0])
    observe(metrics, provider.get_meter("test"))
    app = Flask("app")

    @app.get("/")
    def view() -> ServerResponse:
        sse_stream = SseStream(request)
        channels.subscribe(sse_stream, "user.1")
        return sse_stream.pipe(ServerResponse())

    try:
        before = exported(reader)["ssestream.open_streams"]["{}"]
        with Visit(app) as visit:
            visit.read_until(b":ok")
            now = exported(reader)
            assert now["ssestream.open_streams"] == {"{}": before + 1}
            assert now["ssestream.opened_streams"] == {"{}": statistics().opened}
            assert now["ssestream.channel_followers"] == {"{'group': 'user'}": 1}
            assert "{'cause': 'client'}" in now["ssestream.closed_streams"]
    finally:
        provider.shutdown()


def test_every_number_is_exported_with_its_sentence() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics = Metrics()
    try:
        observe(metrics, provider.get_meter("test"))
        data: Any = reader.get_metrics_data()
        found = {
            metric.name: metric.description
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
        }
        assert found == {f"ssestream.{each.name}": each.text for each in metrics.numbers()}
    finally:
        provider.shutdown()
