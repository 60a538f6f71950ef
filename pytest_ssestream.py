"""The plugin for pytest: the fixtures ``sse``, ``sse_clock`` and ``channels``.

It is no part of the package ``ssestream``, and imports it only in a fixture. So a run of pytest
that tests no stream does not pay for it, and gevent can patch Python after the plugins are loaded.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ssestream import Channels
    from ssestream.testing import Clock, Events


@pytest.fixture
def sse() -> "Iterator[Callable[..., Events]]":
    """``sse(app, "/news")``: a client of the stream, as `ssestream.testing.stream` makes it.

    It leaves at the end of the test, if it has not left before. Then nothing may be open that was
    not open before the test: no stream, no timer and no subscription.
    """
    from ssestream.testing import nothing_left_open, stream

    with nothing_left_open(), contextlib.ExitStack() as clients:

        def connect(*args: object, **options: object) -> "Events":
            connected: Callable[..., Events] = stream
            return clients.enter_context(connected(*args, **options))

        yield connect


@pytest.fixture
def sse_clock() -> "Iterator[Clock]":
    """The clock of streams and timers, which stands until ``sse_clock.advance(seconds)``."""
    from ssestream.testing import stopped_clock

    with stopped_clock() as clock:
        yield clock


@pytest.fixture
def channels(request: pytest.FixtureRequest) -> "Iterator[Channels]":
    """The channels of the fixture ``app``, or else new ones, in an empty memory of their own."""
    from ssestream import Channels
    from ssestream.testing import in_memory

    app = None
    try:
        app = request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":  # the fixture is there, and needs another one that is not
            raise
    found = getattr(app, "extensions", {}).get("ssestream")
    with in_memory(found if isinstance(found, Channels) else Channels("memory://")) as channels:
        yield channels
