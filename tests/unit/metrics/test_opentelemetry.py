"""The numbers as the SDK of OpenTelemetry exports them."""

from typing import Any

from flask import Flask, request
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ssestream import Channels, ServerResponse, SseStream, statistics
from ssestream.metrics import Metrics
from ssestream.metrics.durations import BOUNDS
from ssestream.metrics.opentelemetry import observe
from tests.kit.servers import PATIENCE
from tests.kit.visit import Visit


def exported(reader: InMemoryMetricReader) -> dict[str, dict[str, Any]]:
    """By the name of each number: its samples by their attributes, as text."""
    data: Any = reader.get_metrics_data()
    return {
        metric.name: {
            str(dict(point.attributes or {})): getattr(point, "value", point)
            for point in metric.data.data_points
        }
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }


def follower_of(channels: Channels) -> Flask:
    app = Flask("app")

    @app.get("/")
    def view() -> ServerResponse:
        sse_stream = SseStream(request)
        channels.subscribe(sse_stream, "user.1")
        return sse_stream.pipe(ServerResponse())

    return app


def test_each_export_has_the_numbers_of_its_time() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    channels = Channels()
    metrics = Metrics(channels=channels, group=lambda name: name.partition(".")[0])
    observe(metrics, provider.get_meter("test"))
    app = follower_of(channels)
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
    channels = Channels()
    metrics = Metrics(channels=channels)
    try:
        observe(metrics, provider.get_meter("test"))
        metrics.drained(0.5)
        channels.publish("news", {"data": "1"})
        with Visit(follower_of(channels)) as visit:
            visit.read_until(b":ok")
            data: Any = reader.get_metrics_data()
            numbers = metrics.numbers()
        found = {
            metric.name: metric.description
            for metric in data.resource_metrics[0].scope_metrics[0].metrics
        }
        assert found == {f"ssestream.{each.name}": each.text for each in numbers if each.samples}
        assert {"ssestream.gaps", "ssestream.drain_seconds", "ssestream.open_streams"} <= set(found)
    finally:
        provider.shutdown()


def test_durations_are_a_histogram_in_seconds() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    channels = Channels()
    metrics = Metrics(channels=channels, group=lambda name: name.partition(".")[0])
    try:
        observe(metrics, provider.get_meter("test"))
        for name in ("user.1", "user.2", "news"):
            channels.publish(name, {"data": "1"})
        points = exported(reader)["ssestream.publish_seconds"]
        user = points["{'group': 'user'}"]
        assert (user.count, points["{'group': 'news'}"].count) == (2, 1)
        assert 0 < user.sum < PATIENCE
        assert tuple(user.explicit_bounds) == BOUNDS
    finally:
        provider.shutdown()
