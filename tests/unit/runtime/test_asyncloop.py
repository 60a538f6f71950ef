"""The one asyncio loop of a process, in its own thread."""

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ssestream.runtime import asyncloop
from ssestream.runtime.asyncloop import AsyncTask, end_loop
from tests.kit.programs import run_program
from tests.kit.servers import ROOT
from tests.kit.visit import until


class Ran:
    """A task, and what came of it."""

    def __init__(self, main: Callable[[], Any]) -> None:
        self.ended: list[tuple[Any, BaseException | None]] = []
        self.task = AsyncTask("the task", main, contextvars.Context(), self._done)

    def _done(self, result: Any, error: BaseException | None) -> None:
        self.ended.append((result, error))

    def wait(self) -> tuple[Any, BaseException | None]:
        until(lambda: self.ended, "the task's end")
        assert len(self.ended) == 1
        return self.ended[0]


def run(main: Callable[[], Any]) -> Any:
    result, error = Ran(main).wait()
    assert error is None
    return result


async def here() -> tuple[Any, int]:
    return asyncio.get_running_loop(), threading.get_native_id()


def test_all_tasks_run_in_one_loop_in_one_thread_of_its_own() -> None:
    places = [run(here) for _ in range(3)]
    assert len(set(places)) == 1
    assert places[0][1] != threading.get_native_id()


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_what_a_task_raises_is_told_and_the_loop_goes_on(error: type[BaseException]) -> None:
    before = run(here)

    async def fail() -> None:
        raise error("no")

    assert isinstance(Ran(fail).wait()[1], error)
    assert run(here) == before


def test_an_exit_in_a_task_of_the_app_is_logged_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = run(here)

    async def leave() -> None:
        raise SystemExit

    async def main() -> None:
        # Its exception goes to the loop, as nobody awaits it.
        tasks.append(asyncio.create_task(leave()))

    tasks: list[Any] = []
    run(main)
    until(lambda: "interrupted the asyncio loop" in caplog.text, "the log")
    assert run(here) == before
    assert isinstance(tasks[0].exception(), SystemExit)


def test_a_cancelled_task_ends_in_the_middle_of_an_await_and_cleans_up() -> None:
    seen: list[str] = []

    async def main() -> None:
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            seen.append("cleaned")

    ran = Ran(main)
    until(lambda: seen, "the beginning")
    ran.task.cancel()
    ran.task.cancel()
    assert isinstance(ran.wait()[1], asyncio.CancelledError)
    assert seen == ["begun", "cleaned"]


def test_a_task_that_is_cancelled_before_its_first_step_is_told_of() -> None:
    async def hold_up() -> None:
        entered.set()
        gate.wait()

    async def main() -> None:
        seen.append("never")

    entered, gate = threading.Event(), threading.Event()
    seen: list[str] = []
    Ran(hold_up)
    entered.wait()
    ran = Ran(main)
    ran.task.cancel()
    gate.set()
    assert isinstance(ran.wait()[1], asyncio.CancelledError)
    assert seen == []


def test_a_task_that_takes_no_notice_of_its_cancellation_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncloop, "PATIENCE", 0.01)
    begun = threading.Event()

    async def main() -> None:
        begun.set()
        while "goes on" not in caplog.text:
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                pass

    ran = Ran(main)
    begun.wait()
    ran.task.cancel()
    assert ran.wait()[1] is None
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert record.getMessage().startswith("the task was cancelled")


def test_a_cancelled_task_that_ends_in_time_is_not_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncloop, "PATIENCE", 0.01)
    ran = Ran(lambda: asyncio.sleep(60))
    until(lambda: run(here), "the loop")
    ran.task.cancel()
    ran.wait()
    run(lambda: asyncio.sleep(0.05))
    assert "goes on" not in caplog.text


def test_the_end_cancels_every_task_lets_it_clean_up_and_ends_the_thread() -> None:
    seen: list[str] = []

    async def main() -> None:
        tasks.append(asyncio.create_task(other()))
        try:
            seen.append("begun")
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            seen.append("cleaned")

    async def other() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("other")

    tasks: list[Any] = []
    ran = Ran(main)
    until(lambda: seen, "the beginning")
    loop, thread = run(here)
    descriptors = len(os.listdir("/proc/self/fd"))
    end_loop()
    assert ran.ended
    assert seen == ["begun", "cleaned", "other"]
    assert loop.is_closed()
    until(lambda: not os.path.exists(f"/proc/self/task/{thread}"), "the thread's end")
    assert len(os.listdir("/proc/self/fd")) < descriptors
    # The next task has a new loop.
    assert run(here)[0] is not loop


def test_a_loop_that_cannot_be_made_fails_there_and_is_made_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end_loop()

    def refuse() -> None:
        raise OSError(24, "no descriptors")

    with monkeypatch.context() as patch:
        patch.setattr(asyncloop, "check_descriptors", refuse)
        with pytest.raises(OSError, match="no descriptors"):
            Ran(here)
    run(here)


_PROGRAM = """
PATCH
import asyncio, contextvars, os, sys, time
from ssestream.runtime.asyncloop import AsyncTask

def run(main):
    ended = []
    AsyncTask("", main, contextvars.Context(), lambda *outcome: ended.append(outcome))
    while not ended:
        time.sleep(0.001)
    return ended[0]

async def here():
    return os.getpid()

async def stay():
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned", flush=True)
"""

#: A child has its own loop, and the parent's goes on.
_FORK = """
assert run(here) == (os.getpid(), None)
child = os.fork()
if not child:
    os._exit(run(here) != (os.getpid(), None))
assert os.waitpid(child, 0)[1] == 0
assert run(here) == (os.getpid(), None)
print("right")
"""

#: The process ends at once, though a task runs.
_END = """
run(here)
AsyncTask("", stay, contextvars.Context(), lambda *outcome: None)
run(here)
print("right", flush=True)
"""


def result_of(program: str, patch: str) -> str:
    ran = subprocess.run(
        # A fork beside threads is warned of.
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c"]
        + [_PROGRAM.replace("PATCH", patch) + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stderr == ""
    assert ran.returncode == 0
    return ran.stdout


PATCHES = ["", "from gevent import monkey; monkey.patch_all()"]


@pytest.mark.parametrize("patch", PATCHES, ids=["plain", "patched"])
def test_a_child_makes_its_own_loop_and_the_parents_goes_on(patch: str) -> None:
    assert result_of(_FORK, patch) == "right\n"


@pytest.mark.parametrize("patch", PATCHES, ids=["plain", "patched"])
def test_the_end_of_the_process_cancels_what_still_runs(patch: str) -> None:
    assert result_of(_END, patch) == "right\ncleaned\n"


def test_nobody_has_the_loop_who_does_not_need_it() -> None:
    program = "import sys, ssestream; print('asyncio' in sys.modules)"
    ran = run_program(program)
    assert ran.stdout == "False\n"
