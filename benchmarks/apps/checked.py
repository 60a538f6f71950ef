"""Importing this checks which checkout's package is measured: see ``--beside``."""

import os
from pathlib import Path

import ssestream

package = str(Path(ssestream.__file__).parent.resolve())
if package != os.environ.get("BENCHMARK_PACKAGE", package):
    raise RuntimeError(f"{package} was imported")
