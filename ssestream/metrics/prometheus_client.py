"""The numbers for Prometheus, by its own client library."""

from collections.abc import Iterator

import flask
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector as _Collector

from .metrics import Metrics
from .number import Labels, Number

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

#: The beginning of each name.
PREFIX = "ssestream_"


class Collector(_Collector):
    """A collector of prometheus_client: the numbers of *metrics* at the time of each scrape.

    >>> from prometheus_client import REGISTRY
    >>> from ssestream.metrics import Metrics
    >>> REGISTRY.register(Collector(Metrics()))

    With a folder, each process gives the sums over all processes. So ask one of them only, as a
    scrape through the server's port does.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        """The numbers as families of samples."""
        return map(_family, self._metrics.numbers_of_all())


def view(metrics: Metrics) -> flask.Response:
    """The numbers of *metrics* alone, as the text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(metrics))
    return flask.Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _family(number: Number) -> Family:
    if number.kind == "histogram":
        return _histogram(number)
    make = CounterMetricFamily if number.kind == "counter" else GaugeMetricFamily
    family = make(PREFIX + number.name, number.text, labels=number.labels)
    for labels, value in number.samples.items():
        family.add_metric(labels, value)
    return family


def _histogram(number: Number) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + number.name, number.text, labels=number.labels[:-1])
    buckets: dict[Labels, list[tuple[str, float]]] = {}
    for (*labels, bound), value in number.samples.items():
        if bound != "sum":
            buckets.setdefault(tuple(labels), []).append((bound, value))
    for each, counts in buckets.items():
        counts.sort(key=lambda bucket: float(bucket[0]))
        family.add_metric(each, counts, number.samples[(*each, "sum")])
    return family
