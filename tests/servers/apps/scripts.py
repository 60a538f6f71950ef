"""An example as a newcomer runs it: ``python examples/chat.py``."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.kit.servers import ROOT, Client, free_port, wait_until


@contextlib.contextmanager
def script(name: str, env: dict[str, str]) -> Iterator[int]:
    """The port on which the script ``examples/<name>`` serves, until the block is left."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "examples" / name],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(port), **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: process.poll() is not None or is_open(port), f"{name} to serve")
            said = os.pread(log.fileno(), 10_000, 0).decode()
            assert process.poll() is None, said
            yield port
        finally:
            process.kill()
            process.wait()


def is_open(port: int) -> bool:
    try:
        Client(port).fin()
    except ConnectionRefusedError:
        return False
    return True
