"""The page on testing one's views is a test file that passes as it stands."""

from pathlib import Path

import pytest

from tests.docs.test_docs import PROGRAMS
from tests.kit.pytest_run import PATCHED, check, run_pytest


@pytest.mark.long_except("plain")
@pytest.mark.skipif("docs_testing_views" not in PROGRAMS, reason="Flask-Login is not installed")
@pytest.mark.parametrize("first", ["", PATCHED], ids=["plain", "patched"])
def test_its_tests_pass(tmp_path: Path, first: str) -> None:
    check(run_pytest(tmp_path, PROGRAMS["docs_testing_views"], first), passed=13)
