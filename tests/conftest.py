"""What the tests share: real parts where they are, and a plain word where not.

With ``SSESTREAM_TEST_ALL=1`` a missing part is a failure instead of a skip, and the long tests run.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import pytest

from ssestream.channels import health, listener, replay
from ssestream.http import diagnosis
from ssestream.http.registry import registry
from tests.kit.brokers import Actor
from tests.kit.certificates import make_certificate
from tests.kit.redis_server import RedisServer
from tests.kit.servers import APACHE, MOD_WSGI, UWSGI, Server

if TYPE_CHECKING:
    from tests.kit.postgresql_server import PostgresqlServer

if importlib.util.find_spec("hypothesis") is not None:  # some environments of tox do without it
    from hypothesis import HealthCheck, settings

    # A busy machine, or another process that answers late, is no failure.
    settings.register_profile(
        "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("patient")

# Every program that a test starts would compile all its modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

HERE = Path(__file__).parent
NODE_MODULES = HERE / "node" / "node_modules"


#: The files that take longest. Files run side by side, each in one process: a long one that began
#: among the last would run alone in the end.
LONGEST = (
    "docs/test_deploy.py",
    "servers/test_worker.py",
    "servers/test_shutdown.py",
    "servers/test_jobs.py",
    "servers/test_stalled.py",
    "servers/test_producers.py",
    "servers/test_compression.py",
    "servers/test_slow.py",
    "servers/test_endings.py",
    "servers/test_vanished.py",
    "servers/test_runs.py",
    "servers/test_lag.py",
    "servers/test_reload.py",
    "long/test_chaos.py",
    "docs/test_benchmarks.py",
    "pages/test_shared.py",
    "pages/test_chat.py",
    "unit/channels/test_many_channels.py",
    "unit/brokers/test_contract.py",
    "unit/brokers/test_redis.py",
    "unit/brokers/test_postgresql.py",
    "unit/brokers/test_postgresql_failover.py",
    "unit/brokers/test_postgresql_outages.py",
    "unit/brokers/test_postgresql_restarts.py",
    "unit/brokers/test_sqlite.py",
    "unit/channels/test_listener.py",
    "unit/test_wire.py",
)


#: Which kind of broker meets which kind of loop without ``SSESTREAM_TEST_ALL=1``, in a test with
#: rows of both. The other pairs show nearly the same.
PAIRS = {
    "memory": {"threads", "greenlets"},
    "sqlite": {"threads"},
    "redis": {"greenlets"},
    "postgresql": {"greenlets"},
}


HAS_PSYCOPG = importlib.util.find_spec("psycopg") is not None

#: Files that cannot even be imported without psycopg. The rows of PostgreSQL in other files say so.
collect_ignore = [
    "docs/test_postgresql.py",
    "unit/brokers/test_migrate.py",
    "unit/brokers/test_postgresql.py",
    "unit/brokers/test_postgresql_batches_that_fail.py",
    "unit/brokers/test_postgresql_failover.py",
    "unit/brokers/test_postgresql_full_disk.py",
    "unit/brokers/test_postgresql_group_commit.py",
    "unit/brokers/test_postgresql_outages.py",
    "unit/brokers/test_postgresql_pooler.py",
    "unit/brokers/test_postgresql_removal.py",
    "unit/brokers/test_postgresql_restarts.py",
    "unit/brokers/test_postgresql_tls.py",
    "unit/brokers/test_postgresql_transaction.py",
]
if HAS_PSYCOPG:
    collect_ignore.clear()


def _place(item: pytest.Item) -> int:
    """The place of the file of *item* among all files."""
    name = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files, and leave out the long tests unless all are asked for."""
    items.sort(key=_place)
    if not any("::" in each for each in config.args):
        _refuse_unknown_rows(items)
    if os.environ.get("SSESTREAM_TEST_ALL") != "1":
        reason = "left out, as it is long: SSESTREAM_TEST_ALL=1 runs it"
        for item in items:
            if _is_long(item):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a row by its signal: Python 3.10 and later Pythons write an ``IntEnum`` in two ways."""
    return val.name if isinstance(val, signal.Signals) else None


def _row(item: pytest.Item) -> str:
    return item.name.partition("[")[2].removesuffix("]")


def _is_long(item: pytest.Item) -> bool:
    shown = item.get_closest_marker("long_except")
    if shown is not None:
        return _row(item) not in shown.args
    parts = set(_row(item).split("-"))
    loops = parts & {"threads", "greenlets"}
    if any(loops - PAIRS[kind] for kind in parts & PAIRS.keys()):
        return True
    return item.get_closest_marker("long") is not None


def _refuse_unknown_rows(items: list[pytest.Item]) -> None:
    """A row that ``long_except`` names and no test has would leave out all rows of the test."""
    named = set()
    for item in items:
        shown = item.get_closest_marker("long_except")
        if shown is not None:
            named |= {f"{item.nodeid.partition('[')[0]}[{row}]" for row in shown.args}
    unknown = named - {item.nodeid for item in items}
    if unknown:
        raise pytest.UsageError(f"long_except() names rows that are not there: {sorted(unknown)}")


@pytest.fixture(autouse=True)
def every_stream_is_closed() -> Iterator[None]:
    """No test finds the streams that others have left, also not where it has its own registry."""
    yield
    for stream in registry.streams():
        stream.cut("client")


def _missing(what: str, how: str) -> None:
    if os.environ.get("SSESTREAM_TEST_ALL") == "1":
        pytest.fail(f"{what} is missing, and SSESTREAM_TEST_ALL=1 leaves nothing out: {how}")
    # For a machine with nothing but Python and a shell.
    pytest.skip(f"left out, as {what} is not installed: {how}")


def _found(command: str, what: str, how: str) -> str:
    """The path of *command*, which may be in a folder that is not in everybody's PATH."""
    found = shutil.which(command) or shutil.which(command, path="/usr/sbin")
    if found is None:
        _missing(what, how)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def uwsgi() -> None:
    if not Path(sys.executable).with_name("uwsgi").exists():
        _missing("uWSGI", "pip install pyuwsgi")


@pytest.fixture(scope="session")
def mod_wsgi() -> None:
    """Debian's Apache and mod_wsgi, which can serve the package that is tested."""
    if not (APACHE.exists() and MOD_WSGI.exists()):
        _missing("mod_wsgi", "install Debian's apache2-bin and libapache2-mod-wsgi-py3")
    made_for = MOD_WSGI.resolve().name.rpartition("-")[2]
    own = "{}.{}".format(*sys.version_info)
    if made_for != own:
        pytest.skip(f"left out, as Debian's mod_wsgi is for Python {made_for}, and this is {own}")
    if os.geteuid() == 0:
        # Apache serves as another user.
        read = ["cat", str(HERE / "conftest.py"), gevent.__file__]
        if subprocess.run(read, user="nobody", stdout=subprocess.DEVNULL, check=False).returncode:
            pytest.skip("left out, as Apache's user may not read these files: run it as that user")


@pytest.fixture(scope="session")
def node() -> str:
    """The Node executable, with the npm packages of ``tests/node`` beside it."""
    found = shutil.which("node")
    if found is None:
        _missing("Node", "install Debian's nodejs")
    if not (NODE_MODULES / "ssestream").is_dir():
        _missing("npm's ssestream", "npm ci --prefix tests/node")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder of npm's packages, with every one that ``tests/node/package.json`` names."""
    names = json.loads((NODE_MODULES.parent / "package.json").read_text())["dependencies"]
    for name in names:
        if not (NODE_MODULES / name).is_dir():
            _missing(f"npm's {name}", "npm ci --prefix tests/node")
    return NODE_MODULES


@pytest.fixture(scope="session")
def node_with_all(node: str) -> str:
    """Node, with the packages beside it that programs in the tables of docs/porting.rst use."""
    names = json.loads((NODE_MODULES.parent / "package.json").read_text())["devDependencies"]
    for name in names:
        if not (NODE_MODULES / name).is_dir():
            _missing(f"npm's {name}", "npm ci --prefix tests/node")
    return node


@pytest.fixture(scope="session")
def chromium() -> tuple[str, str]:
    """The paths of Chromium and of its driver."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        _missing("Chromium", "install Debian's chromium and chromium-driver")
    assert browser is not None
    assert driver is not None
    return browser, driver


@pytest.fixture(scope="session")
def sentry() -> None:
    """sentry-sdk, of the service that collects errors."""
    if importlib.util.find_spec("sentry_sdk") is None:
        _missing("sentry-sdk", "pip install sentry-sdk")


@pytest.fixture(scope="session")
def async_views() -> None:
    """Flask's ``async def`` views."""
    if importlib.util.find_spec("asgiref") is None:
        _missing("asgiref", "pip install asgiref")


@pytest.fixture(scope="session")
def installed() -> Callable[[str], None]:
    """``installed("flask_cors")``: skip the test if this module of a package is missing."""

    def check(module: str) -> None:
        if importlib.util.find_spec(module) is None:
            _missing(module, "pip install -e '.[test]'")

    return check


@pytest.fixture(scope="session")
def need(installed: Callable[[str], None], request: pytest.FixtureRequest) -> Callable[[str], None]:
    """``need("granian")``: skip the test if what serves as this kind of server is missing."""

    def check(kind: str) -> None:
        if kind in UWSGI:
            request.getfixturevalue("uwsgi")
        elif kind == "mod_wsgi":
            request.getfixturevalue("mod_wsgi")
        elif kind in ("a2wsgi", "cheroot", "granian", "hypercorn"):
            installed(kind)

    return check


@pytest.fixture
def greenlets_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners and readers are greenlets, as in a process that gevent has patched."""
    for module in (health, listener, replay):
        monkeypatch.setattr(module, "spawn", gevent.spawn)
    monkeypatch.setattr(listener.time, "sleep", gevent.sleep)


@pytest.fixture(scope="session")
def nginx() -> str:
    """The nginx executable, which is not in everybody's PATH."""
    return _found("nginx", "nginx", "install Debian's nginx")


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's own judge of rules and queries."""
    return _found("promtool", "promtool", "install Debian's prometheus")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The paths of a certificate for localhost and of its key."""
    if shutil.which("openssl") is None:
        _missing("OpenSSL", "install Debian's openssl")
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def redis_executable() -> str:
    """The redis-server executable."""
    return _found("redis-server", "Redis", "install Debian's redis-server")


@pytest.fixture(scope="session")
def postgresql_programs() -> Path:
    """The folder of PostgreSQL's programs."""
    if not HAS_PSYCOPG:
        _missing("psycopg", "pip install -e '.[test]'")
    from tests.kit.postgresql_server import programs_of_postgresql

    found = programs_of_postgresql()
    if found is None:
        _missing("PostgreSQL", "install Debian's postgresql")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def pgbouncer() -> str:
    return _found("pgbouncer", "PgBouncer", "install Debian's pgbouncer")


@pytest.fixture(scope="session")
def postgresql_server(postgresql_programs: Path) -> Iterator["PostgresqlServer"]:
    """One PostgreSQL for all tests that do not stop it. Each test has a database of its own."""
    from tests.kit.postgresql_server import PostgresqlServer, in_memory

    server = PostgresqlServer(postgresql_programs, parent=in_memory())
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def start_postgresql(postgresql_programs: Path) -> Iterator[Callable[..., "PostgresqlServer"]]:
    """Start a PostgreSQL that the test may stop; all end with the test."""
    from tests.kit.postgresql_server import PostgresqlServer

    servers: list[PostgresqlServer] = []

    def start(*settings: str) -> PostgresqlServer:
        servers.append(PostgresqlServer(postgresql_programs))
        return servers[-1].start(*settings)

    yield start
    for server in servers:
        server.remove()


@pytest.fixture
def unprivileged() -> tuple[str, ...]:
    """Words before a command that may write only what its user may, even if that is root."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        _missing("setpriv", "install Debian's util-linux, or run the tests as another user")
    return ("setpriv", "--bounding-set=-dac_override", "--")


@pytest.fixture
def start_redis(redis_executable: str) -> Iterator[Callable[..., RedisServer]]:
    """Start Redis: ``start_redis("--requirepass", "x", durable=True)``; all end with the test."""
    servers: list[RedisServer] = []

    def start(*args: str, **kwargs: Any) -> RedisServer:
        server = RedisServer(redis_executable, *args, **kwargs)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.remove()


@pytest.fixture
def redis_server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis of this test's own, that keeps nothing over a restart."""
    return start_redis()


@pytest.fixture
def actor() -> Iterator[Callable[..., Actor]]:
    """Start a function of `tests.servers.apps.brokers` in a process; all end with the test."""
    actors: list[Actor] = []

    def start(*args: str, **env: str) -> Actor:
        actors.append(Actor(*args, **env))
        return actors[-1]

    yield start
    for each in actors:
        each.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start real servers, such as ``serve("gevent", "tests.servers.apps.app:app")``.

    All end with the test.
    """
    servers: list[Server] = []

    def start(*args: Any, **kwargs: Any) -> Server:
        server = Server(*args, **kwargs)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


#: The kinds of brokers. Another is another fixture ``<kind>_url``, which gives the URL of one in
#: which nothing was ever published.
KINDS = ("memory", "sqlite", "redis", "postgresql")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    """Of each kind of broker."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=[kind for kind in KINDS if kind != "memory"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Of each kind that processes share."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process have warned of nothing yet."""
    monkeypatch.setattr(diagnosis, "_said", set())


@pytest.fixture
def memory_url() -> str:
    return "memory://"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/events.db"


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def postgresql_url(postgresql_server: "PostgresqlServer") -> Iterator[str]:
    url = postgresql_server.make_database()
    yield url
    postgresql_server.drop_database(url)
