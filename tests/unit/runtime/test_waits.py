"""Waits that end by another caller, among threads and among greenlets."""

import threading

import gevent
import pytest
from gevent import monkey

from ssestream.runtime import waits as room
from ssestream.runtime.waits import Turns, new_turns, new_wake
from tests.kit.programs import run_program


@pytest.mark.parametrize("module", ["socket", "select"])
def test_greenlets_wait_together_if_the_module_is_patched(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.monkey, "is_module_patched", module.__eq__)
    wake, turns, done = new_wake(module), new_turns(module, 0), []
    sleeper = gevent.spawn(lambda: done.append(("wake", wake.sleep(60))))
    caller = gevent.spawn(lambda: done.append(("turn", turns.acquire(timeout=60))))
    gevent.sleep(0)
    assert not done
    wake.wake()
    turns.release()
    gevent.joinall([sleeper, caller], timeout=60)
    assert sorted(done) == [("turn", True), ("wake", True)]
    assert not wake.sleep(0.001)
    assert not turns.acquire(timeout=0.001)


def test_threads_wait_if_it_is_not() -> None:
    assert not monkey.is_module_patched("select")
    wake, turns, done = new_wake("select"), new_turns("select", 1), []
    assert turns.acquire(timeout=0)
    sleeper = threading.Thread(target=lambda: done.append(wake.sleep(60)))
    caller = threading.Thread(target=lambda: done.append(turns.acquire(timeout=60)))
    for each in (sleeper, caller):
        each.start()
    wake.wake()
    turns.release()
    for each in (sleeper, caller):
        each.join(60)
    assert done == [True, True]


def test_a_wait_for_a_turn_ends_however_little_time_it_has() -> None:
    # In a process of its own, which can be ended if a wait does not end.
    program = """
from ssestream.runtime.waits import Turns
for _ in range(30_000):
    assert not Turns(0).acquire(1e-9)
print("all have ended")
"""
    assert run_program(program).stdout == "all have ended\n"


def test_each_free_turn_wakes_a_caller() -> None:
    turns = Turns(2)
    assert turns.acquire(0)
    assert turns.acquire(0)
    assert not turns.acquire(0)
    got: list[bool] = []
    callers = [threading.Thread(target=lambda: got.append(turns.acquire(60))) for _ in range(20)]
    for each in callers:
        each.start()
    for _ in range(10):
        turns.release()
        turns.release()
    for each in callers:
        each.join(60)
    assert got == [True] * 20
    assert not turns.acquire(0)
