"""A run of pytest in a process of its own, with the plugin as the package declares it."""

import configparser
import os
import subprocess
import sys
from pathlib import Path

from tests.kit.servers import ROOT

#: The first lines of a ``conftest.py`` in which gevent patches Python.
PATCHED = "from gevent import monkey\nmonkey.patch_all()\n"

#: Plugins that are left out. anyio's imports ssl, and gevent warns if it patches ssl afterwards.
OTHERS = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio")


def run_pytest(folder: Path, tests: str, conftest: str = "") -> str:
    """Run pytest over *tests*, the text of a test file, and return what it prints."""
    # The plugin is found whether or not this checkout is installed anew.
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (declared,) = setup["options.entry_points"]["pytest11"].split("\n")[1:]
    info = folder / "path" / "declared-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{declared}\n")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_it.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *OTHERS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{info.parent}", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


def check(said: str, passed: int, failed: int = 0, errors: int = 0) -> None:
    """Check the numbers in the last line of what pytest has said."""
    last = (said.splitlines() or [""])[-1]
    for word, number in {"passed": passed, "failed": failed, "error": errors}.items():
        assert (f"{number} {word}" in last) == bool(number), said
