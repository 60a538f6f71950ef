"""An app as its server loads it: its settings, its channels, and gevent's patches."""

import ast
import contextlib
import functools
import importlib
import os
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import flask
from gevent import monkey

from ..brokers.broker import Broker
from ..channels.channels import Channels
from ..config import app_settings
from ..settings import Settings
from .finding import Finding, fault, note, ok
from .settings import examine_settings

#: Names that wait. A module that took one before gevent patched it stops every greenlet by it.
WAITING = {
    "time": ("sleep",),
    "socket": ("socket", "create_connection", "getaddrinfo"),
    "select": ("select", "poll"),
    "_thread": ("allocate_lock", "start_new_thread"),
    "subprocess": ("Popen",),
    "ssl": ("SSLContext",),
}


class NotLoaded(Exception):
    """The app cannot be loaded; the text says why."""


def examine_app(name: str, workers: int | None) -> list[Finding]:
    """Load the app *name* in this process, and look at its set-up.

    :param name: as gunicorn takes it: ``module:app`` or ``module:create_app()``.
    :param workers: the processes that serve the app; None if that is not known.
    """
    before = set(sys.modules)
    try:
        app, module = load_app(name)
    except NotLoaded as error:
        return [
            fault(
                f"the app {name} does not load: {error}",
                "no server can start it",
                "the line that the error names; the directory of the app is the current one",
            )
        ]
    loaded = [sys.modules[each] for each in sorted(set(sys.modules) - before)]
    found = [*_patches([module, *loaded])]
    if not isinstance(app, flask.Flask):
        return [
            *found,
            note(
                f"{name} is a {type(app).__name__}, and no Flask app",
                "its settings and its channels are not looked at",
                "the name of the Flask app inside",
            ),
        ]
    with app.app_context():
        return [*found, *examine_settings(), *_channels(app, module, workers)]


@functools.cache
def load_app(name: str) -> tuple[Any, types.ModuleType]:
    """The app *name* and its module, as gunicorn loads them. They are loaded once.

    :raise NotLoaded: if the module, the name in it, or the call raises or is not there.
    """
    module_name, _, expression = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        # An app that patches late is told so by `_patches`, and not by gevent's warning.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
            module = importlib.import_module(module_name)
        found = _evaluate(ast.parse(expression or "application", mode="eval").body, module)
    except (Exception, SystemExit) as error:
        raise NotLoaded(f"{type(error).__name__}: {error}") from error
    return found, module


def settings_of(name: str) -> Settings | None:
    """The settings of the app *name*; None if it does not load, or if they are wrong."""
    with contextlib.suppress(NotLoaded, TypeError, ValueError):
        app, _ = load_app(name)
        if isinstance(app, flask.Flask):
            with app.app_context():
                return app_settings()
    return None


def _evaluate(node: ast.expr, module: types.ModuleType) -> Any:
    """A name in *module*, or the call of one with literals."""
    if isinstance(node, ast.Name):
        return getattr(module, node.id)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("after the colon comes a name, or a call of a name")
    args = [ast.literal_eval(each) for each in node.args]
    keywords = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    return getattr(module, node.func.id)(*args, **keywords)


# -- gevent's patches


def _patches(modules: Iterable[types.ModuleType]) -> Iterator[Finding]:
    if not monkey.is_module_patched("socket"):
        yield note(
            "the app does not call gevent.monkey.patch_all()",
            "that is right under gunicorn, whose gevent workers patch before they load the app,"
            " and with threads; under gevent.pywsgi or uWSGI --gevent, one wait stops all streams",
            "from gevent import monkey; monkey.patch_all() as the first line, for those servers",
        )
        return
    held = sorted({each for module in modules for each in _unpatched_names(module)})
    if held:
        yield fault(
            f"modules hold names that gevent has not patched: {', '.join(held[:5])}",
            "they were imported before patch_all(): a wait by such a name stops every stream of"
            " the process",
            "from gevent import monkey; monkey.patch_all() before every other import",
        )
    else:
        yield ok("gevent's patches were made before the app took the names that they replace")


def _unpatched_names(module: types.ModuleType) -> Iterator[str]:
    """The names in *module* of functions that gevent has replaced elsewhere."""
    top = module.__name__.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("gevent", "greenlet", "ssestream"):
        return
    values = {id(value): name for name, value in vars(module).items()}
    for patched, names in WAITING.items():
        for name in names:
            original = monkey.get_original(patched, name)
            is_replaced = getattr(sys.modules.get(patched), name, original) is not original
            if is_replaced and id(original) in values:
                yield f"{module.__name__}.{values[id(original)]}"


# -- the channels


def _channels(app: flask.Flask, module: types.ModuleType, workers: int | None) -> Iterator[Finding]:
    """Look at the channels that *app* and *module* have."""
    known = [app.extensions.get("ssestream"), *vars(module).values()]
    for channels in {id(each): each for each in known if isinstance(each, Channels)}.values():
        try:
            broker = channels.current_exchange().broker
        except (TypeError, ValueError, RuntimeError) as error:
            yield fault(
                f"the channels have no broker: {error}",
                "every publish and every subscription raises this error",
                "SSESTREAM_URL in the app's configuration",
            )
        else:
            yield _broker(broker, workers)


def _broker(broker: Broker, workers: int | None) -> Finding:
    if broker.shared:
        return ok(f"the channels are in a {type(broker).__name__}, which all processes share")
    if workers == 1:
        return ok("the channels are in memory://, which is enough for one worker")
    why = "an event reaches only the clients of the process that publishes it"
    change = "SSESTREAM_URL = 'sqlite:////var/lib/app/events.db' or 'redis://host'"
    if workers is None:
        return note("the channels are in memory://", why, f"one worker, or {change}")
    return fault(f"the channels are in memory://, and there are {workers} workers", why, change)
