"""The numbers as Prometheus reads them."""

from pathlib import Path

from flask import Flask
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ssestream import Channels, statistics
from ssestream.metrics import Metrics
from ssestream.metrics.prometheus_client import Collector, view


def test_a_collector_gives_the_numbers_of_each_scrape() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(Metrics(channels=Channels())))
    families = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    assert families["ssestream_opened_streams"].type == "counter"
    (sample,) = families["ssestream_opened_streams"].samples
    assert (sample.name, sample.value) == ("ssestream_opened_streams_total", statistics().opened)
    assert families["ssestream_open_streams"].type == "gauge"
    causes = {each.labels["cause"] for each in families["ssestream_closed_streams"].samples}
    assert {"client", "ended", "stalled", "shutdown"} <= causes
    assert all(family.documentation.endswith(".") for family in families.values())


def test_a_view_answers_in_the_words_of_prometheus(tmp_path: Path) -> None:
    app = Flask("app")
    metrics = Metrics(app, folder=tmp_path)
    app.add_url_rule("/metrics", view_func=lambda: view(metrics))
    answer = app.test_client().get("/metrics")
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    assert "\nssestream_open_streams " in answer.text


def test_durations_are_a_histogram() -> None:
    channels = Channels()
    metrics = Metrics(channels=channels, group=lambda name: name.partition(".")[0])
    for name in ("user.1", "user.2", "news"):
        channels.publish(name, {"data": "1"})
    registry = CollectorRegistry()
    registry.register(Collector(metrics))
    found = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }["ssestream_publish_seconds"]
    assert found.type == "histogram"
    counts = {
        each.labels["group"]: each.value for each in found.samples if each.name.endswith("_count")
    }
    assert counts == {"user": 2, "news": 1}
    buckets = [
        (float(each.labels["le"]), each.value)
        for each in found.samples
        if each.name.endswith("_bucket") and each.labels["group"] == "user"
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == (float("inf"), 2)
