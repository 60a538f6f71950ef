"""A page for operators: open streams, channels, rates and the last ends, live, and actions."""

from .views import blueprint

__all__ = ["blueprint"]
