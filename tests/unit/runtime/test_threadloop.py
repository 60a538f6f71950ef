"""gevent in a thread whose loop has no descriptor: everything that waits does, and wakes."""

import gc
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import gevent.lock
import gevent.queue
import gevent.socket
import pytest

from ssestream.runtime.deadlines import SWEEP
from ssestream.runtime.loop import current_loop
from ssestream.runtime.threadloop import run_in_hub
from tests.kit.programs import run_program
from tests.kit.promptness import at_best
from tests.kit.visit import until


def run(main: Callable[[], Any]) -> Any:
    """What *main* returns, in a thread of its own with such a loop."""
    results: list[Any] = []

    def played() -> None:
        try:
            results.append(main())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run_in_hub, args=(played, current_loop()), daemon=True)
    thread.start()
    thread.join(60)
    assert results, "it has not come to its end"
    if isinstance(results[0], BaseException):
        raise results[0]
    assert not thread.is_alive()
    return results[0]


def test_it_takes_no_descriptor_to_sleep() -> None:
    # In a process of its own: threads of earlier tests open and close some.
    program = """
import os
import gevent, gevent.event
from ssestream.runtime.loop import current_loop
from ssestream.runtime.threadloop import ThreadLoop
from tests.unit.runtime.test_threadloop import run

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def main():
    assert isinstance(gevent.get_hub().loop, ThreadLoop)
    gevent.sleep(0.001)
    gevent.sleep(0)
    gevent.idle()
    with gevent.Timeout(0.001, False):
        gevent.event.Event().wait()
    return descriptors()

current_loop()
before = descriptors()
print(run(main) - before)
"""
    done = run_program(program)
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05])
def test_a_sleep_is_as_long_as_it_is_said_to_be(seconds: float) -> None:
    def main() -> float:
        began = time.monotonic()
        gevent.sleep(seconds)
        return time.monotonic() - began

    def longer() -> float:
        took = run(main)
        assert took >= seconds
        return float(took - seconds)

    at_best(longer, 1)


def test_greenlets_wait_for_each_other_and_in_order() -> None:
    def main() -> list[int]:
        done: list[int] = []
        waiting = [gevent.spawn_later(0.05 * n, done.append, n) for n in (5, 1, 3, 2, 4)]
        gevent.joinall(waiting, raise_error=True)
        return done

    assert run(main) == [1, 2, 3, 4, 5]


def test_a_timeout_is_raised_where_it_was_set_and_not_when_it_was_cancelled() -> None:
    def main() -> list[str]:
        seen = []
        for seconds in (0.001, 10.0):
            with gevent.Timeout(0.02, False) as timeout:
                gevent.sleep(min(seconds, 0.001))
                if seconds > 1:
                    gevent.sleep(seconds)
                seen.append("slept")
            assert not timeout.pending
        gevent.sleep(0.03)
        return seen

    assert run(main) == ["slept"]


def test_timeouts_that_were_cancelled_are_dropped_and_the_other_timers_kept() -> None:
    """A source may wait for each of its items with a timeout of an hour."""

    def main() -> tuple[int, list[int]]:
        done: list[int] = []
        waiting = [gevent.spawn_later(0.05 * n, done.append, n) for n in (3, 1, 2)]
        timers = []
        for _ in range(20 * SWEEP):
            with gevent.Timeout(3600) as timeout:
                timers.append(weakref.ref(timeout.timer))
                gevent.sleep(0)
        gc.collect()
        kept = sum(each() is not None for each in timers)
        gevent.joinall(waiting, raise_error=True)
        return kept, done

    kept, done = run(main)
    assert kept <= 2 * SWEEP
    assert done == [1, 2, 3]


def test_a_killed_greenlet_ends_at_once() -> None:
    def main() -> bool:
        sleeping = gevent.spawn(gevent.sleep, 1000)
        gevent.sleep(0.001)
        sleeping.kill()
        return sleeping.dead

    assert run(main)


OTHER_THREADS = """
import threading, time
import gevent.event
from ssestream.runtime.loop import current_loop
from ssestream.runtime.threadloop import run_in_hub

event, result = gevent.event.Event(), gevent.event.AsyncResult()
waits, got = [], []

def main():
    waits.append("event")
    got.append(event.wait(60))
    waits.append("result")
    got.append(result.get(timeout=60))

def wake():
    for number, step in enumerate((event.set, lambda: result.set("set")), 1):
        while len(waits) < number:
            time.sleep(0.001)
        time.sleep(0.01)
        step()

thread = threading.Thread(target=wake)
thread.start()
waiting = threading.Thread(target=run_in_hub, args=(main, current_loop()))
waiting.start()
waiting.join()
thread.join()
print(*got)
"""


def test_other_threads_wake_what_waits() -> None:
    # In a process of its own. To find the other thread's hub, gevent looks at all objects. It fails
    # at the proxy of a dead object, which an earlier test may have left.
    done = run_program(OTHER_THREADS)
    assert done.stdout.split() == ["True", "set"], done.stdout + done.stderr


def test_greenlets_hand_on_by_queues_and_locks() -> None:
    def main() -> list[int]:
        queue, lock, got = gevent.queue.Queue(1), gevent.lock.BoundedSemaphore(), []

        def give() -> None:
            for number in range(100):
                with lock:
                    gevent.sleep(0)
                queue.put(number)

        giver = gevent.spawn(give)
        for _ in range(100):
            got.append(queue.get(timeout=60))
            with lock:
                gevent.sleep(0)
        giver.get(timeout=60)
        return got

    assert run(main) == list(range(100))


def test_sockets_are_watched_in_the_shared_loop_and_closed_ones_no_more() -> None:
    mine, other = socket.socketpair()
    other.settimeout(60)

    def drain() -> None:
        received = 0
        while received < 10_000_000:
            received += len(other.recv(1_000_000))

    def main() -> list[bytes]:
        sock = gevent.socket.socket(fileno=mine.detach())
        got = []
        for number in range(20):
            gevent.spawn_later(0.001, other.sendall, b"%d" % number)
            got.append(sock.recv(100))
        with gevent.Timeout(0.01, False):
            sock.recv(100)
        filling = gevent.spawn(sock.sendall, b"x" * 10_000_000)
        gevent.sleep(0.01)
        draining = threading.Thread(target=drain)
        draining.start()
        filling.get(timeout=60)
        draining.join()
        sock.close()
        return got

    assert run(main) == [b"%d" % number for number in range(20)]
    other.close()


def test_a_number_that_is_no_descriptor_is_refused_as_by_gevents_own_loops() -> None:
    def wait() -> str:
        with pytest.raises(ValueError, match="fd must be positive: -1"):
            gevent.socket.wait_read(-1, timeout=5)
        return "refused"

    assert run(wait) == "refused"


def test_names_are_looked_up_and_calls_made_in_gevents_threads() -> None:
    def main() -> tuple[Any, Any]:
        found = gevent.socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        return found[0][4], gevent.get_hub().threadpool.apply(lambda: 1 + 1)

    assert run(main) == (("127.0.0.1", 80), 2)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_job_that_is_forked_there_can_close_its_sockets() -> None:
    def fork() -> int:
        with gevent.socket.socket():
            pid = os.fork()
        if not pid:
            os._exit(0)
        return pid

    # In a greenlet, as all code of an app is.
    pid = run(lambda: gevent.spawn(fork).get())
    try:
        until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "the job to end")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


def test_it_waits_for_what_was_started_and_ends_then() -> None:
    done: list[str] = []

    def main() -> str:
        gevent.spawn_later(0.02, done.append, "later")
        return "first"

    assert run(main) == "first"
    assert done == ["later"]


def test_nothing_of_it_is_left() -> None:
    hubs: list[Any] = []

    def main() -> None:
        hubs.append(weakref.ref(gevent.get_hub()))
        gevent.spawn(gevent.sleep, 0.001).join()

    for _ in range(20):
        run(main)

    def gone() -> bool:
        gc.collect()
        return sum(each() is not None for each in hubs) <= 1

    until(gone, "the hubs to be gone")
