"""What may go wrong anywhere: what an app raises, greenlets that are killed, no threads."""

import gc
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import GreenletExit

from ssestream.channels import tasks
from ssestream.runtime import loop as hub
from ssestream.runtime import threads as real_threads

#: What an app may raise, on purpose or as somebody else has it raised there.
RAISED = [gevent.Timeout, GreenletExit, SystemExit, KeyboardInterrupt, GeneratorExit]


def failing(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*args: object) -> Any:
        raise error

    return fail


class Threads:
    """Those of a process that may start no more of them for now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.to_be_had = True
        self.refused = 0
        self._start = hub.start_thread
        for module in (real_threads, hub, tasks):
            monkeypatch.setattr(module, "start_thread", self.start)

    def start(self, function: Callable[..., object], args: tuple[Any, ...]) -> int:
        if not self.to_be_had:
            self.refused += 1
            raise RuntimeError("can't start new thread")
        return self._start(function, args)


class Loops:
    """A thread that gets no loop for now: its process has none yet, and may start no thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.to_be_had = True
        self.refused = 0
        self._thread = real_threads.get_ident()
        self._loop = hub.service_loop
        for module in (hub, tasks):
            monkeypatch.setattr(module, "service_loop", self.loop)

    def loop(self) -> hub.Loop:
        if not self.to_be_had and real_threads.get_ident() == self._thread:
            self.refused += 1
            raise RuntimeError("can't start new thread")
        return self._loop()

    def refuse(self, call: Callable[[], object]) -> None:
        """*call* fails for want of a loop."""
        self.to_be_had = False
        with pytest.raises(RuntimeError, match="can't start new thread"):
            call()
        self.to_be_had = True


def greenlets_of(function_name: str) -> list[Any]:
    return [
        each
        for each in gc.get_objects()
        if issubclass(type(each), gevent.Greenlet)  # not by what a dead proxy says
        and getattr(each._run, "__name__", "") == function_name
        and not each.dead
    ]


def greenlets_only(play: Callable[[], None]) -> Callable[[], None]:
    def played() -> None:
        real = tasks.monkey.is_module_patched
        tasks.monkey.is_module_patched = lambda name: True
        try:
            play()
        finally:
            tasks.monkey.is_module_patched = real

    return played
