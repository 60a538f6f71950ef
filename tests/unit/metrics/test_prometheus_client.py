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
