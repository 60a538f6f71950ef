"""Waking a broker's wait, which waits for a file too."""

import os
import threading
import time

from ssestream.brokers.waker import PollableWaker


def test_a_wake_before_the_wait_ends_it_at_once_and_only_it() -> None:
    waker = PollableWaker()
    waker.wake()
    waker.wake()
    assert waker.wait(10) == (True, False)
    assert waker.wait(0) == (False, False)


def test_a_wake_from_another_thread_ends_the_wait() -> None:
    waker = PollableWaker()
    thread = threading.Timer(0.05, waker.wake)
    thread.start()
    began = time.monotonic()
    assert waker.wait(10) == (True, False)
    assert time.monotonic() - began < 9
    thread.join()


def test_the_wait_ends_after_its_seconds() -> None:
    began = time.monotonic()
    assert PollableWaker().wait(0.05) == (False, False)
    assert time.monotonic() - began >= 0.05
    assert PollableWaker().wait(-1) == (False, False)


def test_the_other_file_ends_it_too_and_is_not_read() -> None:
    waker = PollableWaker()
    read, write = os.pipe()
    try:
        os.write(write, b"x")
        assert waker.wait(10, read) == (False, True)
        waker.wake()
        assert waker.wait(10, read) == (True, True)
        assert os.read(read, 10) == b"x"
        assert waker.wait(0, read) == (False, False)
    finally:
        os.close(read)
        os.close(write)


def test_wakes_without_end_block_nobody() -> None:
    waker = PollableWaker()
    for _ in range(100_000):
        waker.wake()
    while waker.wait(0)[0]:
        pass
    assert waker.wait(0) == (False, False)


def test_it_gives_its_descriptors_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        PollableWaker()
    # What else runs in this process may have some more.
    assert len(os.listdir("/proc/self/fd")) < before + 50
