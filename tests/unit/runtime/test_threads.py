"""Real threads, and a pool of them."""

import threading

import gevent
import pytest

from ssestream.runtime.loop import Loop
from ssestream.runtime.threads import Pool
from tests.kit.failing import Threads, failing
from tests.kit.visit import until


def calls_of(pool: Pool) -> tuple[int, int]:
    """The calls that are not finished yet, and the threads that have none."""
    return pool._unfinished, pool._idle


def test_a_thread_of_the_pool_goes_on(raised: type[BaseException]) -> None:
    pool, done = Pool(), threading.Event()
    pool.submit(failing(raised))
    until(lambda: calls_of(pool) == (0, 1), "the thread to be free again")
    pool.submit(done.set)
    assert done.wait(10)


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
