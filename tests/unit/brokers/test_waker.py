"""Waking a broker's wait, which waits for a file too."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ssestream.brokers.waker import PollableWaker, poll_in_greenlet, poll_in_thread

Poll = Callable[[float, list[Any]], list[Any]]

both = pytest.mark.parametrize("poll", [poll_in_thread, poll_in_greenlet])


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    pipes = [os.pipe() for _ in range(3)]
    yield pipes
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])


def test_a_wake_before_the_wait_ends_it_at_once_and_only_it() -> None:
    waker = PollableWaker()
    waker.wake()
    waker.wake()
    assert waker.wait(10) == (True, [])
    assert waker.wait(0) == (False, [])


def test_a_wake_from_another_thread_ends_the_wait() -> None:
    waker = PollableWaker()
    thread = threading.Timer(0.05, waker.wake)
    thread.start()
    began = time.monotonic()
    assert waker.wait(100) == (True, [])
    assert time.monotonic() - began < 90
    thread.join()


def test_the_wait_ends_after_its_seconds() -> None:
    began = time.monotonic()
    assert PollableWaker().wait(0.05) == (False, [])
    assert time.monotonic() - began >= 0.05
    assert PollableWaker().wait(-1) == (False, [])


def test_the_other_file_ends_it_too_and_is_not_read() -> None:
    waker = PollableWaker()
    read, write = os.pipe()
    try:
        os.write(write, b"x")
        assert waker.wait(10, read) == (False, [read])
        waker.wake()
        assert waker.wait(10, read) == (True, [read])
        assert os.read(read, 10) == b"x"
        assert waker.wait(0, read) == (False, [])
    finally:
        os.close(read)
        os.close(write)


def test_wakes_without_end_block_nobody() -> None:
    waker = PollableWaker()
    for _ in range(100_000):
        waker.wake()
    while waker.wait(0)[0]:
        pass
    assert waker.wait(0) == (False, [])


def test_it_gives_its_descriptors_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        PollableWaker()
    # What else runs in this process may have some more.
    assert len(os.listdir("/proc/self/fd")) < before + 50


@both
def test_a_poll_tells_which_files_can_be_read(poll: Poll, pipes: list[tuple[int, int]]) -> None:
    files = [read for read, _ in pipes]
    for number in (0, 2):
        os.write(pipes[number][1], b"x")
    assert sorted(poll(10, files)) == sorted([files[0], files[2]])
    assert sorted(poll(0, files)) == sorted([files[0], files[2]]), "nothing was read"
    os.read(files[0], 1)
    assert poll(10, files) == [files[2]]


@both
def test_a_poll_ends_after_its_seconds(poll: Poll, pipes: list[tuple[int, int]]) -> None:
    began = time.monotonic()
    assert poll(0.05, [pipes[0][0]]) == []
    assert time.monotonic() - began >= 0.05


@both
def test_a_poll_takes_files_with_a_descriptor(poll: Poll, pipes: list[tuple[int, int]]) -> None:
    with os.fdopen(os.dup(pipes[0][0]), "rb") as file:
        os.write(pipes[0][1], b"x")
        assert poll(10, [pipes[1][0], file]) == [file]


def test_greenlets_run_while_one_polls(pipes: list[tuple[int, int]]) -> None:
    read, write = pipes[0]
    polling = gevent.spawn(poll_in_greenlet, 10, [read])
    gevent.sleep(0)
    assert not polling.ready()
    os.write(write, b"x")
    assert polling.get(timeout=9) == [read]


def test_a_poll_that_is_killed_leaves_nothing_behind(pipes: list[tuple[int, int]]) -> None:
    read, write = pipes[0]
    polling = gevent.spawn(poll_in_greenlet, 10, [read])
    gevent.sleep(0)
    os.write(write, b"x")
    polling.kill()
    assert poll_in_greenlet(10, [read]) == [read]
    assert poll_in_greenlet(0.01, [pipes[1][0]]) == []
