"""Forks: locks that no other thread holds, and children that know what they are."""

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ssestream.runtime.forking import AtFork, process
from ssestream.runtime.threads import new_lock


class Counter:
    """Two numbers that are equal whenever the lock is free."""

    def __init__(self) -> None:
        self.lock = new_lock()
        self.one = self.two = 0
        self.calls: list[str] = []

    def before_fork(self) -> None:
        self.calls.append("before")

    def after_fork(self) -> None:
        self.lock = new_lock()
        self.calls.append("after")

    def count(self) -> None:
        with self.lock:
            self.one += 1
            self.two += 1


def in_child(check: Callable[[], Any]) -> Any:
    """Whether *check* is true in a forked child."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


#: For the hooks of a fork, which nothing takes back.
_members: list[Counter] = []
AtFork(_members)


@pytest.fixture
def counter() -> Iterator[Counter]:
    counter = Counter()
    _members.append(counter)
    yield counter
    _members.remove(counter)


@pytest.mark.long
def test_a_child_finds_what_a_lock_guards_in_one_piece(counter: Counter) -> None:
    over = threading.Event()

    def count() -> None:
        while not over.is_set():
            counter.count()

    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: counter.one == counter.two and counter.lock.acquire(timeout=60))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    # And in the parent the locks are free again.
    assert counter.lock.acquire(timeout=60)
    counter.lock.release()


def test_each_member_is_told_before_and_in_the_child_alone_after(counter: Counter) -> None:
    assert in_child(lambda: counter.calls == ["before", "after"])
    assert counter.calls == ["before"]


def test_threads_may_fork_at_once(counter: Counter) -> None:
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(in_child(lambda: True))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 4


class Failing(Counter):
    def before_fork(self) -> None:
        super().before_fork()
        raise RuntimeError("it cannot be closed")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_member_that_fails_before_a_fork_leaves_no_lock_behind(counter: Counter) -> None:
    """Python reports the exception and forks nevertheless."""
    failing = Failing()
    _members.append(failing)
    try:
        assert in_child(lambda: True)
    finally:
        _members.remove(failing)
    assert failing.calls == ["before"]
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(in_child(lambda: True)), daemon=True)
    thread.start()
    thread.join(60)
    assert results == [True]


class Growing(weakref.WeakSet[Counter]):
    """A weak set that gets *late* while it is iterated, as another thread could let it."""

    def __init__(self, late: Counter) -> None:
        super().__init__()
        self.late = late

    def __iter__(self) -> Iterator[Counter]:
        for member in super().__iter__():
            self.add(self.late)
            yield member


def test_another_thread_may_make_a_member_during_a_fork(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = Growing(Counter())
    growing.add(counter)
    AtFork(growing)
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: errors.append(error.exc_value))
    assert in_child(lambda: True)
    assert errors == []
    # From Python 3.14 on, a weak set iterates a copy of itself.
    assert growing.late.calls == (["before"] if sys.version_info < (3, 14) else [])


def test_the_child_of_a_process_that_serves_is_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    life = process.life
    monkeypatch.setattr(process, "serves", True)
    assert in_child(lambda: process.is_job and not process.serves and process.life == life + 1)
    assert process.serves
    assert process.life == life


def test_one_that_was_forked_in_a_greenlet_is_a_job_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "serves", False)
    monkeypatch.setattr(process, "is_job", False)
    assert in_child(lambda: not process.is_job)
    assert gevent.spawn(in_child, lambda: process.is_job).get()


def test_the_first_request_is_told_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "serves", False)
    assert [process.begin() for _ in range(3)] == [True, False, False]


def test_what_was_left_behind_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "left_behind", [])
    process.leave_behind("timers", "run", "set them again", ["b", "a", "b"])
    process.leave_behind("pipelines", "go on", "begin them again", [])
    assert process.take_left_behind() == [("timers", "run", "set them again", ["a", "b"])]
    assert process.take_left_behind() == []
