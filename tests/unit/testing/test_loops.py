"""A loop is reached from the thread of a test, whoever runs its hub."""

import threading

import gevent

from ssestream.runtime.loop import current_loop
from ssestream.runtime.timerheap import heap_of
from ssestream.testing.loops import in_loop, loops, settle
from tests.kit.visit import on_threads_and_greenlets, until


@on_threads_and_greenlets
def test_a_function_is_called_in_the_thread_of_the_loop() -> None:
    loop = current_loop()
    heap_of(loop)
    assert loop in loops()
    assert in_loop(loop, loop.here) is True
    assert in_loop(loop, max, 1, 2) == 2
    settle()


def test_the_loop_of_a_thread_that_has_ended_is_left_out() -> None:
    found = []

    def in_hub() -> None:
        loop = current_loop()
        heap_of(loop)
        found.append(loop)

    thread = threading.Thread(target=lambda: gevent.spawn(in_hub).join())
    thread.start()
    thread.join()
    until(lambda: found[0] not in loops(), "the end of the thread")

    # Nor is it that of a later thread with the same number.
    others = []
    over = threading.Event()
    try:
        while not others or others[-1].ident != thread.ident:
            others.append(threading.Thread(target=over.wait))
            others[-1].start()
            assert len(others) < 100, "no thread has got the number again"
        assert found[0] not in loops()
    finally:
        over.set()
        for each in others:
            each.join()
