"""A reader that sleeps until a writer wakes it."""

import threading

import gevent
import pytest

from ssestream.runtime.waker import Wakeable, Waker, wake_all
from tests.kit.visit import in_greenlet, on_threads_and_greenlets, until


@on_threads_and_greenlets
def test_a_wake_before_the_sleep_ends_it() -> None:
    waker = Waker()
    waker.wake()
    with gevent.Timeout(60 if in_greenlet() else None):
        waker.wait()


@on_threads_and_greenlets
def test_each_wake_ends_one_sleep() -> None:
    waker = Waker()
    for _ in range(3):
        other = threading.Thread(target=waker.wake)
        other.start()
        waker.wait()
        other.join()


@on_threads_and_greenlets
def test_it_is_slept_in_where_it_was_made() -> None:
    waker = Waker()
    assert (waker.loop is None) is not in_greenlet()
    assert waker.is_mine()
    elsewhere: list[bool] = []
    other = threading.Thread(target=lambda: elsewhere.append(waker.is_mine()))
    other.start()
    other.join()
    # A thread's sleeper may be any thread, a greenlet's only one of the hub's own.
    assert elsewhere == [not in_greenlet()]


def test_a_greenlet_that_is_killed_while_it_sleeps_is_woken_no_more() -> None:
    made: list[Waker] = []
    ends: list[str] = []

    def sleep() -> None:
        made.append(Waker())
        try:
            made[0].wait()
        finally:
            ends.append("ended")

    def scene() -> None:
        sleeper = gevent.spawn(sleep)
        until(lambda: made, "the sleep")
        gevent.sleep(0)
        sleeper.kill()
        assert ends == ["ended"]
        made[0].wake()
        gevent.sleep(0.01)
        # The wake is for the next sleep.
        with gevent.Timeout(60):
            made[0].wait()

    gevent.spawn(scene).get()
    assert ends == ["ended"]


def test_other_greenlets_run_while_one_sleeps() -> None:
    order: list[str] = []

    def scene() -> None:
        waker = Waker()
        gevent.spawn(lambda: (order.append("other"), waker.wake()))
        waker.wait()
        order.append("sleeper")

    gevent.spawn(scene).get()
    assert order == ["other", "sleeper"]


def test_a_thread_that_sleeps_can_be_interrupted_by_its_timeout() -> None:
    """Of gevent's, in a greenlet: the wait leaves the waker ready for another."""

    def scene() -> None:
        waker = Waker()
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            waker.wait()
        waker.wake()
        with gevent.Timeout(60):
            waker.wait()

    gevent.spawn(scene).get()


def test_a_wake_that_raises_leaves_no_other_asleep() -> None:
    woken: list[int] = []

    class Sleeper(Wakeable):
        def __init__(self, number: int) -> None:
            self.number = number

        def wake(self) -> None:
            woken.append(self.number)
            if self.number == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wake_all([Sleeper(number) for number in range(4)])
    assert woken == [0, 1, 2, 3]
