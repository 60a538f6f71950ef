"""A followed file: rotation, truncation, unfinished lines, and a client that leaves."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from ssestream import ServerResponse, SseStream, pipeline
from ssestream.files import tail_file
from tests.kit.visit import Visit, on_threads_and_greenlets, until


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


class Follower:
    """Draws from a followed file in a greenlet, and has the lines so far."""

    def __init__(self, path: Any, **options: Any) -> None:
        self.lines: list[Any] = []
        self.source = tail_file(path, poll=0.002, **options)
        self._greenlet = gevent.spawn(self._draw)

    def _draw(self) -> None:
        for message in self.source:
            assert set(message) == {"data"}
            self.lines.append(message["data"])

    def come(self, *lines: str) -> None:
        """Wait until *lines* have come, and nothing else."""
        until(lambda: len(self.lines) >= len(lines) or self._greenlet.dead, f"{lines}")
        assert self.lines == [*lines]

    def stop(self) -> None:
        self._greenlet.kill()


@pytest.fixture
def follow() -> Iterator[Any]:
    followers: list[Follower] = []

    def start(path: Any, **options: Any) -> Follower:
        followers.append(Follower(path, **options))
        return followers[-1]

    yield start
    for follower in followers:
        follower.stop()


def append(path: Path, data: str) -> None:
    with path.open("a") as file:
        file.write(data)


def open_here(path: Path) -> int:
    """How often this process has *path* open."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(path))
        except FileNotFoundError:
            pass  # the descriptor of the listing
    return found


def test_it_begins_with_the_last_lines_and_goes_on(log: Path, follow: Any) -> None:
    append(log, "".join(f"{number}\n" for number in range(20)))
    follower = follow(log, lines=2)
    follower.come("18", "19")
    append(log, "20\n\n")
    follower.come("18", "19", "20", "")


@pytest.mark.parametrize(("lines", "begun"), [(0, []), (3, ["a", "b"]), (None, ["a", "b"])])
def test_it_begins_where_it_is_told(
    log: Path, follow: Any, lines: int | None, begun: list[str]
) -> None:
    append(log, "a\nb\n")
    follower = follow(log, lines=lines)
    follower.come(*begun)
    until(lambda: open_here(log), "the open file")
    append(log, "c\n")
    follower.come(*begun, "c")


def test_the_last_lines_may_be_longer_than_a_read(log: Path, follow: Any) -> None:
    lines = [str(number) * 50_000 for number in range(5)]
    append(log, "".join(f"{line}\n" for line in lines))
    follow(log, lines=3).come(*lines[2:])


def test_an_unfinished_line_is_held_back(log: Path, follow: Any) -> None:
    append(log, "first\nsec")
    follower = follow(log)
    follower.come("first")
    append(log, "ond\r\nthird")
    follower.come("first", "second")


def test_a_file_that_comes_later_is_read_from_its_beginning(log: Path, follow: Any) -> None:
    follower = follow(log, lines=0)
    gevent.sleep(0.01)
    append(log, "a\nb\n")
    follower.come("a", "b")


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(log: Path, follow: Any) -> None:
    append(log, "a\n")
    follower = follow(log)
    follower.come("a")
    old = log.rename(log.with_suffix(".1"))
    append(old, "b\n")
    follower.come("a", "b")
    # The writer has not changed over yet.
    log.touch()
    append(old, "c\nunfinished")
    follower.come("a", "b", "c")
    append(log, "d\n")
    follower.come("a", "b", "c", "unfinished", "d")
    assert open_here(old) == 0


def test_a_deleted_file_is_let_go(log: Path, follow: Any) -> None:
    append(log, "a\n")
    follower = follow(log)
    follower.come("a")
    log.unlink()
    until(lambda: not open_here(log), "the closed file")
    append(log, "b\n")
    follower.come("a", "b")


def test_a_truncated_file_is_read_again(log: Path, follow: Any) -> None:
    append(log, "a\nb\nunfinished")
    follower = follow(log)
    follower.come("a", "b")
    log.write_text("")
    follower.come("a", "b", "unfinished")
    append(log, "c\n")
    follower.come("a", "b", "unfinished", "c")


def test_wrong_bytes_are_replaced(log: Path, follow: Any) -> None:
    log.write_bytes(b"\xff\xc3\xbc\n")
    follow(log).come("\ufffd\xfc")


def test_another_encoding_is_read(log: Path, follow: Any) -> None:
    log.write_bytes(b"\xfc\n")
    follow(log, encoding="latin-1").come("\xfc")


def test_a_long_line_comes_in_parts(log: Path, follow: Any) -> None:
    append(log, "x" * 65_536 + "\n" + "y" * 65_537 + "\n" + "z" * 70_000)
    follower = follow(log, lines=None)
    follower.come("x" * 65_536, "y" * 65_536, "y", "z" * 65_536)
    append(log, "\n")
    follower.come("x" * 65_536, "y" * 65_536, "y", "z" * 65_536, "z" * 4464)


@on_threads_and_greenlets
def test_a_client_that_leaves_closes_the_file_at_once(log: Path) -> None:
    append(log, "a\n")

    def app(environ: Any, start_response: Any) -> Any:
        # A wait that would outlast the test.
        source = tail_file(log, poll=1000)
        return pipeline(source, SseStream(environ), ServerResponse())(environ, start_response)

    with Visit(app) as visit:
        visit.get("/")
        visit.read_until(b"data: a\n\n")
        assert open_here(log) == 1
        visit.fin()
        until(lambda: not open_here(log), "the closed file")


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"path": 1}, TypeError, "PathLike"),
        ({"path": "a\0b"}, ValueError, "path must not hold NUL"),
        ({"lines": "10"}, TypeError, "lines must be an int or None, not str"),
        ({"lines": True}, TypeError, "lines must be an int or None, not bool"),
        ({"lines": -1}, ValueError, "lines must be 0 or more, not -1"),
        ({"poll": "1"}, TypeError, "poll must be a number of seconds, not str"),
        ({"poll": 0}, ValueError, "poll must be a finite number of seconds above 0, not 0"),
        ({"poll": float("nan")}, ValueError, "poll must be a finite number"),
        ({"encoding": None}, TypeError, "encoding must be a str, not NoneType"),
        ({"encoding": "klingon"}, ValueError, "encoding must be one of Python's text encodings"),
        ({"encoding": "hex"}, ValueError, "encoding must be one of Python's text encodings"),
        ({"encoding": "utf-16"}, ValueError, "encoding must have a newline of one byte"),
    ],
)
def test_a_wrong_argument_is_named_at_once(
    arguments: dict[str, Any], error: type[Exception], what: str
) -> None:
    with pytest.raises(error, match=what):
        tail_file(**{"path": "app.log", **arguments})


def test_what_is_no_regular_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="not a regular file"):
            next(tail_file(path))
