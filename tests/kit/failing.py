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
