"""Learn from the kernel that a file was touched (inotify, on Linux)."""

import contextlib
import ctypes
import os
import sys
from typing import Any

#: inotify's IN_ATTRIB: the times of a file have changed, or the file was removed.
TOUCHED = 0x4

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class FileWatch:
    """Can be read, as poll() says, after the watched file was touched.

    Raises ``OSError`` if there is no inotify, or none for this user any more.
    """

    _fd = -1

    def __init__(self) -> None:
        if _libc is None:
            raise OSError("this system has no inotify")
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:  # the usual limit is 128 for each user
            raise OSError(ctypes.get_errno(), "no inotify instance is free")

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def watch(self, path: str) -> bool:
        """Watch the file that is at *path* now. False if there is no file."""
        return bool(_libc.inotify_add_watch(self._fd, os.fsencode(path), TOUCHED) >= 0)

    def clear(self) -> None:
        """Forget the touches until now."""
        # If more than this many bytes wait, the rest only wakes the waiter once more.
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)
