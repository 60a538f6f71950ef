"""JSON for the data of messages, written by the app's JSON provider."""

import functools
from typing import Any

from flask.json.provider import DefaultJSONProvider, JSONProvider

from .settings import current_app
from .wire import Dumps


def app_json() -> JSONProvider | None:
    """The JSON provider of the current app; None outside an app context."""
    app = current_app()
    return None if app is None else app.json


def app_dumps(provider: JSONProvider | None = None) -> Dumps | None:
    """A function that writes JSON with *provider*, compact if the provider can.

    None for *provider* means the provider of the current app. Returns None outside an app
    context.
    """
    provider = provider or app_json()
    return None if provider is None else functools.partial(_dumps, provider)


def _dumps(provider: JSONProvider, value: Any) -> str:
    if isinstance(provider, DefaultJSONProvider):
        # Flask's own provider takes the options of json.dumps. Another provider may not, and is
        # called without options.
        return provider.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=False
        )
    return provider.dumps(value)
