"""TimerHeap: one timer of libev and one greenlet or thread for all timers of a loop."""

import math
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import pytest

from ssestream import clear_interval, set_interval, set_timeout
from ssestream.runtime.clock import clock
from ssestream.runtime.loop import current_loop, service_loop
from ssestream.runtime.timerheap import Entry, heap_of
from tests.kit.programs import run_program
from tests.kit.visit import in_greenlet, on_threads_and_greenlets, until
from tests.unit.test_timers import Ticks


def in_a_thread_of_its_own(function: Callable[[], None]) -> None:
    """Call *function* in a greenlet of a new hub, which has no timers of other tests."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            gevent.spawn(function).get()
        except BaseException as error:
            raised.append(error)
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_ten_thousand_timers_are_one_of_the_loops() -> None:
    def in_a_hub() -> None:
        loop = gevent.get_hub().loop
        current_loop()
        gevent.sleep(0)
        before = loop.activecnt
        timers = [set_interval(print, 60_000 + n % 100) for n in range(10_000)]
        gevent.sleep(0)
        assert loop.activecnt == before + 1
        for timer in timers:
            clear_interval(timer)
        gevent.sleep(0)
        assert loop.activecnt == before

    in_a_thread_of_its_own(in_a_hub)


def test_callbacks_that_do_not_wait_share_one_greenlet() -> None:
    def in_a_hub() -> None:
        seen: list[Any] = []
        timers = [set_interval(lambda: seen.append(gevent.getcurrent()), 5) for _ in range(300)]
        until(lambda: len(seen) >= 1_500, "five ticks")
        assert len(set(seen)) == 1
        (runner,) = set(seen)
        for timer in timers:
            clear_interval(timer)
        until(lambda: runner.dead, "the greenlet's end with the last timer")

    in_a_thread_of_its_own(in_a_hub)


def test_what_is_due_in_one_millisecond_is_called_in_one_turn_and_never_early() -> None:
    def in_a_hub() -> None:
        loop = gevent.get_hub().loop
        calls: list[tuple[float, float, int]] = []
        timers = []

        def call(due: float) -> None:
            calls.append((due, clock.now(), loop.iteration))

        began = clock.now()
        # So many turns as there are timers would take place if each had a turn of its own.
        for n in range(400):
            timers.append(set_interval(lambda n=n: call(timers[n].due), 20 + n / 100))
        until(lambda: len(calls) >= 4_000, "ten ticks of each")
        for timer in timers:
            clear_interval(timer)
        # A float may be wrong in its last digit.
        assert all(now >= due - 1e-9 for due, now, _ in calls)
        turns = {turn for _, _, turn in calls}
        assert len(turns) <= (clock.now() - began) * 1000 + 1
        assert len(turns) < len(calls) / 4

    in_a_thread_of_its_own(in_a_hub)


def test_long_delays_share_turns_and_all_callbacks_come_in_the_order_in_which_they_are_due() -> (
    None
):
    def in_a_hub() -> None:
        loop = gevent.get_hub().loop
        calls: list[tuple[float, int]] = []
        timers = []

        def call(number: int) -> None:
            assert clock.now() >= timers[number].due - 1e-9
            calls.append((timers[number].due, loop.iteration))

        def surplus(delays: list[float], most: int) -> float:
            """How many turns more there were than one in four milliseconds."""
            calls.clear()
            for number, delay in enumerate(delays):
                timers.append(set_interval(call, delay, number))
            began = clock.now()
            until(lambda: len(calls) >= most, "all ticks")
            elapsed = clock.now() - began
            for timer in timers:
                clear_interval(timer)
            timers.clear()
            turns = len({turn for _, turn in calls})
            assert turns <= elapsed * 1000 + 1
            slots = [math.ceil(due * 1000) for due, _ in calls]
            # A machine that stands still makes all of them due at once, and some of them twice.
            return turns - math.ceil(elapsed * 1000 / 4) if slots == sorted(slots) else math.inf

        # At most one turn in four milliseconds, though the times are spread over all of them. On a
        # busy machine a turn is late, and the next one comes sooner behind it.
        long = [80 + number / 10 for number in range(400)]
        assert any(surplus(long, 2_000) <= 1 for _ in range(10))
        # With short delays among them, no callback waits until a later one was called.
        short = [3 + number for number in range(60)]
        assert any(surplus([*long, *short], 4_000) < math.inf for _ in range(10))

    in_a_thread_of_its_own(in_a_hub)


@pytest.mark.parametrize("late", [0.0, 0.4, 0.99])
def test_a_time_counts_as_missed_only_when_its_millisecond_is_over(late: float) -> None:
    """Else the wait for the end of a millisecond would cost an interval of one its next tick."""
    for phase in (0.0, 0.3, 0.7, 0.95):
        entry = Entry(0.001)
        entry.began = began = (1_000_000 + phase) / 1000
        entry.due = began + 0.001
        for count in range(2, 50):
            entry.skip_to((math.ceil(entry.due * 1000) + late) / 1000)
            assert entry.due == pytest.approx(began + count / 1000, abs=1e-9)
        # Three milliseconds are over, and their times with them.
        entry.skip_to((math.ceil(entry.due * 1000) + 3) / 1000)
        assert entry.due == pytest.approx(began + 52 / 1000, abs=1.1e-3)
        assert entry.due > began + 50 / 1000


@pytest.mark.parametrize(("seconds", "grain"), [(0.03, 1), (0.05, 2), (0.1, 4), (60.0, 4)])
def test_a_time_of_a_long_delay_counts_as_missed_when_it_can_no_longer_be_called_in_time(
    seconds: float, grain: int
) -> None:
    """Else a callback that ends just after its next time would lose this time, too."""
    entry = Entry(seconds)
    entry.began = began = 1000.0005
    in_time = (1000.0 + 2 * seconds) + grain / 1000 - 1e-5
    entry.skip_to(in_time)
    assert entry.due == pytest.approx(began + 2 * seconds, abs=1e-9)
    entry = Entry(seconds)
    entry.began = began
    entry.skip_to(in_time + 2e-5)
    assert entry.due == pytest.approx(began + 3 * seconds, abs=1e-9)


def test_any_thread_may_look_at_the_entries_while_they_change() -> None:
    heap = heap_of(service_loop())
    # Other tests may have left timers.
    others = set(heap.entries())
    timers = [set_timeout(print, 60_000 + 3 * number) for number in range(2_000)]
    beats = [set_interval(str, 1 + number / 10) for number in range(20)]
    until(lambda: len(heap.entries()) >= 2_000, "all timers")
    for _ in range(300):
        assert len(heap.entries()) >= 2_000
    for timer in (*timers, *beats):
        clear_interval(timer)
    until(lambda: others.issuperset(heap.entries()), "no timer")


def test_clearing_timers_of_one_millisecond_takes_no_longer_for_many() -> None:
    def in_a_hub() -> None:
        heap = heap_of(current_loop())
        looks = [0]

        class Looked(Entry):
            @property
            def is_over(self) -> bool:
                looks[0] += 1
                return self.over

            @is_over.setter
            def is_over(self, over: bool) -> None:
                self.over = over

        entries = [Looked(3600) for _ in range(900)]
        for entry in entries:
            entry.due = entries[0].due
            heap.add(entry)
        gevent.sleep(0)
        looks[0] = 0
        for entry in entries:
            entry.is_over = True
            heap.discard(entry)
            gevent.sleep(0)
        assert looks[0] < 5 * len(entries)
        assert heap.next_due() is None

    in_a_thread_of_its_own(in_a_hub)


def test_those_of_one_millisecond_are_called_in_the_order_in_which_they_are_due() -> None:
    def in_a_hub() -> None:
        heap = heap_of(current_loop())
        called: list[int] = []

        class Called(Entry):
            def __init__(self, number: int, due: float) -> None:
                super().__init__(1000)
                self.number, self.due = number, due

            def run(self) -> None:
                called.append(self.number)
                self.is_over = True

        at = math.ceil(clock.now() * 1000 + 20) / 1000
        shuffled = random.Random(1).sample(range(50), 50)
        for number in shuffled:
            # Two of each time: the one that was added first is called first.
            heap.add(Called(number, at + number / 100_000))
            heap.add(Called(number + 100, at + number / 100_000))
        until(lambda: len(called) == 100, "all to be called")
        assert called == [each for number in range(50) for each in (number, number + 100)]

    in_a_thread_of_its_own(in_a_hub)


def test_a_greenlet_that_was_killed_in_a_callback_ends_no_other_timer() -> None:
    def in_a_hub() -> None:
        ticks, others = Ticks(), Ticks()

        def dies() -> None:
            ticks()
            raise gevent.GreenletExit

        timers = [set_interval(dies, 5), set_interval(others, 5)]
        ticks.come(3)
        others.come(5)
        for timer in timers:
            clear_interval(timer)

    in_a_thread_of_its_own(in_a_hub)


@on_threads_and_greenlets
def test_many_that_wait_hold_up_no_other() -> None:
    gate = gevent.event.Event() if in_greenlet() else threading.Event()
    waiting: list[int] = []

    def wait(number: int) -> None:
        waiting.append(number)
        gate.wait(60)

    ticks = Ticks()
    for number in range(5):
        set_timeout(wait, 0, number)
    until(lambda: len(waiting) == 5, "all five")
    timer = set_interval(ticks, 1)
    ticks.come(5)
    gate.set()
    clear_interval(timer)


def test_as_few_threads_as_callbacks_that_wait() -> None:
    ticks = 0
    most = 0

    def tick() -> None:
        nonlocal ticks, most
        ticks += 1
        most = max(most, len(os.listdir("/proc/self/task")))

    def work() -> None:
        timers = [set_interval(tick, 10) for _ in range(300)]
        until(lambda: ticks >= 3_000, "ten ticks")
        for timer in timers:
            clear_interval(timer)

    # Idle threads of other tests may run callbacks, too. So only new threads count.
    before = len(os.listdir("/proc/self/task"))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    # A few, and some more on a busy machine, where a thread may not run for longer than
    # `PATIENCE`. A thread for each callback would be 300.
    assert most - before < 100


FORKS = """
import os, threading, time
import gevent
from ssestream import set_timeout
from ssestream.runtime.forking import process
from ssestream.runtime.loop import current_loop

process.begin()
parent, children = os.getpid(), []

def forks():
    children.append(os.fork())

def other():
    os.write(1, b"parent\\n" if os.getpid() == parent else b"child\\n")

def set_both():
    for callback in (forks, other, other):
        set_timeout(callback, 20)
    # The loop is held up, so that it finds all of them due at once.
    current_loop().call(time.sleep, 0.1)

HOW
if os.getpid() != parent or not children[0]:
    os._exit(0)
os.waitpid(children[0], 0)
"""


@pytest.mark.long_except("hub")
@pytest.mark.parametrize(
    "how",
    ["gevent.spawn(set_both).join(); gevent.sleep(0.5)", "set_both(); time.sleep(0.5)"],
    ids=["hub", "threads"],
)
def test_a_job_that_a_callback_forks_runs_no_other_callback(how: str) -> None:
    done = run_program(FORKS.replace("HOW", how))
    assert done.stdout.split() == ["parent", "parent"], done.stderr
