"""The numbers of streams, channels and brokers, for those who watch an app.

``ssestream.metrics.prometheus_client`` gives them to Prometheus, and
``ssestream.metrics.opentelemetry`` to OpenTelemetry.
"""

from .metrics import Metrics
from .number import Number

__all__ = ["Metrics", "Number"]
