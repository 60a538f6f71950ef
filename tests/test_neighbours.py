"""Each private name of another library that this package uses, with the reason for it.

The names are found by a scan of the source, so a new one fails here until it is listed. Each
must be there in the installed version: tox runs this with the oldest and the newest.
"""

import ast
import asyncio
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyee
import pytest
import redis.connection
import werkzeug
from gevent.pool import Pool
from gunicorn.http.wsgi import Response
from werkzeug.datastructures import Headers
from werkzeug.local import LocalProxy
from werkzeug.wsgi import ClosingIterator

from tests.house import FILES, imports_of, name_of, nodes_of

PRIVATE = re.compile(r"_[A-Za-z]\w*")


def sets(function: Callable[..., Any], name: str) -> bool:
    """Whether the source of *function* sets ``self.name``."""
    return re.search(rf"self\.{name}(: |\b[^=\n]*=)", inspect.getsource(function)) is not None


def has(owner: object, name: str, *parameters: str) -> bool:
    """Whether *owner* has the function *name* with these *parameters*, after ``self``."""
    own = list(inspect.signature(getattr(owner, name)).parameters)
    return own[1:] == list(parameters)


#: By name: the reason, and whether the installed version has it.
USED: dict[str, tuple[str, Callable[[], bool]]] = {
    # -- pyee: it has no public way to log a failing handler and to go on
    "_add_event_handler": (
        "every way to add a handler leads here, and the handler is checked",
        lambda: has(pyee.EventEmitter, "_add_event_handler", "event", "k", "v"),
    ),
    "_call_handlers": (
        "all handlers run, even if the greenlet is killed in one of them",
        lambda: has(pyee.EventEmitter, "_call_handlers", "event", "args", "kwargs"),
    ),
    "_emit_run": (
        "a handler that raises is logged",
        lambda: has(pyee.EventEmitter, "_emit_run", "f", "args", "kwargs"),
    ),
    "_emit_handle_potential_error": (
        "an error that nobody hears is logged and not raised",
        lambda: has(pyee.EventEmitter, "_emit_handle_potential_error", "event", "error"),
    ),
    "_events": (
        "emitters without handlers share one empty table",
        lambda: sets(pyee.EventEmitter.__init__, "_events"),
    ),
    "_lock": (
        "emitters share one lock, which real threads may take",
        lambda: sets(pyee.EventEmitter.__init__, "_lock"),
    ),
    # -- Werkzeug
    "_get_current_object": (
        "documented: the object behind a proxy",
        lambda: hasattr(LocalProxy, "_get_current_object"),
    ),
    "_list": (
        "headers that were checked are copied without another check",
        lambda: sets(Headers.__init__, "_list"),
    ),
    "_on_close": (
        "most responses need no list of functions, which takes memory",
        lambda: sets(werkzeug.Response.__init__, "_on_close"),
    ),
    # -- redis-py
    "_sock": (
        "the listener waits for its socket and for other wakers together",
        lambda: "self._sock" in inspect.getsource(redis.connection),
    ),
    "_in_use_connections": (
        "a forked child silences the connections that a thread of its parent uses",
        lambda: sets(redis.ConnectionPool.reset, "_in_use_connections"),
    ),
    # -- psycopg
    "_connect_gen": (
        "connecting ends in time even if a test stops the clock of psycopg's own deadline",
        lambda: "cls._connect_gen(conninfo" in inspect.getsource(psycopg.Connection.connect),
    ),
    # -- middleware that keeps the body (see gunicorn/unwrapping.py)
    "_next": (
        "the body in a ClosingIterator of Werkzeug",
        lambda: ClosingIterator([b"x"])._next.args[0] is not None,
    ),
    "_response": (
        "the body in sentry-sdk's wrapper, which is recognised by its slots",
        lambda: True,
    ),
    # -- asyncio: "for those who write loops", as its documentation says
    "_get_running_loop": (
        "a callback in the hub of the loop is not in the loop",
        lambda: hasattr(asyncio, "_get_running_loop"),
    ),
    "_set_running_loop": (
        "a callback in the hub of the loop is not in the loop",
        lambda: hasattr(asyncio, "_set_running_loop"),
    ),
    # -- Python's own
    "_exit": ("documented", lambda: hasattr(os, "_exit")),
    "_getframe": ("documented", lambda: hasattr(sys, "_getframe")),
}

#: What is not private although it looks so: methods of named tuples.
OF_TUPLES = {"_replace", "_asdict"}


@functools.cache
def defined_in(file: Path) -> set[str]:
    """The private names that *file* gives to anything."""
    found: set[str] = set()
    for node in nodes_of(file):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return found


@functools.cache
def read_in(file: Path) -> set[str]:
    """The private names that *file* reads of anything, or imports from another library."""
    found: set[str] = set()
    for node in nodes_of(file):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update(alias.name for alias in node.names)
    return {name for name in found if PRIVATE.fullmatch(name)} - OF_TUPLES


def wing_of(room: str) -> str:
    return room.partition(".")[0]


@functools.cache
def wings_of(file: Path) -> set[str]:
    """The wings that *file* imports."""
    own = [name for name in imports_of(file) if name.startswith("ssestream.")]
    return {wing_of(name.removeprefix("ssestream.")) for name in own}


def below(wings: set[str]) -> set[str]:
    """*wings*, and all that they import."""
    known: set[str] = set()
    while wings - known:
        known |= wings
        wings = known | {
            wing for file in FILES if wing_of(name_of(file)) in known for wing in wings_of(file)
        }
    return known


def of_no_room_of_ours() -> Iterator[tuple[str, str]]:
    """Private names that neither a room's wing nor any wing below it defines."""
    for wing in {wing_of(name_of(file)) for file in FILES}:
        known = below({wing})
        ours = set().union(*(defined_in(file) for file in FILES if wing_of(name_of(file)) in known))
        for file in FILES:
            if wing_of(name_of(file)) == wing:
                yield from ((name, name_of(file)) for name in read_in(file) - ours)


def inherited() -> Iterator[tuple[str, str]]:
    """Private names of a foreign parent that the source of a class of ours uses."""
    for file in FILES:
        if file.stem == "__main__":
            continue
        module = importlib.import_module(f"ssestream.{name_of(file)}".removesuffix(".__init__"))
        for child in vars(module).values():
            if not isinstance(child, type) or child.__module__ != module.__name__:
                continue
            names = set(re.findall(r"\b_\w+", inspect.getsource(child)))
            for parent in child.__mro__:
                top = parent.__module__.partition(".")[0]
                if top in sys.stdlib_module_names or top == "ssestream":
                    continue
                try:
                    its = set(re.findall(r"(?:self\.|def )(_\w+)", inspect.getsource(parent)))
                except OSError:  # a compiled class
                    its = set(dir(parent))
                for name in names & its:
                    if PRIVATE.fullmatch(name):
                        yield name, f"{name_of(file)}.{child.__name__}"


def test_every_private_name_of_another_library_is_listed_with_its_reason() -> None:
    found = {*of_no_room_of_ours(), *inherited()}
    assert {name for name, _ in found} == set(USED), sorted(found)


@pytest.mark.parametrize("name", USED)
def test_the_installed_version_has_it(name: str) -> None:
    reason, is_there = USED[name]
    assert reason
    assert is_there()


def test_gunicorn_has_what_the_worker_reads_of_its_response() -> None:
    source = inspect.getsource(Response.__init__)
    for name in ("req", "sock", "status", "chunked", "headers", "headers_sent"):
        assert f"self.{name} =" in source, name
    assert {"force_close", "send_headers"} <= vars(Response).keys()


def test_the_pool_of_gevent_takes_a_member_that_is_no_greenlet() -> None:
    pool, member = Pool(1), object()
    pool.add(member)
    assert pool.full()
    pool.discard(member)
    assert pool.free_count() == 1


WITHOUT_REQUEST_CONTEXT = """
import flask.globals
# From Flask 3.2 on there is one context, and the old name only warns.
del flask.globals.request_ctx
import ssestream
from ssestream.http import view
app = flask.Flask("x")
closed = []
@app.get("/")
def forgets():
    assert view.current_context() is flask.globals.app_ctx._get_current_object()
    ssestream.SseStream(flask.request).on("close", lambda: closed.append(1))
    return "text"
assert app.test_client().get("/").text == "text"
import time
end = time.monotonic() + 60
while not closed and time.monotonic() < end:
    time.sleep(0.01)
assert closed == [1]
"""


def test_no_name_of_flask_is_used_that_is_to_go() -> None:
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", WITHOUT_REQUEST_CONTEXT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
