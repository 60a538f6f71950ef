"""Server-Sent Events for WSGI: Node's ssestream for Flask, Werkzeug and gunicorn."""

from .errors import (
    ClientDisconnected,
    HeadersSent,
    MessageError,
    SseStreamError,
    StreamDestroyed,
    StreamError,
    WriteAfterEnd,
)
from .pipeline import pipeline
from .response import ServerResponse
from .stream import SseStream
from .timers import clear_interval, clear_timeout, set_interval, set_timeout

__version__ = "0.1.0"

__all__ = [
    "ClientDisconnected",
    "HeadersSent",
    "MessageError",
    "ServerResponse",
    "SseStream",
    "SseStreamError",
    "StreamDestroyed",
    "StreamError",
    "WriteAfterEnd",
    "clear_interval",
    "clear_timeout",
    "pipeline",
    "set_interval",
    "set_timeout",
]
