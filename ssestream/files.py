"""tail_file(): the lines of a growing file, as a source of messages.

It does what ``tail -F`` does: it follows the name and not the file, so a log that is rotated goes
on. Everybody who shows a log on a page writes this loop once, and most loops miss one of these: a
line that is half written, a rotation, a truncation, a file that comes later, and a client that
leaves while nothing is written.
"""

import codecs
import errno
import io
import math
import os
import stat
from collections.abc import Generator, Iterator
from typing import Any

import gevent

from .plain import shortened
from .wire import Message

__all__ = ["tail_file"]

#: The bytes of one read. Other greenlets run between two reads that find no line.
_CHUNK = 65536

#: The most characters of a line. The rest of a longer line comes as further lines, so a file
#: without any newline takes no more memory than this.
_MOST = 65536


def tail_file(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    lines: int | None = 10,
    poll: float = 0.25,
    encoding: str = "utf-8",
) -> Generator[Message, None, None]:
    """Follow the file at *path*: a source for `pipeline`, one message ``{"data": line}`` a line.

    ``return pipeline(tail_file("/var/log/app.log"), SseStream(request), ServerResponse())`` is a
    whole view. The source never ends by itself. It opens the file when its first message is asked
    for, and closes it when it is closed, as a pipeline does as soon as the client leaves.

    It begins with the last *lines* lines of the file: 0 is only what comes now, None is the whole
    file. It looks for more every *poll* seconds. A line is given when its newline has been written,
    without the newline and without a carriage return before it. A line of more than 65,536
    characters is given in parts. *encoding* is the one of the file; bytes that are wrong in it
    become U+FFFD.

    A file that is not there is waited for, and begins at its first line. After a rotation, the old
    file is read to its end, and then the new one from its beginning. An empty new file is not begun
    while the old one still has a name, as the writer may not have changed over yet. A file that has
    become shorter is read from its beginning again. In both cases an unfinished line is given as it
    is. A file that was cut and has grown past its old length between two looks cannot be told from
    one that was not cut: ``tail -F`` misses this, too.

    Raises ``TypeError`` and ``ValueError`` at once: if *path* is no path or holds NUL, if *lines*
    is not None and not an int of 0 or more, if *poll* is not a finite number above 0, and if
    *encoding* is unknown or is no text encoding in which a newline is one byte. While it is drawn
    from, it raises ``OSError`` if *path* is there and cannot be read, or is no regular file.
    """
    path = os.fspath(path)
    if "\0" in os.fsdecode(path):
        raise ValueError("path must not hold NUL")
    if lines is not None:
        if not isinstance(lines, int) or isinstance(lines, bool):
            raise TypeError(f"lines must be an int or None, not {type(lines).__name__}")
        if lines < 0:
            raise ValueError(f"lines must be 0 or more, not {lines}")
    if not isinstance(poll, (int, float)) or isinstance(poll, bool):
        raise TypeError(f"poll must be a number of seconds, not {type(poll).__name__}")
    if not (math.isfinite(poll) and poll > 0):
        raise ValueError(f"poll must be a finite number of seconds above 0, not {poll}")
    return _follow(path, lines, poll, _Lines(_checked(encoding)))


def _checked(encoding: Any) -> str:
    """*encoding*, if a newline is one byte in it: the last lines are counted by that byte."""
    if not isinstance(encoding, str):
        raise TypeError(f"encoding must be a str, not {type(encoding).__name__}")
    try:
        newline = "\n".encode(encoding)
    except (LookupError, ValueError) as error:
        raise ValueError(f"encoding must be one of Python's text encodings: {error}") from None
    if newline != b"\n":
        raise ValueError(
            f"encoding must have a newline of one byte, and {shortened(encoding)} has not"
        )
    return encoding


class _Lines:
    """The lines in what is read of a file, and the beginning of a line that has no end yet."""

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._begun = ""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The lines that *data* completes."""
        *lines, self._begun = (self._begun + self._decoder.decode(data)).split("\n")
        for line in lines:
            *parts, rest = _parts(line.removesuffix("\r"))
            yield from ({"data": part} for part in parts)
            yield {"data": rest}
        *parts, self._begun = _parts(self._begun)
        yield from ({"data": part} for part in parts)

    def end(self) -> Iterator[Message]:
        """The unfinished line. The file is over, so nobody finishes it."""
        rest = self._begun + self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._begun = ""
        if rest:
            yield {"data": rest}


def _parts(line: str) -> list[str]:
    return [line[start : start + _MOST] for start in range(0, len(line) or 1, _MOST)]


def _follow(
    path: str | bytes, lines: int | None, poll: float, text: _Lines
) -> Generator[Message, None, None]:
    file = _opened(path)
    try:
        if file is not None:
            file.seek(0 if lines is None else _start_of_last(file, lines))
        while True:
            if file is not None:
                # First look and then read: all that was written before the rotation is read.
                is_over = _is_replaced(file, path)
                if os.fstat(file.fileno()).st_size < file.tell():
                    yield from text.end()
                    file.seek(0)
                while data := file.read(_CHUNK):
                    yield from text.feed(data)
                if is_over:
                    yield from text.end()
                    file.close()
                    file = None
            if file is None:
                file = _opened(path)
                if file is not None:
                    continue
            # In a patched process or not: a departed client ends this wait, and not time.sleep().
            gevent.sleep(poll)
    finally:
        if file is not None:
            file.close()


def _opened(path: str | bytes) -> io.FileIO | None:
    """The file at *path*, or None if there is none yet."""
    try:
        # Without O_NONBLOCK, a named pipe would stop the process until somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file, which could be followed", path)
    return io.FileIO(descriptor)


def _start_of_last(file: io.FileIO, lines: int) -> int:
    """The position at which the last *lines* whole lines of *file* begin."""
    missing = lines + 1  # the newline before these lines, too
    position = file.seek(0, io.SEEK_END)
    while position > 0:
        size = min(_CHUNK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        found = len(block)
        while (found := block.rfind(b"\n", 0, found)) >= 0:
            missing -= 1
            if missing == 0:
                return position + found + 1
        gevent.sleep(0)
    return 0


def _is_replaced(file: io.FileIO, path: str | bytes) -> bool:
    """Whether the writer no longer writes into *file*, which was at *path*."""
    ours = os.fstat(file.fileno())
    is_deleted = ours.st_nlink == 0
    try:
        now = os.stat(path)
    except FileNotFoundError:
        # Renamed: the writer goes on in it until it opens a new one. A deleted file is let go, as
        # its space is only free when nobody has it open.
        return is_deleted
    return not os.path.samestat(ours, now) and (is_deleted or now.st_size > 0)
