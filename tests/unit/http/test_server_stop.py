"""What the stop of a server does to open streams is known by the server's own objects."""

import signal
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from ssestream.http import server_stop
from ssestream.http.server_stop import cut_at_stop
from tests.unit.http.test_diagnosis import called_by

LET, CANNOT = "Let the app end them first", "An app cannot end them first there"


@pytest.fixture
def sigterm_ends() -> Iterator[None]:
    """SIGTERM ends this process, as at its start."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def asked_by(module: str) -> Any:
    return called_by(module, lambda self: cut_at_stop(None, False))


@pytest.mark.usefixtures("sigterm_ends")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("waitress.task", "waitress"),
        ("cheroot.workers.threadpool", "cheroot"),
        ("gevent.pywsgi", "gevent.pywsgi"),
    ],
)
def test_a_server_that_ends_with_its_process_cuts_unless_sigterm_is_handled(
    module: str, name: str
) -> None:
    assert asked_by(module) == (f"{name} cuts open streams when it stops or reloads", LET)
    signal.signal(signal.SIGTERM, lambda *_: None)
    assert asked_by(module) is None


@pytest.mark.usefixtures("sigterm_ends")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of it")
def test_a_handler_of_gevent_counts_which_python_does_not_know() -> None:
    handler = gevent.signal_handler(signal.SIGTERM, lambda: None)
    try:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert asked_by("gevent.pywsgi") is None
    finally:
        handler.cancel()


@pytest.mark.usefixtures("sigterm_ends")
def test_nothing_is_said_of_another_server_and_where_no_handler_can_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert asked_by("werkzeug.serving") is None

    class Nothing:
        def __init__(self, path: str) -> None: ...

        def read_text(self) -> str:
            raise FileNotFoundError

    monkeypatch.setattr(server_stop, "Path", Nothing)
    assert asked_by("waitress.task") is None


@pytest.mark.parametrize(
    ("cooperative", "module", "found"),
    [
        (True, {}, ("uWSGI cuts open streams when it stops or reloads", LET)),
        (True, {"atexit": print}, None),
        (False, {}, ("uWSGI without --gevent cuts open streams when it stops or reloads", CANNOT)),
        # uWSGI does not call it while a thread is busy.
        (
            False,
            {"atexit": print},
            ("uWSGI without --gevent cuts open streams when it stops or reloads", CANNOT),
        ),
    ],
)
def test_uwsgi_tells_by_its_module(
    cooperative: bool, module: dict[str, Any], found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(**module))
    assert cut_at_stop(None, cooperative) == found


@pytest.mark.parametrize(
    ("functions", "found"),
    [([], ("mod_wsgi cuts open streams when it stops or reloads", LET)), ([print], None)],
)
def test_mod_wsgi_tells_by_its_module(
    functions: list[Any], found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(shutdown_callbacks=functions)
    monkeypatch.setitem(sys.modules, "mod_wsgi", module)
    assert cut_at_stop("mod_wsgi", False) == found


class Worker:
    """In the place of gunicorn's base class."""

    def handle_exit(self, *_: object) -> None: ...


Worker.__module__ = "gunicorn.workers.base"


@pytest.mark.usefixtures("sigterm_ends")
@pytest.mark.parametrize("has_hook", [True, False])
def test_a_worker_of_gunicorn_is_known_by_its_handler(
    has_hook: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssestream.gunicorn.stopping._stopping", object() if has_hook else None)
    signal.signal(signal.SIGTERM, type("GeventWorker", (Worker,), {})().handle_exit)
    found = cut_at_stop(None, True)
    if has_hook:
        assert found is None
    else:
        assert found is not None
        assert found[0] == "gunicorn's worker cuts open streams when it stops or reloads"
        assert "post_worker_init" in found[1]


def test_granian_has_nothing_that_an_app_could_do() -> None:
    found = cut_at_stop("granian", False)
    assert found == ("granian waits for open streams when it stops, and may cut them", CANNOT)
