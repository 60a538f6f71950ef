"""Fixtures of the rooms of ``http``."""

from collections.abc import Iterator

import pytest

from tests.kit.pair import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()
