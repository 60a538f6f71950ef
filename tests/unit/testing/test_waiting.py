"""A wait ends when its state comes, or at its deadline, whatever clock stands."""

import threading

from ssestream.runtime.clock import clock
from ssestream.testing import stopped_clock
from ssestream.testing.waiting import wait_until
from tests.kit.visit import on_threads_and_greenlets


@on_threads_and_greenlets
def test_it_ends_with_the_state() -> None:
    reached = threading.Event()
    threading.Timer(0.01, reached.set).start()
    assert wait_until(reached.is_set, 60)


def test_it_ends_at_its_deadline_while_the_clock_stands() -> None:
    with stopped_clock():
        began = clock.real()
        assert not wait_until(lambda: False, 0.05)
        assert 0.05 <= clock.real() - began < 60
