"""Where streams and timers live when no request says so."""

import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from ssestream.runtime import threads as real_threads
from ssestream.runtime.loop import Loop
from ssestream.runtime.threads import Pool
from tests.kit.programs import run_program
from tests.kit.visit import until


def printed_by(program: str) -> str:
    """What *program* prints in a process of its own, in which nothing is warned of."""
    ran = run_program(program, options=("-W", "error"))
    assert ran.stderr == ""
    return ran.stdout.strip()


#: A timer that is set where an app's modules are imported, and who runs it.
_MODULE_LEVEL = """
{patch}
import threading
import gevent
from ssestream import clear_interval, set_interval
from ssestream.runtime.loop import current_loop

ticks = []

def tick():
    ticks.append(threading.current_thread() is threading.main_thread())
    if len(ticks) == 3:
        clear_interval(timer)
        done.set()

{event}
timer = set_interval(tick, 1)
done.wait()
print(current_loop().cooperative, current_loop().hub is gevent.get_hub(), len(ticks))
"""


@pytest.mark.parametrize(
    ("patch", "event", "expected"),
    [
        (
            "from gevent import monkey; monkey.patch_all()",
            "import gevent.event; done = gevent.event.Event()",
            "True True 3",
        ),
        ("", "done = threading.Event()", "False False 3"),
    ],
    ids=["in a patched process: the main hub", "in a plain one: a hub of a thread of its own"],
)
def test_a_timer_of_a_module_has_a_home(patch: str, event: str, expected: str) -> None:
    ran = run_program(_MODULE_LEVEL.format(patch=patch, event=event), options=("-W", "error"))
    assert (ran.stdout.strip(), ran.stderr) == (expected, "")


def test_a_real_thread_in_a_patched_process_is_given_no_hub() -> None:
    program = """
from gevent import monkey; monkey.patch_all()
import gevent
from ssestream import set_timeout
from ssestream.runtime.loop import current_loop
loops, fired = [], []
def work():
    loops.append(current_loop())
    set_timeout(lambda: fired.append(True), 1)
monkey.get_original("_thread", "start_new_thread")(work, ())
while not fired:
    gevent.sleep(0.001)
print(loops[0].hub is not gevent.get_hub(), loops[0].cooperative)
"""
    assert printed_by(program) == "True True"


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"])
def test_an_exit_in_a_greenlet_does_not_end_the_loop_of_all_threads(patch: str) -> None:
    """A greenlet that an app's callback has started there, in a patched process."""
    program = f"""
{patch}
import logging, sys
import gevent
from ssestream.runtime.loop import service_loop

logging.basicConfig(level="ERROR", stream=sys.stdout, format="%(message).20s")
calls = []
loop = service_loop()
loop.call(lambda: gevent.spawn(sys.exit))
while not calls:
    loop.call_later(0.01, lambda: calls.append(1))
    gevent.sleep(0.02)
print(loop.hub.dead)
"""
    assert printed_by(program).splitlines()[-1] == "False"


@pytest.mark.long_except("is waited for")
@pytest.mark.parametrize(
    ("handler", "expected", "last_seconds"),
    [
        # Long, for a busy machine.
        ("time.sleep(0.05); print('closed')", "closed", 60.0),
        ("print('closing', flush=True); time.sleep(3600)", "closing", real_threads.LAST_SECONDS),
    ],
    ids=["is waited for", "holds up the end of the process for a moment only"],
)
def test_a_handler_that_runs_at_the_end_of_the_process(
    handler: str, expected: str, last_seconds: float
) -> None:
    program = f"""
import time
from ssestream import SseStream
from ssestream.runtime import threads
threads.LAST_SECONDS = {last_seconds}
stream = SseStream()
@stream.on("close")
def closed():
    {handler}
stream.destroy()
"""
    ran = run_program(program, options=("-W", "error"))
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == (expected, "", 0)


@pytest.mark.long
def test_calls_from_other_threads_leave_the_loops_count_as_it_was() -> None:
    """With a count too low the loop ends, while greenlets sleep in it."""
    program = """
import threading
import time
import gevent
from ssestream.runtime.loop import loop_of

hub = gevent.get_hub()
loop = loop_of(hub)
before = hub.loop.activecnt
calls, came = 20_000, []

def call():
    for number in range(calls):
        loop.call(came.append, number)
        # Gives the loop its turn, in which it counts as well.
        time.sleep(0.00002)

def doze():
    while len(came) < 3 * calls:
        gevent.sleep(0.00005)

threads = [threading.Thread(target=call) for _ in range(3)]
for thread in threads:
    thread.start()
gevent.joinall([gevent.spawn(doze) for _ in range(10)], raise_error=True)
for thread in threads:
    thread.join()
gevent.sleep(0)
print(len(came), hub.loop.activecnt - before)
"""
    assert printed_by(program) == "60000 0"


def test_a_loop_goes_on_while_a_broadcast_has_given_way_in_it() -> None:
    """With no server in the process there is nothing else that it goes on for."""
    program = """
import gevent
from gevent.event import Event
from ssestream.runtime.loop import CALLS_AT_ONCE, checkpoint, loop_of
from ssestream.runtime.waker import Waker

wakers, woken, all_woken = [], [], Event()

def sleep():
    wakers.append(Waker())
    wakers[-1].wait()
    woken.append(1)
    if len(woken) == 5 * CALLS_AT_ONCE:
        all_woken.set()

for _ in range(5 * CALLS_AT_ONCE):
    gevent.spawn(sleep)
gevent.idle()
loop_of(gevent.get_hub()).call_each([waker.wake_now for waker in wakers])
all_woken.wait()
gevent.spawn(checkpoint).get()
print(len(woken) // CALLS_AT_ONCE)
"""
    assert printed_by(program) == "5"


def test_a_handler_of_logs_may_wait() -> None:
    """One that sends them over a network does, in a patched process by gevent."""
    program = """
from gevent import monkey; monkey.patch_all()
import logging
import time
import gevent
from ssestream.runtime.loop import current_loop, logger
from ssestream.runtime.wheel import wheel_of

class Waiting(logging.Handler):
    def emit(self, record):
        time.sleep(0.01)
        lines.append(record.getMessage())

lines = []
logger.addHandler(Waiting())
logger.setLevel("INFO")
logger.propagate = False
loop = current_loop()

def fail(now):
    logger.info("first")
    raise RuntimeError("second")

wheel_of(loop).add(time.monotonic(), fail)
wheel_of(loop).add(time.monotonic(), lambda now: logger.info("third"))
loop.call(logger.info, "fourth")
while len(lines) < 4:
    gevent.sleep(0.01)
logger.info("fifth")
print(*sorted(line[:5] for line in lines))
"""
    assert printed_by(program) == "<func fifth first fourt third"


class Threads:
    """Starts them, but not those that are not to be had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.to_be_had = True
        self._start = real_threads.start_thread
        monkeypatch.setattr(real_threads, "start_thread", self.start)

    def start(self, function: Callable[..., object], args: tuple[Any, ...]) -> int:
        if not self.to_be_had:
            raise RuntimeError("can't start new thread")
        return self._start(function, args)


def test_a_loop_that_gets_no_thread_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a server with threads, where an app's code runs in those of a pool."""
    threads, loop = Threads(monkeypatch), Loop(gevent.get_hub(), Pool())
    monkeypatch.setattr(gevent.get_hub(), "ssestream_loop", loop, raising=False)
    threads.to_be_had = False
    done: list[int] = []
    for number in range(3):
        loop.call(loop.spawn, done.append, number)
    loop.call(done.append, "the loop's own")
    until(lambda: done, "the loop")
    assert [record.message[:15] for record in caplog.records] == ["no thread to be"]
    threads.to_be_had = True
    loop.spawn(done.append, 3)
    until(lambda: len(done) == 5, "all of them, once there is a thread")


def test_a_call_that_got_no_thread_leaves_the_next_one_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, pool = Threads(monkeypatch), Pool()
    first, second, third = threading.Event(), threading.Event(), threading.Event()
    pool.submit(first.wait)
    threads.to_be_had = False
    pool.submit(second.set)
    threads.to_be_had = True
    first.set()
    until(second.is_set, "what waited for the thread of the first")
    blocked = threading.Event()
    pool.submit(blocked.wait)
    pool.submit(third.set)
    until(third.is_set, "a thread of its own")
    blocked.set()
