"""The schedule: one timer of a home for everything that is due there."""

import gc
import math
import random
import threading
import time
import weakref
from typing import Any

import gevent
import pytest

from ssestream.http.connection import Connection
from ssestream.http.outgoing import OutgoingMessage
from ssestream.runtime.emitter import Lane
from ssestream.runtime.loop import Home, current_home
from ssestream.runtime.wheel import SLOT, SWEEP, Appointment, Schedule, schedule_of
from ssestream.settings import Settings
from tests.visit import on_threads_and_greenlets, until

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
def home() -> Home:
    home = Home(gevent.get_hub())
    home.loop = CountingLoop(home.loop)
    return home


@pytest.fixture
def schedule(home: Home) -> Schedule:
    return Schedule(home)


def soon(seconds: float = SHORT) -> float:
    return time.monotonic() + seconds


def others_are_kept(schedule: Schedule, pause: float, times: int = 3) -> None:
    """Wait until another appointment of *schedule* was kept some *times*, *pause* apart."""
    other = Kept(pause)
    appointment = schedule.add(soon(pause), other.check)
    until(lambda: len(other.times) >= times, "another's turn")
    appointment.cancel()


def entered_in(schedule: Schedule) -> list[Appointment]:
    # Its own thread may be adding some.
    return [each for slot in schedule._slots.copy().values() for each in slot]


def entered(schedule: Schedule, *appointments: Appointment) -> None:
    until(lambda: set(appointments) <= set(entered_in(schedule)), "all of them")


def next_of(schedule: Schedule) -> float:
    """When it keeps what is due first."""
    return schedule._numbers[0] * SLOT


# -- one for all


@on_threads_and_greenlets
def test_a_home_has_one_schedule() -> None:
    assert schedule_of(current_home()) is schedule_of(current_home())


def test_another_home_has_another_and_neither_outlives_its_home() -> None:
    home, other = Home(gevent.get_hub()), Home(gevent.get_hub())
    assert schedule_of(home) is not schedule_of(other)
    refs = [weakref.ref(home), weakref.ref(schedule_of(home))]
    del home
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_ten_thousand_appointments_share_one_timer(home: Home, schedule: Schedule) -> None:
    assert home.loop.timers() == []
    dues = [soon(random.uniform(100, LONG)) for _ in range(10_000)]
    kept = Kept()
    for due in dues:
        schedule.add(due, kept.check)
    until(lambda: len(entered_in(schedule)) == 10_000, "all of them")
    assert home.loop.timers() == [schedule._timer]
    assert min(dues) < next_of(schedule) <= min(dues) + SLOT
    assert kept.times == []


def test_ten_thousand_streams_share_one_timer(home: Home) -> None:
    streams = [OutgoingMessage(Lane(home)) for _ in range(10_000)]
    for stream in streams:
        stream.open(Connection(), Settings(max_age=LONG))
    schedule = schedule_of(home)
    until(lambda: len(entered_in(schedule)) == 10_000, "all of them")
    assert home.loop.timers() == [schedule._timer]
    for stream in streams:
        stream.server_done()
    assert all(each.check is None for each in entered_in(schedule))


# -- when


def test_they_are_kept_in_the_order_in_which_they_are_due(schedule: Schedule) -> None:
    # What an earlier test has left to its loop is done first.
    others_are_kept(schedule, SHORT)
    kept: list[tuple[float, float]] = []
    dues = [soon() + number * SLOT for number in range(20)]
    for due in random.sample(dues, 20):
        schedule.add(due, lambda now, due=due: kept.append((due, now)))
    until(lambda: len(kept) == 20, "all of them")
    assert [due for due, _ in kept] == dues
    assert all(now >= due for due, now in kept)


def test_those_of_one_slot_are_kept_together_at_its_end(schedule: Schedule) -> None:
    kept: list[float] = []
    began = math.ceil(soon(5 * SHORT) / SLOT) * SLOT
    dues = [began + SLOT * part for part in (0.01, 0.5, 0.99)]
    for due in random.sample(dues, 3):
        schedule.add(due, lambda now: kept.append(now))
    until(lambda: len(kept) == 3, "all of them")
    assert len(set(kept)) == 1
    assert kept[0] >= began + SLOT * 0.999


def test_of_those_due_at_once_the_first_comes_first(schedule: Schedule) -> None:
    order: list[int] = []
    due = soon()
    for number in range(200):
        schedule.add(due, lambda now, number=number: order.append(number))
    until(lambda: len(order) == 200, "all of them")
    assert order == list(range(200))


def test_an_earlier_one_that_comes_later_goes_before(home: Home, schedule: Schedule) -> None:
    late, early = Kept(), Kept()
    entered(schedule, schedule.add(soon(LONG), late.check))
    schedule.add(soon(), early.check)
    until(lambda: early.times, "the early one's turn")
    assert late.times == []
    assert home.loop.timers() == [schedule._timer]


def test_it_is_kept_again_when_it_says_and_never_earlier(schedule: Schedule) -> None:
    kept = Kept(SHORT)
    due = soon()
    appointment = schedule.add(due, kept.check)
    until(lambda: len(kept.times) >= 4, "some turns")
    appointment.cancel()
    assert kept.times[0] >= due
    for before, after in zip(kept.times, kept.times[1:], strict=False):
        assert after >= before + SHORT


def test_what_was_due_long_ago_is_kept_at_once(schedule: Schedule) -> None:
    kept = Kept()
    schedule.add(soon(-LONG), kept.check)
    until(lambda: kept.times, "its turn")


def test_none_is_never_again(schedule: Schedule) -> None:
    kept = Kept()
    appointment = schedule.add(soon(), kept.check)
    until(lambda: kept.times, "its turn")
    others_are_kept(schedule, SHORT)
    assert len(kept.times) == 1
    assert appointment not in entered_in(schedule)


def test_one_that_is_always_due_leaves_the_loop_to_others(schedule: Schedule) -> None:
    times: list[float] = []

    def check(now: float) -> float | None:
        times.append(now)
        return now if len(times) < 5 else None

    schedule.add(soon(), check)
    until(lambda: len(times) == 5, "its turns")
    assert len(set(times)) == 5


def test_one_that_fails_holds_up_no_other(schedule: Schedule) -> None:
    kept = Kept(SHORT)
    failed: list[float] = []

    def check(now: float) -> float | None:
        failed.append(now)
        raise RuntimeError("this one fails")

    due = soon()
    schedule.add(due, check)
    appointment = schedule.add(due, kept.check)
    until(lambda: len(kept.times) >= 3, "the other's turns", 5)
    appointment.cancel()
    assert len(failed) == 1


# -- from other threads


def test_any_thread_may_add_and_all_are_kept_in_the_homes(schedule: Schedule) -> None:
    kept: list[tuple[int, int]] = []
    start = threading.Barrier(8)

    def add(thread: int) -> None:
        start.wait()
        for number in range(250):
            schedule.add(
                soon(random.uniform(0, SHORT)),
                lambda now, me=thread * 250 + number: kept.append((me, threading.get_ident())),
            )

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(kept) >= 2000, "all of them")
    for thread in threads:
        thread.join()
    others_are_kept(schedule, SHORT)
    assert sorted(number for number, _ in kept) == list(range(2000))
    assert {thread for _, thread in kept} == {threading.get_ident()}


def test_a_sleeping_home_is_woken_by_another_thread() -> None:
    """As by the threads of a server that has no hub."""
    schedules: list[Schedule] = []
    thread = threading.Thread(target=lambda: schedules.append(schedule_of(current_home())))
    thread.start()
    thread.join()
    kept = Kept()
    schedules[0].add(soon(), kept.check)
    until(lambda: kept.times, "its turn")


def test_any_thread_may_cancel(schedule: Schedule) -> None:
    kept = Kept()
    appointment = schedule.add(soon(), kept.check)
    thread = threading.Thread(target=appointment.cancel)
    thread.start()
    thread.join()
    others_are_kept(schedule, SHORT)
    assert kept.times == []


# -- what is left


def test_a_cancelled_one_holds_nothing_and_is_never_kept(schedule: Schedule) -> None:
    all_kept = [Kept(SHORT) for _ in range(10)]
    appointments = [schedule.add(soon(), kept.check) for kept in all_kept]
    entered(schedule, *appointments)
    refs = [weakref.ref(kept) for kept in all_kept]
    kept = all_kept.pop()
    for appointment in appointments:
        appointment.cancel()
    times = len(kept.times)
    del all_kept
    gc.collect()
    assert [ref() for ref in refs] == [None] * 9 + [kept]
    others_are_kept(schedule, SHORT)
    assert len(kept.times) == times
    # Those that were due are gone from their slots, too.
    assert not set(appointments) & set(entered_in(schedule))


def test_one_that_is_cancelled_before_it_has_entered_never_does(schedule: Schedule) -> None:
    kept = Kept()
    made: list[Appointment] = []
    # Of the hub's own thread it would be in its slot at once.
    other = threading.Thread(target=lambda: made.append(schedule.add(soon(LONG), kept.check)))
    other.start()
    other.join()
    made[0].cancel()
    others_are_kept(schedule, SHORT)
    assert kept.times == []
    assert made[0] not in entered_in(schedule)


def test_one_may_cancel_itself_while_it_is_kept(schedule: Schedule) -> None:
    times: list[float] = []
    appointments: list[Appointment] = []

    def check(now: float) -> float:
        times.append(now)
        appointments[0].cancel()
        return now + SHORT

    appointments.append(schedule.add(soon(), check))
    until(lambda: times, "its turn")
    others_are_kept(schedule, SHORT)
    assert len(times) == 1
    assert appointments[0] not in entered_in(schedule)


def test_cancelled_ones_are_swept_once_there_are_many(schedule: Schedule) -> None:
    """Long before they are due."""
    kept = Kept()
    staying = schedule.add(soon(LONG), kept.check)
    for _ in range(5):
        appointments = [schedule.add(soon(LONG), kept.check) for _ in range(SWEEP)]
        entered(schedule, appointments[-1])
        for appointment in appointments:
            appointment.cancel()
        assert len(entered_in(schedule)) <= 3 * SWEEP
    last = schedule.add(soon(LONG), kept.check)
    entered(schedule, last)
    left = [each for each in entered_in(schedule) if each.check is not None]
    assert set(left) == {staying, last}
    assert sorted(schedule._numbers) == sorted(schedule._slots)
    assert schedule._entered == len(entered_in(schedule))
    assert kept.times == []


def test_a_sweep_loses_none_and_keeps_the_order(schedule: Schedule) -> None:
    order: list[int] = []
    cancelled = [schedule.add(soon(LONG), lambda now: None) for _ in range(2 * SWEEP)]
    entered(schedule, cancelled[-1])
    began = soon(5 * SHORT)
    numbers = list(range(50))
    random.shuffle(numbers)
    staying = [
        schedule.add(began + number * SLOT, lambda now, number=number: order.append(number))
        for number in numbers[:25]
    ]
    entered(schedule, *staying)
    for appointment in cancelled:
        appointment.cancel()
    for number in numbers[25:]:
        schedule.add(began + number * SLOT, lambda now, number=number: order.append(number))
    until(lambda: len(order) == 50, "all that were not cancelled")
    assert order == sorted(numbers)
    assert entered_in(schedule) == []


def test_an_empty_one_rests_and_starts_again(home: Home, schedule: Schedule) -> None:
    for _ in range(2):
        others_are_kept(schedule, SHORT)
        until(lambda: not schedule._slots, "no slot")
        until(lambda: not home.loop.timers(), "its rest")
        assert schedule._timer is None


def test_it_does_not_keep_a_loop_from_its_end(schedule: Schedule) -> None:
    """A process with open streams can end."""
    entered(schedule, schedule.add(soon(LONG), Kept().check))
    assert not schedule._timer.ref
