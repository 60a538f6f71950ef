"""What several rooms share: `Channels` over each kind of broker, and what an app may raise."""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ssestream import Channels
from tests.kit.brokers import all_closed
from tests.kit.failing import RAISED
from tests.kit.states import end_all_of

Make = Callable[..., Channels]


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
