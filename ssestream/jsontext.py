"""Data as JSON, as the app writes it."""

import functools
from typing import Any

import flask
from flask.json.provider import DefaultJSONProvider, JSONProvider

from .wire import Dumps


def app_dumps() -> Dumps | None:
    """Through the JSON provider of the current app, compact where it can be; None without one."""
    if not flask.has_app_context():
        return None
    return functools.partial(_dumps, flask.current_app.json)


def _dumps(provider: JSONProvider, value: Any) -> str:
    if isinstance(provider, DefaultJSONProvider):
        # Flask's own takes the options of json.dumps. Another one is asked for what
        # it writes by itself.
        return provider.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=False
        )
    return provider.dumps(value)
