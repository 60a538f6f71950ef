"""The times at which the timers of a thread's loop are due."""

import random

from ssestream.runtime.deadlines import SWEEP, Deadlines


class Timer:
    """A timer that counts its starts and stops."""

    starts = 0


def test_timers_are_due_in_the_order_of_their_times() -> None:
    deadlines = Deadlines()
    timers = [Timer() for _ in range(50)]
    seconds = {timer: -float(number) for number, timer in enumerate(timers)}
    shuffled = random.Random(5).sample(timers, 50)
    for timer in shuffled:
        deadlines.add(timer, seconds[timer])
    deadlines.add(Timer(), 1000)
    assert [timer for timer, _ in deadlines.take_due()] == timers[::-1]
    assert deadlines.take_due() == []
    assert len(deadlines) == 1


def test_the_first_that_was_not_stopped_says_how_long_to_sleep() -> None:
    deadlines = Deadlines()
    assert deadlines.seconds_left() is None
    stopped, late = Timer(), Timer()
    deadlines.add(stopped, -5)
    deadlines.add(late, 1000)
    assert deadlines.seconds_left() == 0
    stopped.starts += 1
    left = deadlines.seconds_left()
    assert left is not None
    assert 900 < left <= 1000


def test_stopped_timers_take_no_room() -> None:
    deadlines = Deadlines()
    kept = [Timer() for _ in range(3 * SWEEP)]
    for timer in kept:
        deadlines.add(timer, 1000)
    most = 0
    for _ in range(50 * SWEEP):
        timer = Timer()
        deadlines.add(timer, 3600)
        timer.starts += 1
        most = max(most, len(deadlines))
    assert most <= 2 * (len(kept) + SWEEP)
    assert len(deadlines) >= len(kept)
