"""gunicorn's configuration: does its worker serve streams, and does it end them well?"""

import contextlib
import io
import sys
from collections.abc import Iterator

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config
from gunicorn.util import load_class
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from ..gunicorn.worker import SseWorker, post_worker_init
from ..settings import Settings
from .finding import Finding, fault, note, ok
from .settings import examine_descriptors

#: Seconds that a worker needs to end its streams. gunicorn kills it before with less.
LEAST_GRACE = 2

#: Threads of a worker below which a few open tabs take them all.
FEW_THREADS = 20

#: Seconds of ``keepalive`` above which a silent connection delays the stop of a worker.
LONG_KEEPALIVE = 10

SSE_WORKER = 'worker_class = "ssestream.gunicorn.SseWorker" in gunicorn.conf.py'

HOOK = "from ssestream.gunicorn import post_worker_init in gunicorn.conf.py"

#: Workers that cannot serve a stream of a WSGI app, and the reason. They are known by their
#: names, because newer versions of gunicorn have no eventlet worker any more.
UNFIT = {
    "eventlet": "the first stream stops the server: streams need gevent or threads",
    "tornado": "tornado collects a whole response before it sends the first byte",
    "asgi": "it runs ASGI apps, and the view's response is a WSGI one",
}


def read_gunicorn(arguments: list[str]) -> Config:
    """The configuration that ``gunicorn`` has with *arguments*. Nothing is started.

    gunicorn's own code reads ``GUNICORN_CMD_ARGS`` and the configuration file, which runs the
    file. As at the start of gunicorn, the current directory changes to ``chdir``.

    :raise ValueError: if gunicorn refuses its configuration. The text is gunicorn's.
    """
    said, own_arguments = io.StringIO(), [*sys.argv]
    # gunicorn reads the arguments of the process, and exits if one is wrong.
    sys.argv[:] = ["gunicorn", *arguments]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return _Application("%(prog)s [OPTIONS] [APP_MODULE]", prog="gunicorn").cfg
    except SystemExit:
        lines = said.getvalue().strip().splitlines() or ["it says nothing"]
        raise ValueError(lines[-1]) from None
    finally:
        sys.argv[:] = own_arguments


class _Application(WSGIApplication):  # type: ignore[misc]
    """gunicorn's command, for which an app need not be named."""

    def load_config(self) -> None:
        # WSGIApplication's own method refuses a command line without an app.
        super(WSGIApplication, self).load_config()


def examine_gunicorn(arguments: list[str], settings: Settings | None = None) -> list[Finding]:
    """Look at the configuration that ``gunicorn`` has with *arguments*.

    :param settings: those of the app; None if the app is not known.
    """
    try:
        cfg = read_gunicorn(arguments)
    except ValueError as error:
        seen = f"gunicorn refuses its configuration: {error}"
        return [fault(seen, "gunicorn does not start", "the line that the error names")]
    worker_class, why = _class_of(cfg)
    if worker_class is None:
        return [fault(f"worker_class is {cfg.worker_class_str}", why, SSE_WORKER)]
    return [
        *_worker(cfg, worker_class),
        *_room(cfg, worker_class, settings),
        *_ending(cfg, worker_class),
        *_stop(cfg, worker_class, settings),
        *_starts(cfg),
    ]


# -- the class of the worker


def _class_of(cfg: Config) -> tuple[type | None, str]:
    """The class of the worker, or None and the reason why there is no fit one.

    ``cfg.worker_class`` is not read, because it calls ``setup()``, by which a class may patch.
    """
    name = cfg.worker_class_str
    for word, why in UNFIT.items():
        if word in name.lower():
            return None, why
    try:
        is_threaded = name == "gthread"
        return load_class(name if is_threaded else cfg.settings["worker_class"].get()), ""
    except (AttributeError, ImportError, RuntimeError) as error:
        # gunicorn's error ends with a traceback, whose last line says why.
        said = str(error).strip(" \n]").splitlines() or [type(error).__name__]
        return None, f"gunicorn does not start: {said[-1]}"


def _worker(cfg: Config, worker_class: type) -> Iterator[Finding]:
    name = cfg.worker_class_str
    if issubclass(worker_class, SyncWorker):
        yield fault(
            f"worker_class is {name}, and workers is {cfg.workers}",
            "a worker answers one request at a time: one stream blocks it, and gunicorn kills the"
            f" worker when the stream has been open for {cfg.timeout} s (timeout)",
            SSE_WORKER,
        )
    elif issubclass(worker_class, ThreadWorker):
        yield _threads(cfg)
    elif issubclass(worker_class, GeventWorker):
        yield ok(f"worker_class is {name}: a worker serves thousands of streams")
        if cfg.timeout == 0:
            yield note(
                "timeout is 0",
                "code that blocks a worker stops its streams, and gunicorn never replaces it",
                "timeout = 30 in gunicorn.conf.py: a stream may last longer",
            )
    else:
        why = "a stream needs a greenlet or a thread for as long as it is open"
        yield note(f"worker_class is {name}, which the doctor does not know", why, SSE_WORKER)


def _threads(cfg: Config) -> Finding:
    seen = f"worker_class is gthread, and threads is {cfg.threads}"
    if cfg.threads >= FEW_THREADS:
        return ok(seen)
    return fault(
        seen,
        f"each stream keeps a thread: with {cfg.threads} streams, a worker answers nothing else",
        f"threads above the streams of a worker, in gunicorn.conf.py; or {SSE_WORKER}",
    )


# -- how many streams there is room for


def _room(cfg: Config, worker_class: type, settings: Settings | None) -> Iterator[Finding]:
    if issubclass(worker_class, ThreadWorker):
        name, places = "threads", cfg.threads
    elif issubclass(worker_class, GeventWorker):
        name, places = "worker_connections", cfg.worker_connections
        yield examine_descriptors(name, places)
    else:
        return
    if settings is None:
        return
    most = settings.max_streams
    seen = f"SSESTREAM_MAX_STREAMS is {most}, and {name} is {places}"
    why = f"with {places} streams, a worker answers nothing else, and the next client waits"
    change = f"SSESTREAM_MAX_STREAMS below {places}; or more {name} in gunicorn.conf.py"
    if most is None:
        yield note(seen, why, change)
    elif most >= places:
        yield fault(seen, why, change)
    else:
        yield ok(seen)


# -- how streams end


def _stop(cfg: Config, worker_class: type, settings: Settings | None) -> Iterator[Finding]:
    grace = cfg.graceful_timeout
    if grace < LEAST_GRACE:
        yield fault(
            f"graceful_timeout is {grace} s",
            f"a worker needs up to {LEAST_GRACE} s to end its streams, and is killed before:"
            " streams are cut",
            "graceful_timeout = 10 in gunicorn.conf.py",
        )
    elif settings is not None and settings.on_shutdown == "finish":
        yield note(
            f"streams may finish (SSESTREAM_ON_SHUTDOWN), and graceful_timeout is {grace} s",
            f"a stream that lasts longer than {grace - 1} s after a SIGTERM or a reload is cut",
            "graceful_timeout above the time of most answers, in gunicorn.conf.py"
            " (docs/endings.rst)",
        )
    else:
        yield ok(f"graceful_timeout is {grace} s")
    if cfg.keepalive > LONG_KEEPALIVE and issubclass(worker_class, GeventWorker):
        yield note(
            f"keepalive is {cfg.keepalive} s",
            "a worker that stops waits for silent connections of a proxy, for at most"
            f" {min(cfg.keepalive, grace)} s",
            "keepalive = 2 in gunicorn.conf.py, unless a balancer needs more (docs/hosts.rst)",
        )
    if cfg.max_requests and not cfg.max_requests_jitter and cfg.workers > 1:
        yield note(
            f"max_requests is {cfg.max_requests}, without max_requests_jitter",
            "the workers stop at about the same time, and all clients come back together",
            f"max_requests_jitter = {max(1, cfg.max_requests // 2)} in gunicorn.conf.py, or no"
            " max_requests",
        )


def _ending(cfg: Config, worker_class: type) -> Iterator[Finding]:
    """Whether something ends the streams of a worker that has to stop."""
    if issubclass(worker_class, SseWorker):
        return
    setting = cfg.settings["post_worker_init"]
    hook = setting.get()
    names = getattr(getattr(hook, "__code__", None), "co_names", ())
    if hook is post_worker_init or "post_worker_init" in names:
        yield ok("the hook post_worker_init ends the streams of a worker that stops")
    elif hook is type(setting).default:
        yield fault(
            "no hook post_worker_init",
            "a worker that stops waits for its streams until graceful_timeout"
            f" ({cfg.graceful_timeout} s), and cuts them: all clients come back at one moment",
            f"{HOOK}; or {SSE_WORKER}",
        )
    else:
        yield note(
            "a hook post_worker_init of the app's own, which does not name ssestream's",
            "unless it calls ssestream's hook, a worker that stops cuts its streams",
            "ssestream.gunicorn.post_worker_init(worker) in that hook (docs/stopping.rst)",
        )


def _starts(cfg: Config) -> Iterator[Finding]:
    if cfg.preload_app:
        yield note(
            "preload_app is on",
            "timers of a module run in gunicorn's master, which has no streams; modules are"
            " loaded before gevent's patches; a reload loads no new code",
            "preload_app = False in gunicorn.conf.py",
        )
    speaks_h2 = "h2" in getattr(cfg, "http_protocols", ())
    if speaks_h2 and (cfg.is_ssl or getattr(cfg, "http2_cleartext", "off") != "off"):
        yield fault(
            "gunicorn's own HTTP/2 is on",
            "it serves the streams of one connection one after another: the second tab waits",
            'http_protocols = "h1" in gunicorn.conf.py, and HTTP/2 in the proxy (docs/deploy.rst)',
        )
