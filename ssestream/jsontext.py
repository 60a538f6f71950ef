"""Data as JSON, as the app writes it."""

import functools
from typing import Any

from flask.json.provider import DefaultJSONProvider, JSONProvider

from .settings import current_app
from .wire import Dumps


def app_json() -> JSONProvider | None:
    """The JSON provider of the current app; None without one."""
    app = current_app()
    return None if app is None else app.json


def app_dumps(provider: JSONProvider | None = None) -> Dumps | None:
    """Through *provider*, or else that of the current app, compact where it can be.

    None where there is neither.
    """
    provider = provider or app_json()
    return None if provider is None else functools.partial(_dumps, provider)


def _dumps(provider: JSONProvider, value: Any) -> str:
    if isinstance(provider, DefaultJSONProvider):
        # Flask's own takes the options of json.dumps. Another one is asked for what
        # it writes by itself.
        return provider.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=False
        )
    return provider.dumps(value)
