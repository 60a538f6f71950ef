"""Which streams are open, what they did, and how all of them end."""

import dataclasses
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ssestream import drain, statistics
from ssestream.http import registry as room
from ssestream.http.registry import DRAIN_PATIENCE, REASONS, Cause, StreamObserver


class Stream:
    """An open stream that sends nothing by itself."""

    in_hand = False

    def __init__(self, messages: int = 0, length: int = 0, waits: int = 0) -> None:
        self.ends: list[str] = []
        self._sent, self._waits = (messages, length), waits

    def sent(self) -> tuple[int, int]:
        return self._sent

    def waiting(self) -> int:
        return self._waits

    def retire(self, cause: Cause) -> None:
        self.ends.append(f"retired: {cause}")

    def cut(self, cause: Cause) -> None:
        self.ends.append(f"cut: {cause}")
        room.registry.close(self, cause, None)


class Quick(Stream):
    """A stream that is over as soon as it is told to end."""

    def retire(self, cause: Cause) -> None:
        super().retire(cause)
        room.registry.close(self, cause, None)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry of this test alone."""
    own = type(room.registry)()
    monkeypatch.setattr(room, "registry", own)
    return own


def test_streams_are_counted_from_their_opening_to_their_end(registry: Any) -> None:
    first, second = Stream(3, 30, waits=7), Stream(1, 10)
    assert not registry.has_open
    for stream in (first, second):
        assert registry.open(stream, None, None, None)
    assert registry.has_open
    registry.count("heartbeats", 2)
    registry.count("dropped", 5)
    registry.close(second, "stalled", None)
    said = statistics()
    assert (said.open, said.opened, said.closed, said.refused) == (1, 2, {"stalled": 1}, 0)
    assert (said.messages, said.bytes, said.waiting) == (4, 40, 7)
    assert (said.heartbeats, said.dropped) == (2, 5)
    registry.close(first, "client", None)
    assert not registry.has_open
    # A snapshot does not change.
    assert said.open == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        said.open = 2  # type: ignore[misc]


def test_a_stream_that_was_never_entered_counts_only_what_it_sent(registry: Any) -> None:
    registry.close(Stream(2, 20), "ended", None)
    said = statistics()
    assert (said.opened, said.closed, said.messages, said.bytes) == (0, {}, 2, 20)


def test_more_streams_than_the_bound_are_refused_until_one_ends(registry: Any) -> None:
    streams = [Stream() for _ in range(3)]
    assert [registry.open(each, 2, None, None) for each in streams] == [True, True, False]
    registry.close(streams[0], "client", None)
    assert registry.open(streams[2], 2, None, None)
    said = statistics()
    assert (said.open, said.opened, said.refused) == (2, 3, 1)


def test_each_client_has_a_bound_of_its_own(registry: Any) -> None:
    mine = [Stream() for _ in range(3)]
    assert [registry.open(each, None, "me", 2) for each in mine] == [True, True, False]
    assert registry.open(Stream(), None, "you", 2)
    assert registry.open(Stream(), None, None, 2)
    registry.close(mine[0], "client", "me")
    assert registry.open(mine[2], None, "me", 2)


def test_while_the_process_drains_every_stream_is_refused(registry: Any) -> None:
    stream = Stream()
    registry.open(stream, None, None, None)
    assert registry.begin_draining() == [stream]
    assert registry.draining
    assert not registry.open(Stream(), None, None, None)
    assert statistics().refused == 1


def test_a_drain_retires_all_and_cuts_who_has_not_taken_everything(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    due: list[tuple[float, Callable[[float], float | None]]] = []
    wheel = SimpleNamespace(add=lambda at, call: due.append((at, call)))
    monkeypatch.setattr(room, "wheel_of", lambda loop: wheel)
    monkeypatch.setattr(room, "clock", SimpleNamespace(now=lambda: 100.0))
    quick, slow, unsent = Quick(), Stream(), Stream()
    slow.in_hand = True
    for stream in (quick, slow, unsent):
        registry.open(stream, None, None, None)
    drain(2.0)
    for stream in (quick, slow, unsent):
        assert stream.ends == ["retired: shutdown"]
    ((at, look),) = due
    assert at == 102.0
    again = look(at)
    # The server has sent nothing of the last one yet, so it has more time.
    assert (slow.ends[1:], unsent.ends[1:]) == (["cut: shutdown"], [])
    assert again is not None
    assert at < again <= 100.0 + 2.0 * DRAIN_PATIENCE
    assert look(100.0 + 2.0 * DRAIN_PATIENCE) is None
    assert unsent.ends[1:] == ["cut: shutdown"]
    assert quick.ends == ["retired: shutdown"]
    assert statistics().closed == {"shutdown": 3}


def test_a_stream_that_finishes_goes_on_for_the_grace_of_a_drain(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer(Stream):
        goes_on = True

        def retire(self, cause: Cause) -> None:
            if not registry.may_finish:
                self.goes_on = False
                super().retire(cause)

    now = [100.0]
    due: list[tuple[float, Callable[[float], float | None]]] = []
    wheel = SimpleNamespace(add=lambda at, call: due.append((at, call)))
    monkeypatch.setattr(room, "wheel_of", lambda loop: wheel)
    monkeypatch.setattr(room, "clock", SimpleNamespace(now=lambda: now[0]))
    answer, other = Answer(), Stream()
    answer.in_hand = other.in_hand = True
    other.goes_on = False  # type: ignore[attr-defined]
    for stream in (answer, other):
        registry.open(stream, None, None, None)
    drain(1.0, grace=10.0)
    # One that comes late may finish, too.
    late = Answer()
    assert registry.open(late, None, None, None, True)
    assert not registry.open(Stream(), None, None, None, False)
    (first, cut), (second, interrupt) = due
    assert (first, second) == (101.0, 110.0)
    now[0] = 101.0
    cut(101.0)
    assert other.ends == ["retired: shutdown", "cut: shutdown"]
    assert (answer.ends, late.ends) == ([], [])
    now[0] = 109.9
    assert interrupt(109.9) == 110.0
    now[0] = 110.0
    assert interrupt(110.0) is None
    assert (answer.ends, late.ends) == (["retired: shutdown"], ["retired: shutdown"])
    assert not registry.open(Answer(), None, None, None, True)
    third, last = due[2]
    assert third == 111.0
    last(111.0)
    assert answer.ends[1:] == ["cut: shutdown"]


def test_a_second_drain_gives_its_own_grace_and_is_waited_for(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may send SIGTERM twice."""
    now = [100.0]
    due: list[tuple[float, Callable[[float], float | None]]] = []
    wheel = SimpleNamespace(add=lambda at, call: due.append((at, call)))
    monkeypatch.setattr(room, "wheel_of", lambda loop: wheel)
    monkeypatch.setattr(room, "clock", SimpleNamespace(now=lambda: now[0]))
    drain(1.0, grace=10.0)
    now[0] = 105.0
    drain(1.0, grace=10.0)
    interrupts = [(at, look) for at, look in due if at in (110.0, 115.0)]
    assert [at for at, _ in interrupts] == [110.0, 115.0]
    now[0] = 110.0
    # A check that is due at a time before now would run again at once, for ever.
    assert interrupts[0][1](110.0) == 115.0
    now[0] = 115.0
    assert [look(115.0) for _, look in interrupts] == [None, None]


@pytest.mark.parametrize("grace", [-1, float("inf"), float("nan")])
def test_a_grace_that_is_no_time_is_refused(registry: Any, grace: float) -> None:
    with pytest.raises(ValueError, match="grace must be finite and not negative"):
        drain(grace=grace)
    with pytest.raises(TypeError, match="grace must be a number of seconds"):
        drain(grace=True)
    assert not registry.draining


def test_a_drain_that_everybody_has_taken_looks_no_more(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    wheel = SimpleNamespace(add=lambda at, call: calls.append(call))
    monkeypatch.setattr(room, "wheel_of", lambda loop: wheel)
    registry.open(Quick(), None, None, None)
    drain(0)
    assert [call(0.0) for call in calls] == [None]


def test_threads_that_open_and_close_at_once_are_all_counted(registry: Any) -> None:
    def visit() -> None:
        for _ in range(300):
            stream = Stream(1, 10)
            assert registry.open(stream, None, "all", None)
            registry.close(stream, "client", "all")

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = statistics()
    assert (said.open, said.opened, said.closed) == (0, 1200, {"client": 1200})
    assert (said.messages, said.bytes) == (1200, 12000)


def test_a_child_process_has_no_streams_yet() -> None:
    stream = Stream(5, 50)
    room.registry.open(stream, None, None, None)
    try:
        child = os.fork()
        if child == 0:
            try:
                said = statistics()
                os._exit(0 if (said.open, said.opened, said.messages) == (0, 0, 0) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert room.registry.has_open
    finally:
        room.registry.close(stream, "ended", None)


@pytest.mark.parametrize("cause", Cause.__args__)  # type: ignore[attr-defined]
def test_each_cause_has_its_words_for_the_log(cause: Cause) -> None:
    assert REASONS[cause]
    assert len(set(REASONS.values())) == len(REASONS)


def test_the_seconds_of_a_drain_are_told_once_when_the_last_stream_is_over(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    registry.when_drained(told.append)
    first, second = Stream(), Stream()
    for stream in (first, second):
        registry.open(stream, None, None, None)
    registry.close(first, "client", None)
    now = room.clock.now()
    monkeypatch.setattr(room.clock, "now", lambda: now)
    registry.begin_draining(now + 60)
    now += 2.5
    # One that finishes may open meanwhile.
    assert registry.open(first, None, None, None, finishes=True)
    registry.close(second, "shutdown", None)
    assert told == []
    registry.begin_draining(now + 60)
    now += 1.0
    registry.close(first, "ended", None)
    assert told == [3.5]
    assert registry.open(second, None, None, None, finishes=True)
    registry.close(second, "ended", None)
    assert told == [3.5]


def test_a_process_without_streams_is_drained_at_once(registry: Any) -> None:
    told: list[float] = []
    registry.when_drained(told.append)
    registry.begin_draining()
    assert len(told) == 1
    registry.begin_draining()
    assert len(told) == 1
    registry.begin()
    registry.begin_draining()
    assert len(told) == 2


class Observer(StreamObserver):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def opened(self, stream: Any) -> None:
        self.told.append(stream)

    def closed(self, stream: Any, cause: Cause, messages: int, length: int) -> None:
        self.told.append((stream, cause, messages, length))


def test_an_observer_hears_of_each_stream_that_is_let_in_once(registry: Any) -> None:
    early, stream, refused = Stream(), Stream(3, 30), Stream()
    registry.open(early, None, None, None)
    observer = Observer()
    registry.observe(observer)
    registry.open(stream, 2, None, None)
    registry.open(refused, 2, None, None)
    registry.close(refused, "refused", None)
    for _ in range(2):
        registry.close(stream, "stalled", None)
    assert observer.told == [stream, (stream, "stalled", 3, 30)]
