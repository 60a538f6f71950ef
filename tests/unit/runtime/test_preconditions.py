"""What a process needs before it gets a loop."""

import contextlib
import errno
import os
import resource
import sys
import types

import gevent
import greenlet
import pytest

from ssestream.runtime.preconditions import DESCRIPTORS, check_descriptors, refuse_eventlet


def eventlet(patched: dict[str, bool]) -> types.ModuleType:
    module = types.ModuleType("eventlet.patcher")
    module.already_patched = patched  # type: ignore[attr-defined]
    return module


def test_without_eventlet_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "eventlet.patcher", raising=False)
    refuse_eventlet()
    gevent.spawn(refuse_eventlet).get()


def test_a_process_that_eventlet_has_patched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eventlet.patcher", eventlet({"socket": True}))
    with pytest.raises(RuntimeError, match="use gevent"):
        refuse_eventlet()


def test_eventlet_that_only_was_imported_is_refused_in_its_greenlets_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "eventlet.patcher", eventlet({}))
    refuse_eventlet()
    with pytest.raises(RuntimeError, match="use gevent"):
        greenlet.greenlet(refuse_eventlet).switch()


def test_the_check_takes_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        check_descriptors()
    # What else runs in this process may have some more.
    assert len(os.listdir("/proc/self/fd")) < before + 50


def test_too_few_descriptors_are_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(each) for each in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(DESCRIPTORS - 1):
            os.close(taken.pop())
        with pytest.raises(OSError, match="none are left for the loop") as caught:
            check_descriptors()
        assert caught.value.errno == errno.EMFILE
        for _ in range(2):
            os.close(taken.pop())
        check_descriptors()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
