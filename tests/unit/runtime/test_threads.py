"""Real threads, and a pool of them."""

import threading
import time
from collections.abc import Callable

import gevent
import pytest

from ssestream.runtime import threads as room
from ssestream.runtime.loop import Loop
from ssestream.runtime.threads import Pool, Wake
from tests.kit.failing import Threads, failing
from tests.kit.programs import run_program
from tests.kit.visit import until


def calls_of(pool: Pool) -> tuple[int, int]:
    """The calls that are not finished yet, and the threads that have none."""
    return pool._unfinished, pool._idle


def test_a_thread_of_the_pool_goes_on(raised: type[BaseException]) -> None:
    pool, done = Pool(), threading.Event()
    pool.submit(failing(raised))
    until(lambda: calls_of(pool) == (0, 1), "the thread to be free again")
    pool.submit(done.set)
    assert done.wait(60)


def test_a_call_whose_thread_was_not_to_be_had_does_not_wait_for_those_that_are_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, pool = Threads(monkeypatch), Pool()
    loop = Loop(gevent.get_hub(), pool)
    monkeypatch.setattr(gevent.get_hub(), "ssestream_loop", loop, raising=False)
    stuck, done = threading.Event(), []
    pool.submit(stuck.wait)
    threads.to_be_had = False
    for number in range(3):
        pool.submit(done.append, number)
    gevent.sleep(0.15)
    assert not done
    threads.to_be_had = True
    until(lambda: sorted(done) == [0, 1, 2], "threads for them")
    stuck.set()
    until(lambda: calls_of(pool)[0] == 0 <= calls_of(pool)[1], "the end of all")


def test_calls_run_at_once_and_free_threads_serve_again() -> None:
    pool, together, idents = Pool(), threading.Barrier(5), []

    def call() -> None:
        idents.append(threading.get_ident())
        together.wait(60)

    for _ in range(2):
        for _ in range(5):
            pool.submit(call)
        until(lambda: calls_of(pool) == (0, 5), "all of them")
    assert len(idents) == 10
    assert set(idents[:5]) == set(idents[5:])
    assert len(set(idents)) == 5


def test_one_thread_starts_at_a_time_and_takes_all_calls_that_do_not_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[Callable[[], None]] = []
    monkeypatch.setattr(room, "start_thread", lambda function, args: begun.append(function))
    pool, done = Pool(), []
    for number in range(100):
        pool.submit(done.append, number)
    assert len(begun) == 1
    threading.Thread(target=begun.pop(), daemon=True).start()
    until(lambda: calls_of(pool)[0] == 0, "all of them")
    assert done == list(range(100))
    # It had the next one started, which has not come to run.
    assert len(begun) == 1


def test_as_many_threads_as_calls_that_block_together_are_started() -> None:
    pool, together = Pool(), threading.Barrier(200)
    for _ in range(200):
        pool.submit(together.wait, 60)
    until(lambda: calls_of(pool)[0] == 0, "all of them")
    assert not together.broken


def test_a_thread_that_has_nothing_to_do_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "IDLE", 0.05)
    pool = Pool()
    pool.submit(int)
    until(lambda: calls_of(pool) == (0, 0), "its end")
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(60)


def test_the_end_of_the_process_waits_for_calls_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "LAST_SECONDS", 20.0)
    pool, gate, done = Pool(), threading.Event(), []
    pool.submit(lambda: (time.sleep(0.05), done.append("short")))
    pool.finish()
    assert done == ["short"]
    monkeypatch.setattr(room, "LAST_SECONDS", 0.05)
    pool.submit(gate.wait)
    began = time.monotonic()
    pool.finish()
    assert 0.05 <= time.monotonic() - began < 60
    gate.set()


def test_a_child_does_not_wait_for_the_calls_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "LAST_SECONDS", 200.0)
    pool, gate = Pool(), threading.Event()
    pool.submit(gate.wait)
    pool.forget()
    began = time.monotonic()
    pool.finish()
    assert time.monotonic() - began < 100
    gate.set()


def test_what_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool()
    pool.submit(failing(LookupError))
    until(lambda: calls_of(pool) == (0, 1), "its end")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


def test_a_sleep_ends_however_little_time_it_has() -> None:
    # In a process of its own, which can be ended if a sleep does not end.
    program = """
from ssestream.runtime.threads import Wake
for _ in range(30_000):
    assert not Wake().sleep(1e-9)
print("all have ended")
"""
    assert run_program(program).stdout == "all have ended\n"


def test_a_wake_ends_one_sleep_or_else_the_next() -> None:
    wake = Wake()
    for _ in range(3):
        wake.wake()
    assert wake.sleep(None)
    assert not wake.sleep(0)
    threading.Timer(0.01, wake.wake).start()
    assert wake.sleep(60)
