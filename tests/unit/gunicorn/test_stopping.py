"""How a worker with open streams stops: when it looks, what it ends, how long it waits."""

import logging
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ssestream.gunicorn import stopping as room
from ssestream.gunicorn.stopping import QUICK, Stopping
from ssestream.http.registry import registry
from ssestream.runtime.forking import process
from tests.kit.visit import until


class Worker:
    """gunicorn's worker, which notes what is called."""

    def __init__(self) -> None:
        self.alive = True
        self.ppid = os.getppid()
        self.log = logging.getLogger("tests.worker")
        self.calls: list[str] = []
        self.graces: list[float] = []
        self.cfg = SimpleNamespace(
            worker_int=lambda worker: self.calls.append("worker_int"), graceful_timeout=30
        )

    def drain(self, grace: float) -> None:
        self.calls.append("drain")
        self.graces.append(grace)

    def notify(self) -> None:
        self.calls.append("notify")

    def handle_quit(self, number: int, frame: Any) -> None:
        self.calls.append("handle_quit")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that notes a drain, too, in a process that is a worker for this test only."""
    made = Worker()
    monkeypatch.setattr(room, "_stopping", None)
    monkeypatch.setattr(room, "drain", made.drain)
    monkeypatch.setattr(process, "serves", process.serves)
    monkeypatch.setattr(process, "workers", [])
    return made


@pytest.fixture
def with_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(registry), "has_open", True)


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of the signals are as before, at the end."""
    before = {number: signal.getsignal(number) for number in (2, 3, 15)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_worker_serves_and_listens_from_the_beginning(worker: Worker) -> None:
    Stopping(worker)
    assert process.serves
    assert process.workers == [worker]


def test_the_streams_are_drained_once_when_the_worker_has_to_stop(worker: Worker) -> None:
    stopping = Stopping(worker)
    stopping.look()
    assert worker.calls == []
    worker.alive = False
    stopping.look()
    stopping.look()
    assert worker.calls == ["drain"]


@pytest.mark.parametrize(
    ("graceful_timeout", "grace"), [(30, 29.0), (2, 1.0), (1, 0.0), (0, 0.0), (0.5, 0.0)]
)
def test_streams_may_finish_for_a_second_less_than_the_worker_waits(
    graceful_timeout: float, grace: float, worker: Worker
) -> None:
    worker.cfg.graceful_timeout = graceful_timeout
    worker.alive = False
    Stopping(worker).look()
    assert worker.graces == [grace]


@pytest.mark.usefixtures("with_streams")
def test_a_worker_that_is_then_to_end_at_once_lets_no_stream_finish(worker: Worker) -> None:
    stopping = Stopping(worker, in_main_thread=True)
    worker.alive = False
    stopping.look()
    stopping.quit(signal.SIGQUIT, None)
    for _ in range(2):
        stopping.look()
    assert worker.graces == [29.0, 0.0]


def test_a_worker_whose_master_is_gone_has_to_stop(worker: Worker) -> None:
    stopping = Stopping(worker)
    worker.ppid = -1
    stopping.look()
    assert not worker.alive
    assert worker.calls == ["drain"]
    # So that gunicorn's own look does not end the worker at once.
    assert worker.ppid == os.getppid()


def test_without_streams_gunicorn_itself_ends_the_worker_at_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(registry), "has_open", False)
    stopping = Stopping(worker, in_greenlets=True)
    stopping.quit(signal.SIGQUIT, None)
    assert worker.calls == ["handle_quit"]
    assert not stopping.is_quick


@pytest.mark.usefixtures("with_streams")
@pytest.mark.parametrize(
    ("in_main_thread", "calls", "alive"),
    [(True, ["worker_int"], False), (False, ["drain", "handle_quit"], True)],
)
def test_with_streams_a_worker_that_is_to_end_at_once_ends_by_itself_where_it_can(
    worker: Worker, in_main_thread: bool, calls: list[str], alive: bool
) -> None:
    stopping = Stopping(worker, in_main_thread=in_main_thread)
    for _ in range(2):  # a terminal sends the signal, and gunicorn's master does, too
        stopping.quit(signal.SIGINT, None)
    assert stopping.is_quick
    assert (worker.calls, worker.alive) == (calls, alive)


@pytest.mark.usefixtures("with_streams")
def test_in_greenlets_the_handler_of_the_signal_itself_does_nothing(worker: Worker) -> None:
    stopping = Stopping(worker, in_greenlets=True)
    stopping.begin_soon()
    assert stopping.is_quick
    assert worker.calls == []
    until(lambda: worker.calls, "the greenlet")
    assert worker.calls == ["worker_int"]
    assert not worker.alive


def test_a_worker_waits_a_moment_after_its_last_stream(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(room, "clock", SimpleNamespace(now=lambda: now[0]))
    stopping = Stopping(worker)
    monkeypatch.setattr(type(registry), "has_open", True)
    now[0] += 60
    assert not stopping.has_waited()
    monkeypatch.setattr(type(registry), "has_open", False)
    now[0] += QUICK - 0.1
    assert not stopping.has_waited()
    now[0] += 0.2
    assert stopping.has_waited()


@pytest.mark.usefixtures("handlers")
def test_a_worker_of_any_class_is_watched_by_its_notify_and_by_a_timer(worker: Worker) -> None:
    stopping = Stopping(worker)
    stopping.watch()
    assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGQUIT) == stopping.quit
    worker.alive = False
    worker.notify()
    assert worker.calls == ["drain", "notify"]
    other = Stopping(worker)
    other.watch()
    until(lambda: worker.calls.count("drain") == 2, "the timer")


@pytest.mark.usefixtures("handlers")
def test_a_job_gives_back_only_the_signals_of_the_worker(worker: Worker) -> None:
    stopping = Stopping(worker)

    def of_the_app(number: int, frame: Any) -> None: ...

    signal.signal(signal.SIGTERM, worker.handle_quit)
    signal.signal(signal.SIGINT, stopping.quit)
    signal.signal(signal.SIGQUIT, of_the_app)
    stopping.restore_signals()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.getsignal(signal.SIGQUIT) == of_the_app


@pytest.mark.usefixtures("handlers")
def test_no_signal_is_lost_while_a_worker_forks_a_job(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that is blocked waits until the job has its usual handlers."""
    calls: list[Any] = []
    mask = signal.pthread_sigmask

    def noting(how: int, numbers: Any) -> Any:
        calls.append((how, {int(each) for each in numbers}))
        return mask(how, numbers)

    stopping = Stopping(worker)
    signal.signal(signal.SIGTERM, stopping.quit)
    before = {int(number) for number in mask(signal.SIG_BLOCK, ())}
    monkeypatch.setattr(signal, "pthread_sigmask", noting)
    child = os.fork()
    if child == 0:
        try:
            blocked = {int(number) for number in mask(signal.SIG_BLOCK, ())}
            usual = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            os._exit(0 if usual and blocked == before else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert calls == [(signal.SIG_BLOCK, {2, 3, 15}), (signal.SIG_SETMASK, before)]
    assert signal.getsignal(signal.SIGTERM) == stopping.quit


def test_the_copy_of_a_worker_in_a_job_looks_at_nothing(worker: Worker) -> None:
    stopping = Stopping(worker)
    child = os.fork()
    if child == 0:
        try:
            worker.alive = False
            stopping.look()
            os._exit(0 if worker.calls == [] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
