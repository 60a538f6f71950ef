"""JavaScript programs under Node, in processes of their own."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import NODE_MODULES
from tests.kit.servers import wait_until


class NodeProgram:
    """``node FILE 0``, which prints where it listens. It has the packages of ``tests/node``."""

    def __init__(self, node: str, file: Path, env: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [node, str(file), "0"],
            env={**os.environ, **env, "NODE_PATH": str(NODE_MODULES)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        wait_until(lambda: self._process.poll() is not None or self._listening(), "the program")
        found = self._listening()
        assert found is not None, self.log()
        self.port = int(found[1])

    def _listening(self) -> re.Match[str] | None:
        return re.search(r"Listening at: http://127.0.0.1:(\d+)\n", self.log())

    def log(self) -> str:
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


class NodeScript:
    """A script that answers each line of JSON with one line of JSON, for as long as it is asked."""

    def __init__(self, node: str, file: Path) -> None:
        self._process = subprocess.Popen(
            [node, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        # A test that has failed may have left something that goes on for ever.
        self._process.kill()
        self._process.communicate()
