"""The numbers and the streams of this process for OpenTelemetry, by its own API."""

from .meter import observe
from .spans import trace_streams

__all__ = ["observe", "trace_streams"]
