"""A small disk, to be filled."""

import contextlib
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A file system of *size*, in memory. Only root may mount one."""

    def __init__(self, path: Path, size: str = "64k") -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={size}", "none")

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.path / "filler").open("wb", 0) as file:
            for size in (1 << 20, 1 << 10):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        (self.path / "filler").unlink()

    def protect(self, mode: str = "ro") -> None:
        self._mount("-o", f"remount,{mode}")

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def _mount(self, *words: str) -> None:
        done = subprocess.run(
            ["mount", *words, str(self.path)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"this machine mounts nothing: {done.stderr}")
