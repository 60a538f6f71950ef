"""Timers: JavaScript's, in greenlets and in plain threads."""

import gc
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from ssestream import clear_interval, clear_timeout, set_interval, set_timeout
from ssestream.runtime.loop import Loop, current_loop
from ssestream.testing import stopped_clock
from ssestream.timers import Timer
from tests.kit.visit import in_greenlet, on_threads_and_greenlets, until

CLEARING = (clear_interval, clear_timeout)


class Ticks:
    """When a callback was called."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self) -> None:
        self.at.append(time.monotonic())

    @property
    def count(self) -> int:
        return len(self.at)

    def come(self, count: int) -> None:
        until(lambda: self.count >= count, f"{count} ticks")


def others_tick() -> None:
    """Let the time of several ticks of a timer of 1 ms pass, on the same loop."""
    ticks = Ticks()
    timer = set_interval(ticks, 1)
    ticks.come(10)
    clear_interval(timer)


def is_gone(timer: Timer) -> None:
    until(lambda: timer.is_over, "the watcher's end")


@on_threads_and_greenlets
def test_the_home_is_where_it_is_set() -> None:
    loops: list[Loop] = []
    timer = set_timeout(lambda: loops.append(current_loop()), 0)
    until(lambda: loops, "the call")
    assert loops == [current_loop()]
    assert loops[0].cooperative is in_greenlet()
    if in_greenlet():
        assert loops[0].hub is gevent.get_hub()
    is_gone(timer)


@on_threads_and_greenlets
def test_an_interval_fires_again_and_again_and_never_early() -> None:
    ticks = Ticks()
    set_at = time.monotonic()
    timer = set_interval(ticks, 20)
    ticks.come(5)
    clear_interval(timer)
    assert all(at >= set_at + 0.02 * (n + 1) for n, at in enumerate(ticks.at))


@on_threads_and_greenlets
def test_a_timeout_fires_once_and_not_early() -> None:
    ticks = Ticks()
    set_at = time.monotonic()
    timer = set_timeout(ticks, 20)
    ticks.come(1)
    assert ticks.at[0] - set_at >= 0.02
    others_tick()
    assert ticks.count == 1
    is_gone(timer)


@on_threads_and_greenlets
def test_a_timer_is_not_early_after_its_hub_was_busy() -> None:
    """libev's own idea of now is as old as its loop's last turn."""
    ticks = Ticks()
    began = time.monotonic()
    while time.monotonic() < began + 0.03:
        pass
    set_at = time.monotonic()
    set_timeout(ticks, 20)
    ticks.come(1)
    assert ticks.at[0] - set_at >= 0.02


@on_threads_and_greenlets
def test_shorter_timers_come_first() -> None:
    seen: list[int] = []
    with stopped_clock() as clock:
        for delay in (300, 100, 200):
            set_timeout(seen.append, delay, delay)
        clock.advance(0.31)
    assert seen == [100, 200, 300]


@on_threads_and_greenlets
def test_arguments_are_passed_on() -> None:
    seen: list[Any] = []
    timer = set_interval(lambda *args: seen.append(args), 1, "one", 2)
    set_timeout(lambda *args: seen.append(args), 1, 3)
    until(lambda: ("one", 2) in seen and (3,) in seen, "both")
    clear_interval(timer)


@on_threads_and_greenlets
@pytest.mark.parametrize("delay", [0, 0.5, 1, 1.5])
def test_a_delay_below_one_is_one(delay: float) -> None:
    ticks = Ticks()
    with stopped_clock() as clock:
        set_timeout(ticks, delay)
        clock.advance(0.0009)
        assert ticks.count == 0
        clock.advance(0.0006)
        assert ticks.count == 1


@on_threads_and_greenlets
def test_a_tick_that_would_overlap_the_last_call_is_left_out() -> None:
    calls: list[tuple[float, float]] = []

    def slow() -> None:
        began = time.monotonic()
        gevent.sleep(0.05)
        calls.append((began, time.monotonic()))

    set_at = time.monotonic()
    timer = set_interval(slow, 20)
    until(lambda: len(calls) >= 3, "three calls")
    clear_interval(timer)
    for (_, ended), (began, _) in itertools.pairwise(calls):
        assert began >= ended
    # 0.07 at the earliest, if the first call began at 0.02: the tick at 0.08 follows.
    assert all(began >= set_at + 0.02 + 0.06 * n for n, (began, _) in enumerate(calls))


@on_threads_and_greenlets
def test_an_interval_does_not_drift() -> None:
    """The calls come late, each by a part of the delay, and the delays do not add up."""
    ticks = Ticks()

    def late() -> None:
        ticks()
        gevent.sleep(0.01)

    set_at = time.monotonic()
    timer = set_interval(late, 40)
    ticks.come(10)
    clear_interval(timer)
    # Each call falls into the time of its own tick. If the loop misses a tick on a busy machine,
    # a later one comes in its place, and no two calls fall into the time of one tick.
    numbers = [int((at - set_at) / 0.04) for at in ticks.at]
    assert len(set(numbers)) == len(numbers)
    assert numbers[0] >= 1


def test_what_a_blocked_loop_has_missed_is_left_out() -> None:
    def in_a_hub() -> None:
        ticks = Ticks()
        set_at = time.monotonic()
        timer = set_interval(ticks, 20)
        while time.monotonic() < set_at + 0.15:
            pass
        gevent.sleep(0)
        ticks.come(1)
        first = ticks.at[0]
        assert first >= set_at + 0.15
        ticks.come(2)
        clear_interval(timer)
        # The second tick keeps to the times of the first ones.
        assert ticks.at[1] >= set_at + 0.02 * (int((first - set_at) / 0.02) + 1)

    gevent.spawn(in_a_hub).get()


@on_threads_and_greenlets
def test_a_slow_callback_holds_up_no_other_timer() -> None:
    gate = gevent.event.Event() if in_greenlet() else threading.Event()
    ticks = Ticks()
    slow = set_timeout(gate.wait, 0, 10)
    timer = set_interval(ticks, 1)
    ticks.come(5)
    assert not slow.is_over
    gate.set()
    clear_interval(timer)


@on_threads_and_greenlets
def test_an_exception_is_logged_and_the_interval_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    ticks = Ticks()

    def fail() -> None:
        ticks()
        raise LookupError("in a callback")

    with caplog.at_level(logging.ERROR, "ssestream"):
        timer = set_interval(fail, 1)
        ticks.come(3)
        clear_interval(timer)
        until(lambda: len(caplog.records) >= 3, "the log")
    for record in caplog.records:
        assert record.name == "ssestream"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)


@on_threads_and_greenlets
@pytest.mark.parametrize("clear", CLEARING)
@pytest.mark.parametrize("make", [set_interval, set_timeout])
def test_either_clearing_function_clears_either_kind(
    clear: Callable[[Timer | None], None], make: Callable[..., Timer]
) -> None:
    """Before the first tick, and then never again."""
    ticks, later = Ticks(), Ticks()
    timer = make(ticks, 100)
    clear(timer)
    clear(timer)
    set_timeout(later, 120)
    later.come(1)
    assert ticks.count == 0
    is_gone(timer)
    clear(timer)


@pytest.mark.parametrize("clear", CLEARING)
def test_none_may_be_cleared(clear: Callable[[Timer | None], None]) -> None:
    clear(None)


@on_threads_and_greenlets
def test_an_interval_may_be_cleared_by_its_own_callback() -> None:
    seen: list[int] = []

    def tick() -> None:
        seen.append(1)
        if len(seen) == 3:
            clear_interval(timer)

    timer = set_interval(tick, 1)
    until(lambda: len(seen) >= 3 and timer.is_over, "the third tick")
    others_tick()
    assert len(seen) == 3


@on_threads_and_greenlets
def test_a_timer_may_be_cleared_in_another_thread() -> None:
    ticks = Ticks()
    timer = set_interval(ticks, 1)
    ticks.come(2)
    thread = threading.Thread(target=clear_interval, args=(timer,))
    thread.start()
    thread.join()
    is_gone(timer)
    count = ticks.count
    others_tick()
    # One that had begun when it was cleared may have counted after it.
    assert ticks.count <= count + 1


@on_threads_and_greenlets
def test_a_timer_may_be_set_in_another_threads_callback() -> None:
    seen: list[str] = []
    thread = threading.Thread(
        target=lambda: set_timeout(lambda: set_timeout(seen.append, 1, "inner"), 1)
    )
    thread.start()
    until(lambda: seen, "the inner one")
    thread.join()
    assert seen == ["inner"]


@pytest.mark.long_except("after some ticks-greenlets", "run out-threads")
@on_threads_and_greenlets
@pytest.mark.parametrize("when", ["before the first tick", "after some ticks", "run out"])
def test_a_timer_that_is_over_holds_nothing(when: str) -> None:
    """Neither its callback, nor what that was called with, nor a watcher; it is held itself."""

    class Held:
        def call(self, other: "Held") -> None:
            ticks()

    ticks = Ticks()
    callback, argument = Held(), Held()
    refs = [weakref.ref(callback), weakref.ref(argument)]
    if when == "run out":
        timer = set_timeout(callback.call, 1, argument)
        ticks.come(1)
    else:
        timer = set_interval(callback.call, 10_000 if when.startswith("before") else 1, argument)
        if when.startswith("after"):
            ticks.come(3)
        clear_interval(timer)
    is_gone(timer)
    del callback, argument

    def collected() -> bool:
        gc.collect()
        return all(ref() is None for ref in refs)

    until(collected, "the callback to be let go by a timer that is over")
    assert isinstance(timer, Timer)


@on_threads_and_greenlets
def test_a_timer_that_nobody_holds_ticks_on() -> None:
    ticks = Ticks()
    holder: list[Timer] = []

    def tick() -> None:
        ticks()
        if ticks.count == 3:
            clear_interval(holder.pop())

    holder.append(set_interval(tick, 1))
    gc.collect()
    ticks.come(3)
