"""A page for operators: open streams, channels, rates and the last ends, live; and what to do."""

from .views import blueprint

__all__ = ["blueprint"]
