"""A browser for the pages."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.apps.browser import browser


@pytest.fixture(scope="module")
def driver(chromium: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(chromium, tmp_path_factory.mktemp("chromium")) as driver:
        yield driver
