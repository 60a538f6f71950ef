"""Which clients are open on which channels: a view, and ``python -m ssestream top``."""

from .open_streams import OpenStreams

__all__ = ["OpenStreams"]
