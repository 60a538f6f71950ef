"""What is wrong with a set-up is said, once."""

import pytest

from ssestream.http import diagnosis


def test_each_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    diagnosis._warn("a test of %s", "warnings")
    diagnosis._warn("a test of %s", "warnings, again")
    assert [record.getMessage() for record in caplog.records] == ["a test of warnings"]
