"""The configuration of the current Flask app: its settings of streams, and its JSON provider."""

import dataclasses
import difflib
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import flask
from flask.json.provider import DefaultJSONProvider, JSONProvider

from .compact_json import json_value, json_writer
from .errors import MessageError
from .plain import SHOWN, reader_of, shortened, unproxied
from .runtime.callables import is_no_answer
from .runtime.loop import logger
from .settings import DEFAULTS, Options, Settings
from .wire import Dumps, encode

_STREAM_OPTIONS = frozenset(Options.__annotations__)

#: The fields of `Settings`, by their names in an app's configuration.
_KEYS = {"SSESTREAM_" + field.name.upper(): field.name for field in dataclasses.fields(Settings)}


#: Names in an app's configuration that belong to channels.
_OTHER_KEYS = ("SSESTREAM_URL", "SSESTREAM_HISTORY", "SSESTREAM_HISTORY_AGE")

#: The key in an app's extensions that says that `_check_names` has run.
_CHECKED = "ssestream.checked"

#: The most settings of single streams that are kept. Streams with equal settings share one
#: object, which saves memory.
KNOWN = 100
known: dict[Settings, Settings] = {}

# For each app: the changed values when its configuration was last read, and the `Settings` made
# of them.
_of_apps: "weakref.WeakKeyDictionary[flask.Flask, tuple[dict[str, Any], Settings]]"
_of_apps = weakref.WeakKeyDictionary()


_read_app = reader_of(flask.current_app)


def current_app() -> flask.Flask | None:
    """The current app itself, not Flask's proxy for it; None outside an app context."""
    if not flask.has_app_context():
        return None
    app: flask.Flask = _read_app()
    return app


def app_settings() -> Settings:
    """The settings of the current app, or the defaults outside an app context."""
    app = current_app()
    if app is None:
        return DEFAULTS
    config = app.config
    if _CHECKED not in app.extensions:
        _check_names(app)
    if config.keys().isdisjoint(_KEYS):
        return DEFAULTS
    changed = {field: config[key] for key, field in _KEYS.items() if key in config}
    before, settings = _of_apps.get(app, ({}, DEFAULTS))
    # Compared by identity, because 1 == True would hide a value of a wrong type.
    if before.keys() == changed.keys() and all(before[key] is changed[key] for key in changed):
        return settings
    try:
        own = _encoded(dict(changed), "SSESTREAM_INTERRUPTED")
        settings = dataclasses.replace(DEFAULTS, **own)
    except MessageError:
        raise
    except (TypeError, ValueError) as error:
        # The message begins with the field's name. The app knows it by the name with the
        # prefix.
        field, _, rest = str(error).partition(" ")
        raise type(error)(f"SSESTREAM_{field.upper()} {rest}") from None
    if settings.max_streams_per_client is not None and settings.client_key is None:
        logger.warning(
            "SSESTREAM_MAX_STREAMS_PER_CLIENT bounds nothing without SSESTREAM_CLIENT_KEY, the"
            " function that tells one client from another"
        )
    _of_apps[app] = changed, settings
    return settings


def _check_names(app: flask.Flask) -> None:
    """Warn, once, about each name in the app's configuration that is no setting."""
    app.extensions[_CHECKED] = True
    settings = [*_KEYS, *_OTHER_KEYS]
    for name in app.config:
        if name.startswith("SSESTREAM_") and name not in settings:
            # Cut it first: the search takes time and memory by the square of its length.
            shown = name[:SHOWN]
            near = difflib.get_close_matches(shown, settings, 1, cutoff=0.8)
            meant = f", but {near[0]} is" if near else ""
            logger.warning("%s in the app's configuration is no setting%s", shown, meant)


def stream_settings(options: Options) -> Settings:
    """The settings of the current app, except for the *options* of a single stream.

    Raises ``TypeError`` for an unknown option, and as `Settings` for a wrong value.
    """
    if not options:
        return app_settings()
    unknown = [name for name in options if name not in _STREAM_OPTIONS]
    if unknown:
        raise TypeError(
            f"SseStream has no option {shortened(unknown[0])}; the options are "
            + ", ".join(sorted(_STREAM_OPTIONS))
        )
    settings = dataclasses.replace(app_settings(), **_encoded({**options}, "interrupted"))
    return _shared(settings)


def of_request(settings: Settings, environ: dict[str, Any]) -> Settings:
    """*settings* for the request of a WSGI *environ*: its method decides what they leave open."""
    method = environ.get("REQUEST_METHOD", "GET")
    if method in ("GET", "HEAD") or settings.on_shutdown is not None:
        return settings
    return _shared(dataclasses.replace(settings, on_shutdown="finish"))


def _encoded(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """*fields* of `Settings`, with the message ``interrupted`` encoded, whose name is *name*.

    So a wrong message is refused at once, and equal settings can be shared.
    """
    message = fields.get("interrupted")
    if isinstance(message, Mapping):
        try:
            fields["interrupted"] = encode(message, app_dumps())
        except MessageError as error:
            raise MessageError(f"{name} is a wrong message: {error}", error.field) from None
    return fields


def _shared(settings: Settings) -> Settings:
    """An object that equals *settings*: the same for all streams, as far as it is kept."""
    if len(known) >= KNOWN:
        known.clear()
    try:
        return known.setdefault(settings, settings)
    except TypeError:  # an app's client_key has no hash
        return settings


def client_of(environ: dict[str, Any], settings: Settings) -> Hashable | None:
    """The key by which the client of a WSGI *environ* is counted; None if it is unknown.

    Raises ``TypeError`` if ``client_key`` returned a value without a hash or no value, such
    as a coroutine, a future, an iterator or a function.
    """
    if settings.client_key is None:
        return None
    client: Hashable | None = unproxied(settings.client_key(environ))
    if is_no_answer(client) or not _has_hash(client):
        kind = type(client).__name__
        raise TypeError(f"client_key must return a hashable value or None, and returned a {kind}")
    return client


def _has_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def app_json() -> JSONProvider | None:
    """The JSON provider of the current app; None outside an app context."""
    app = current_app()
    return None if app is None else app.json


def app_dumps(provider: JSONProvider | None = None) -> Dumps | None:
    """A function that writes JSON with *provider*, compact if the provider can.

    None for *provider* means the provider of the current app. Returns None outside an app
    context. All streams of a provider share one function.
    """
    provider = provider or app_json()
    if provider is None:
        return None
    dumps = _dumps.get(id(provider))
    if dumps is None:
        dumps = _dumps[id(provider)] = _dumps_of(provider)
    return dumps


# By the ids of their providers. A function keeps its provider, so no other one gets its id.
_dumps: "weakref.WeakValueDictionary[int, Dumps]" = weakref.WeakValueDictionary()


def _dumps_of(provider: JSONProvider) -> Dumps:
    # An app may set attributes of its provider at any time.
    if not isinstance(provider, DefaultJSONProvider):
        return lambda value: provider.dumps(value)

    def default(value: Any) -> Any:
        return json_value(value, provider.default)

    compact, own = json_writer(default), vars(provider)
    is_flasks = type(provider).dumps is DefaultJSONProvider.dumps

    def dumps(value: Any) -> str:
        if is_flasks and "dumps" not in own:
            return compact(value)
        # The provider's own dumps() takes the options of json.dumps, as Flask's does.
        return provider.dumps(
            value,
            default=default,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
            sort_keys=False,
        )

    return dumps
