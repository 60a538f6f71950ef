"""The wheel: one timer of a loop for everything that is due there."""

import gc
import math
import random
import threading
import weakref
from typing import Any

import gevent
import pytest

from ssestream.http.connection import Connection
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.runtime.calls import CallQueue
from ssestream.runtime.clock import clock
from ssestream.runtime.loop import Loop, current_loop
from ssestream.runtime.wheel import SLOT, SWEEP, TimerHandle, TimerWheel, wheel_of
from ssestream.settings import Settings
from tests.kit.insides import entered_in, slots_of
from tests.kit.states import entered
from tests.kit.visit import on_threads_and_greenlets, until

#: Seconds until what is due soon.
SHORT = 0.02

#: Seconds until what is not due during a test.
LONG = 1000.0


class CountingLoop:
    """A real loop, and the timers made of it that run."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.made: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def timer(self, after: float) -> Any:
        timer = self._loop.timer(after)
        self.made = [*self.timers(), timer]
        return timer

    def timers(self) -> list[Any]:
        return [each for each in self.made if each.active]


class Kept:
    """What writes down when it was kept; due again after *pause*, or never."""

    def __init__(self, pause: float | None = None) -> None:
        self.pause = pause
        self.times: list[float] = []

    def check(self, now: float) -> float | None:
        self.times.append(now)
        return None if self.pause is None else now + self.pause


@pytest.fixture
def loop() -> Loop:
    loop = Loop(gevent.get_hub())
    loop.libev = CountingLoop(loop.libev)
    return loop


@pytest.fixture
def wheel(loop: Loop) -> TimerWheel:
    return TimerWheel(loop)


def soon(seconds: float = SHORT) -> float:
    return clock.now() + seconds


def others_are_kept(wheel: TimerWheel, pause: float, times: int = 3) -> None:
    """Wait until another timer of *wheel* was kept some *times*, *pause* apart."""
    other = Kept(pause)
    timer = wheel.add(soon(pause), other.check)
    until(lambda: len(other.times) >= times, "another's turn")
    timer.cancel()


def next_of(wheel: TimerWheel) -> float:
    """When it keeps what is due first."""
    return min(slots_of(wheel)) * SLOT


# -- one for all


@on_threads_and_greenlets
def test_a_home_has_one_schedule() -> None:
    assert wheel_of(current_loop()) is wheel_of(current_loop())


def test_another_home_has_another_and_neither_outlives_its_home() -> None:
    loop, other = Loop(gevent.get_hub()), Loop(gevent.get_hub())
    assert wheel_of(loop) is not wheel_of(other)
    refs = [weakref.ref(loop), weakref.ref(wheel_of(loop))]
    del loop
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_ten_thousand_appointments_share_one_timer(loop: Loop, wheel: TimerWheel) -> None:
    assert loop.libev.timers() == []
    dues = [soon(random.uniform(100, LONG)) for _ in range(10_000)]
    kept = Kept()
    for due in dues:
        wheel.add(due, kept.check)
    until(lambda: len(entered_in(wheel)) == 10_000, "all of them")
    assert len(loop.libev.timers()) == 1
    assert min(dues) < next_of(wheel) <= min(dues) + SLOT
    assert kept.times == []


def test_ten_thousand_streams_share_one_timer(loop: Loop) -> None:
    streams = [OutgoingMessage(CallQueue(loop)) for _ in range(10_000)]
    for stream in streams:
        body_of(stream).open(Connection(), Settings(max_age=LONG))
    wheel = wheel_of(loop)
    until(lambda: len(entered_in(wheel)) == 10_000, "all of them")
    assert len(loop.libev.timers()) == 1
    for stream in streams:
        body_of(stream).close()
    assert all(each.check is None for each in entered_in(wheel))


# -- when


def test_they_are_kept_in_the_order_in_which_they_are_due(wheel: TimerWheel) -> None:
    # What an earlier test has left to its loop is done first.
    others_are_kept(wheel, SHORT)
    kept: list[tuple[float, float]] = []
    dues = [soon() + number * SLOT for number in range(20)]
    for due in random.sample(dues, 20):
        wheel.add(due, lambda now, due=due: kept.append((due, now)))
    until(lambda: len(kept) == 20, "all of them")
    assert [due for due, _ in kept] == dues
    assert all(now >= due for due, now in kept)


def test_those_of_one_slot_are_kept_together_at_its_end(wheel: TimerWheel) -> None:
    kept: list[float] = []
    began = math.ceil(soon(5 * SHORT) / SLOT) * SLOT
    dues = [began + SLOT * part for part in (0.01, 0.5, 0.99)]
    for due in random.sample(dues, 3):
        wheel.add(due, lambda now: kept.append(now))
    until(lambda: len(kept) == 3, "all of them")
    assert len(set(kept)) == 1
    assert kept[0] >= began + SLOT * 0.999


def test_of_those_due_at_once_the_first_comes_first(wheel: TimerWheel) -> None:
    order: list[int] = []
    due = soon()
    for number in range(200):
        wheel.add(due, lambda now, number=number: order.append(number))
    until(lambda: len(order) == 200, "all of them")
    assert order == list(range(200))


def test_an_earlier_one_that_comes_later_goes_before(loop: Loop, wheel: TimerWheel) -> None:
    late, early = Kept(), Kept()
    entered(wheel, wheel.add(soon(LONG), late.check))
    wheel.add(soon(), early.check)
    until(lambda: early.times, "the early one's turn")
    assert late.times == []
    assert len(loop.libev.timers()) == 1


def test_it_is_kept_again_when_it_says_and_never_earlier(wheel: TimerWheel) -> None:
    kept = Kept(SHORT)
    due = soon()
    timer = wheel.add(due, kept.check)
    until(lambda: len(kept.times) >= 4, "some turns")
    timer.cancel()
    assert kept.times[0] >= due
    for before, after in zip(kept.times, kept.times[1:], strict=False):
        assert after >= before + SHORT


def test_what_was_due_long_ago_is_kept_at_once(wheel: TimerWheel) -> None:
    kept = Kept()
    wheel.add(soon(-LONG), kept.check)
    until(lambda: kept.times, "its turn")


def test_none_is_never_again(wheel: TimerWheel) -> None:
    kept = Kept()
    timer = wheel.add(soon(), kept.check)
    until(lambda: kept.times, "its turn")
    others_are_kept(wheel, SHORT)
    assert len(kept.times) == 1
    assert timer not in entered_in(wheel)


def test_one_that_is_always_due_leaves_the_loop_to_others(wheel: TimerWheel) -> None:
    times: list[float] = []

    def check(now: float) -> float | None:
        times.append(now)
        return now if len(times) < 5 else None

    wheel.add(soon(), check)
    until(lambda: len(times) == 5, "its turns")
    assert len(set(times)) == 5


def test_one_that_fails_holds_up_no_other(wheel: TimerWheel) -> None:
    kept = Kept(SHORT)
    failed: list[float] = []

    def check(now: float) -> float | None:
        failed.append(now)
        raise RuntimeError("this one fails")

    due = soon()
    wheel.add(due, check)
    timer = wheel.add(due, kept.check)
    until(lambda: len(kept.times) >= 3, "the other's turns")
    timer.cancel()
    assert len(failed) == 1


# -- from other threads


def test_any_thread_may_add_and_all_are_kept_in_the_loops(wheel: TimerWheel) -> None:
    kept: list[tuple[int, int]] = []
    start = threading.Barrier(8)

    def add(thread: int) -> None:
        start.wait()
        for number in range(250):
            wheel.add(
                soon(random.uniform(0, SHORT)),
                lambda now, me=thread * 250 + number: kept.append((me, threading.get_ident())),
            )

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(kept) >= 2000, "all of them")
    for thread in threads:
        thread.join()
    others_are_kept(wheel, SHORT)
    assert sorted(number for number, _ in kept) == list(range(2000))
    assert {thread for _, thread in kept} == {threading.get_ident()}


def test_a_sleeping_home_is_woken_by_another_thread() -> None:
    """As by the threads of a server that has no hub."""
    wheels: list[TimerWheel] = []
    thread = threading.Thread(target=lambda: wheels.append(wheel_of(current_loop())))
    thread.start()
    thread.join()
    kept = Kept()
    wheels[0].add(soon(), kept.check)
    until(lambda: kept.times, "its turn")


def test_any_thread_may_cancel(wheel: TimerWheel) -> None:
    kept = Kept()
    timer = wheel.add(soon(), kept.check)
    thread = threading.Thread(target=timer.cancel)
    thread.start()
    thread.join()
    others_are_kept(wheel, SHORT)
    assert kept.times == []


# -- what is left


def test_a_cancelled_one_holds_nothing_and_is_never_kept(wheel: TimerWheel) -> None:
    all_kept = [Kept(SHORT) for _ in range(10)]
    timers = [wheel.add(soon(), kept.check) for kept in all_kept]
    entered(wheel, *timers)
    refs = [weakref.ref(kept) for kept in all_kept]
    kept = all_kept.pop()
    for timer in timers:
        timer.cancel()
    times = len(kept.times)
    del all_kept
    gc.collect()
    assert [ref() for ref in refs] == [None] * 9 + [kept]
    others_are_kept(wheel, SHORT)
    assert len(kept.times) == times
    # Those that were due are gone from their slots, too.
    assert not set(timers) & set(entered_in(wheel))


def test_one_that_is_cancelled_before_it_has_entered_never_does(wheel: TimerWheel) -> None:
    kept = Kept()
    made: list[TimerHandle] = []
    # Of the hub's own thread it would be in its slot at once.
    other = threading.Thread(target=lambda: made.append(wheel.add(soon(LONG), kept.check)))
    other.start()
    other.join()
    made[0].cancel()
    others_are_kept(wheel, SHORT)
    assert kept.times == []
    assert made[0] not in entered_in(wheel)


def test_one_may_cancel_itself_while_it_is_kept(wheel: TimerWheel) -> None:
    times: list[float] = []
    timers: list[TimerHandle] = []

    def check(now: float) -> float:
        times.append(now)
        timers[0].cancel()
        return now + SHORT

    timers.append(wheel.add(soon(), check))
    until(lambda: times, "its turn")
    others_are_kept(wheel, SHORT)
    assert len(times) == 1
    assert timers[0] not in entered_in(wheel)


def test_cancelled_ones_are_swept_once_there_are_many(wheel: TimerWheel) -> None:
    """Long before they are due."""
    kept = Kept()
    staying = wheel.add(soon(LONG), kept.check)
    for _ in range(5):
        timers = [wheel.add(soon(LONG), kept.check) for _ in range(SWEEP)]
        entered(wheel, timers[-1])
        for timer in timers:
            timer.cancel()
        assert len(entered_in(wheel)) <= 3 * SWEEP
    last = wheel.add(soon(LONG), kept.check)
    entered(wheel, last)
    left = [each for each in entered_in(wheel) if each.check is not None]
    assert set(left) == {staying, last}
    assert sorted(wheel._numbers) == sorted(slots_of(wheel))
    assert wheel._entered == len(entered_in(wheel))
    assert kept.times == []


def test_a_sweep_loses_none_and_keeps_the_order(wheel: TimerWheel) -> None:
    order: list[int] = []
    cancelled = [wheel.add(soon(LONG), lambda now: None) for _ in range(2 * SWEEP)]
    entered(wheel, cancelled[-1])
    began = soon(5 * SHORT)
    numbers = list(range(50))
    random.shuffle(numbers)
    staying = [
        wheel.add(began + number * SLOT, lambda now, number=number: order.append(number))
        for number in numbers[:25]
    ]
    entered(wheel, *staying)
    for timer in cancelled:
        timer.cancel()
    for number in numbers[25:]:
        wheel.add(began + number * SLOT, lambda now, number=number: order.append(number))
    until(lambda: len(order) == 50, "all that were not cancelled")
    assert order == sorted(numbers)
    assert entered_in(wheel) == []


def test_an_empty_one_rests_and_starts_again(loop: Loop, wheel: TimerWheel) -> None:
    for _ in range(2):
        others_are_kept(wheel, SHORT)
        until(lambda: not slots_of(wheel), "no slot")
        until(lambda: not loop.libev.timers(), "its rest")


def test_it_does_not_keep_a_loop_from_its_end(loop: Loop, wheel: TimerWheel) -> None:
    """A process with open streams can end."""
    entered(wheel, wheel.add(soon(LONG), Kept().check))
    (timer,) = loop.libev.timers()
    assert not timer.ref
