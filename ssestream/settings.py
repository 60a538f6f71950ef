"""The bounds and times of a stream: what they are by default, and why.

An app sets its own defaults in its configuration, under the name of the field
with ``SSESTREAM_`` before it (``SSESTREAM_HEARTBEAT = 30``); a stream is given
its own as keywords (``SseStream(request, heartbeat=5)``).
"""

import dataclasses
import difflib
import os
import random
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypedDict

import flask

from .callables import check_callable, is_coroutine
from .hub import logger
from .proxies import behind

Overflow = Literal["close", "drop-oldest", "error"]
Retry = int | tuple[int, int]

#: For all that is at random. Not the generator that apps may have seeded, nor one
#: that every worker has a copy of.
chance = random.Random()
os.register_at_fork(after_in_child=chance.seed)

_POLICIES = ("close", "drop-oldest", "error")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All durations are seconds but for *retry*, which is the wire's milliseconds.

    Raises ``TypeError`` or ``ValueError`` that names the field.
    """

    #: Seconds of silence before a lone comment is sent; None is never. The
    #: WHATWG advises "every 15 seconds or so"; nginx and most proxies cut what
    #: is silent for 60.
    heartbeat: float | None = 15.0

    #: Seconds in which a client must take something of what waits for it, or it
    #: counts as stalled and is cut; None is never. nginx and Apache give 60 by
    #: default, but for one file; a stream's client that takes nothing for this
    #: long has lost touch. A client on another host may have received so much that it
    #: is still reading: it is given the time that this takes at 4 KiB a second, but no
    #: more than four times this setting in all.
    send_timeout: float | None = 15.0

    #: Seconds for which a client whose network has vanished may leave what was
    #: sent to it without an answer, before the kernel closes the connection;
    #: None is as the system has it, a quarter of an hour on Linux. Longer than a
    #: lift or a change of the cell takes. The heartbeat sees to it that
    #: something was sent; without one, the kernel's own probes do.
    tcp_user_timeout: float | None = 30.0

    #: Messages that may wait in a stream whose client is slow, and not those that are
    #: written at once, before it had time to take any. As many as
    #: Redis users commonly keep in a capped stream; minutes of a busy channel.
    max_messages: int = 1000

    #: Bytes that may wait there: what Centrifugo allows a client's queue. One
    #: message alone may be larger.
    max_bytes: int = 1024 * 1024

    #: What a write beyond either does. ``"close"`` cuts the client, who comes
    #: back with its ``Last-Event-ID``; ``"drop-oldest"`` makes room and counts;
    #: ``"error"`` raises `BufferFull` in the writer.
    overflow: Overflow = "close"

    #: Seconds after which a stream is ended cleanly, at random between 80 and
    #: 100 % of it, so that load spreads anew; None is never.
    max_age: float | None = None

    #: Milliseconds after which the browser comes back, sent when a stream
    #: opens; of two, one at random between them. None sends nothing.
    retry: Retry | None = None

    #: The same for a stream that the server ends or refuses: after a reload all
    #: are told at once, and must not come back at once. What a fresh worker
    #: takes in without a queue, spread over a time that nobody minds.
    retry_after: Retry = (1000, 5000)

    #: Whether a `ServerResponse` is sent gzipped to clients that take it. Each
    #: such stream keeps some 40 KiB more, and each message costs more CPU time.
    #: Not for streams that mix secrets with what a client can make the app
    #: send: sizes tell of contents (the attack is known as BREACH).
    compress: bool = False

    #: Whether a stream that follows channels tells its client now and then where it
    #: stands, in a block that has only an ``id`` (WHATWG section 9.2.6: a browser keeps
    #: the id and fires no event). Without it a client that has got no event yet has no id,
    #: and what is published while it is away is lost to it. False is for clients that
    #: take such a block for an empty message.
    id_blocks: bool = True

    #: Streams that may be open in this process; None is no bound. More are
    #: answered 200 with *retry_after* and ended: after a 5xx an EventSource
    #: would give up for ever.
    max_streams: int | None = None

    #: What a client is known by, from its WSGI environ: an address, a user.
    #: None from it is unknown, and not bounded.
    client_key: Callable[[dict[str, Any]], Hashable] | None = None

    #: Streams that may be open in this process for one *client_key*.
    max_streams_per_client: int | None = None

    def __post_init__(self) -> None:
        for name in ("retry", "retry_after"):
            # What a configuration in JSON or TOML has for a pair.
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("heartbeat", "send_timeout", "tcp_user_timeout", "max_age"):
            _seconds(name, getattr(self, name))
        for name in ("max_messages", "max_bytes"):
            _count(name, getattr(self, name))
        for name in ("max_streams", "max_streams_per_client"):
            if getattr(self, name) is not None:
                _count(name, getattr(self, name))
        if self.overflow not in _POLICIES:
            raise ValueError(f"overflow is one of {_POLICIES}, and not {self.overflow!r}")
        if self.retry is not None:
            _retry("retry", self.retry)
        _retry("retry_after", self.retry_after)
        for name in ("compress", "id_blocks"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} is a bool, not {type(value).__name__}")
        if self.client_key is not None:
            check_callable("client_key", self.client_key, "a function of a WSGI environ, or None")


class Options(TypedDict, total=False):
    """The settings that a single stream may have of its own."""

    heartbeat: float | None
    send_timeout: float | None
    tcp_user_timeout: float | None
    max_messages: int
    max_bytes: int
    overflow: Overflow
    max_age: float | None
    retry: Retry | None
    compress: bool
    id_blocks: bool


_STREAM_OPTIONS = frozenset(Options.__annotations__)

#: The fields by the names that an app's configuration has for them.
_KEYS = {"SSESTREAM_" + field.name.upper(): field.name for field in dataclasses.fields(Settings)}


#: Those of channels, which are no settings of streams.
_OTHER_KEYS = ("SSESTREAM_URL", "SSESTREAM_HISTORY", "SSESTREAM_HISTORY_AGE")

#: Of the extensions of an app whose configuration was looked at.
_CHECKED = "ssestream.checked"


# To its type the proxy is what it stands for, and has no such method.
_current_app: Any = flask.current_app


def current_app() -> flask.Flask | None:
    """The app itself, without Flask's proxy before it; None outside of its context."""
    if not flask.has_app_context():
        return None
    app: flask.Flask = _current_app._get_current_object()
    return app


def app_settings() -> Settings:
    """Those of the current app, where there is one."""
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
    # Not by their values, of which True is 1.
    if before.keys() == changed.keys() and all(before[key] is changed[key] for key in changed):
        return settings
    try:
        settings = dataclasses.replace(DEFAULTS, **changed)
    except (TypeError, ValueError) as error:
        # It begins with the field, which the app knows by its longer name.
        field, _, rest = str(error).partition(" ")
        raise type(error)(f"SSESTREAM_{field.upper()} {rest}") from None
    _of_apps[app] = changed, settings
    return settings


def _check_names(app: flask.Flask) -> None:
    """Say so, once, where the app's configuration has a name that means nothing."""
    app.extensions[_CHECKED] = True
    known = [*_KEYS, *_OTHER_KEYS]
    for name in app.config:
        if name.startswith("SSESTREAM_") and name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
            meant = f", but {near[0]} is" if near else ""
            logger.warning("%s in the app's configuration is no setting%s", name, meant)


def stream_settings(options: Options) -> Settings:
    """Those of the current app, with a stream's own *options* over them."""
    if not options:
        return app_settings()
    unknown = [name for name in options if name not in _STREAM_OPTIONS]
    if unknown:
        raise TypeError(
            f"SseStream has no option {unknown[0]!r}; there are "
            + ", ".join(sorted(_STREAM_OPTIONS))
        )
    settings = dataclasses.replace(app_settings(), **options)
    if len(_of_streams) >= KNOWN:
        _of_streams.clear()
    try:
        return _of_streams.setdefault(settings, settings)
    except TypeError:  # an app's client_key has no hash
        return settings


def client_of(environ: dict[str, Any], settings: Settings) -> Hashable | None:
    """What the client of a WSGI *environ* is known by; None where that is unknown.

    Raises ``TypeError`` where ``client_key`` gave what cannot be counted by.
    """
    if settings.client_key is None:
        return None
    client: Hashable | None = behind(settings.client_key(environ))
    if is_coroutine(client) or not _has_hash(client):
        kind = type(client).__name__
        raise TypeError(f"client_key must return what has a hash, or None, and returned a {kind}")
    return client


def _has_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def draw(retry: Retry) -> int:
    """One number of milliseconds: *retry*, or one at random from its range."""
    return retry if isinstance(retry, int) else chance.randint(*retry)


def _seconds(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is a number of seconds or None, not {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, or None, and is {value}")


def _count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, and is {value}")


def _retry(name: str, value: Any) -> None:
    ends = value if isinstance(value, tuple) else (value, value)
    if len(ends) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in ends):
        raise TypeError(f"{name} is an int of milliseconds or a pair of them, not {value!r}")
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{name} must not be negative, nor end before it begins: {value!r}")


DEFAULTS = Settings()

#: Settings of streams that are kept so that all streams which have the same share them.
KNOWN = 100
_of_streams: dict[Settings, Settings] = {}

# What each app was last configured with, and what came of it.
_of_apps: "weakref.WeakKeyDictionary[flask.Flask, tuple[dict[str, Any], Settings]]"
_of_apps = weakref.WeakKeyDictionary()
