"""Server-Sent Events for WSGI: Node's ssestream for Flask, Werkzeug and gunicorn."""

from .channels.channels import Channel, Channels
from .errors import (
    BrokerError,
    BufferFull,
    ClientDisconnected,
    HeadersSent,
    MessageError,
    SseStreamError,
    StreamDestroyed,
    StreamError,
    WriteAfterEnd,
)
from .http.draining import drain
from .http.registry import Statistics, statistics
from .pipeline import pipeline
from .response import ServerResponse
from .settings import Settings
from .stream import SseStream
from .timers import clear_interval, clear_timeout, set_interval, set_timeout

__version__ = "0.1.0"

__all__ = [
    "BrokerError",
    "BufferFull",
    "Channel",
    "Channels",
    "ClientDisconnected",
    "HeadersSent",
    "MessageError",
    "ServerResponse",
    "Settings",
    "SseStream",
    "SseStreamError",
    "Statistics",
    "StreamDestroyed",
    "StreamError",
    "WriteAfterEnd",
    "clear_interval",
    "clear_timeout",
    "drain",
    "pipeline",
    "set_interval",
    "set_timeout",
    "statistics",
]
