"""Programs in Python that run in a process of their own."""

import subprocess
import sys
from collections.abc import Sequence

from tests.kit.servers import PATIENCE, ROOT


def run_program(
    program: str, *args: str, options: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run *program* to its end, in the repository, with *options* of Python."""
    return subprocess.run(
        [sys.executable, *options, "-c", program, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
