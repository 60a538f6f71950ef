"""The ``redis://`` broker: logs in Redis streams, shared by all processes of all hosts.

Each channel has one Redis stream, such as ``ssestream:{news}``. The id of an entry is its
position: ``1763800000000000-17`` is entry 17 of the log that began in that microsecond.
Redis keeps the last id of a stream when it trims the stream, so numbers are never used
twice. A stream that was deleted or flushed begins another log. The hash
``ssestream:{news}:bounds`` holds the bounds of the log.

Lua scripts append and read, so that each append and each read is one step. The append script
also announces the entry by Pub/Sub, on a Pub/Sub channel for each log. Each process subscribes to
those of the channels that it follows, with one connection. It takes an announced entry for news
if the entry continues its position, and otherwise reads the log.
"""

from .broker import RedisBroker

__all__ = ["RedisBroker"]
