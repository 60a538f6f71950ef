"""The frames of the calling code, from the nearest to the first."""

import gc
import threading
import weakref

import greenlet

from ssestream.runtime.frames import callers, of_thread


class Held:
    pass


def names() -> list[str]:
    found = []
    for frame in callers():
        found.append(frame.f_code.co_name)
    return found


def outer() -> list[str]:
    return inner()


def inner() -> list[str]:
    return names()


def test_the_callers_come_in_their_order_without_the_function_itself() -> None:
    found = outer()
    assert found[:2] == ["inner", "outer"]
    assert found[2].startswith("test_the_callers")


def test_the_last_is_the_first_of_the_thread() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(names()))
    thread.start()
    thread.join()
    assert found[-1] == "_bootstrap"


def search() -> object:
    for frame in callers():
        if "held" in frame.f_locals:
            return frame.f_locals["held"]
    raise AssertionError("not found")


def search_from_below() -> "weakref.ref[Held]":
    held = Held()
    assert search() is held
    return weakref.ref(held)


def test_a_search_leaves_nothing_for_the_garbage_collector() -> None:
    gc.disable()
    try:
        assert search_from_below()() is None
    finally:
        gc.enable()


def test_the_frames_of_other_threads_are_left_alone() -> None:
    """A walk through the frames of a thread that runs greenlets reads memory that has changed."""
    waiting, end = threading.Event(), threading.Event()

    def waits() -> None:
        waiting.set()
        end.wait()

    thread = threading.Thread(target=waits)
    thread.start()
    waiting.wait()
    found = [frame.f_code.co_name for frame in of_thread()]
    end.set()
    thread.join()
    assert "test_the_frames_of_other_threads_are_left_alone" in found
    assert "waits" not in found


def test_the_frames_of_a_greenlet_go_on_in_its_parents() -> None:
    def search_in_greenlet() -> list[str]:
        return [frame.f_code.co_name for frame in of_thread()]

    found = greenlet.greenlet(search_in_greenlet).switch()
    assert found.index("search_in_greenlet") < found.index(
        "test_the_frames_of_a_greenlet_go_on_in_its_parents"
    )
