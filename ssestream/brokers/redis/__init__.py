"""The ``redis://`` broker: logs in Redis streams, shared by all processes of all hosts."""

from .broker import RedisBroker

__all__ = ["RedisBroker"]
