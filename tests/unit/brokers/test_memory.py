"""Logs in the memory of one process."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sized

import flask
import pytest

from ssestream import Channels
from ssestream.brokers import memory
from ssestream.brokers.broker import CONTROL, Bounds, Position, Slice
from ssestream.brokers.memory import MemoryBroker
from ssestream.runtime.forking import process
from ssestream.testing import Clock, stopped_clock
from tests.kit.brokers import everything, frames
from tests.kit.following import Client, Following, data_of, publish
from tests.kit.states import forget_timers

Make = Callable[..., Channels]

#: The greatest age of an entry in these tests, in seconds.
AGE = 60.0


def test_clear_empties_the_memory(local: Make) -> None:
    channels = local()
    app = Following(channels, "news", on_gap=lambda name: f"all of {name}")
    with Client(app) as client:
        publish(channels, "news", 2)
        client.take(2)
        channels.clear()
        assert channels.history("news") == []
        publish(channels, "news", 2, 3)
        assert data_of(client.take(4))[2:] == ["all of news", "2"]
    assert app.gaps == ["news"]


def test_clear_is_for_memory_alone(sqlite_url: str) -> None:
    with pytest.raises(RuntimeError, match="memory://"):
        Channels(sqlite_url).clear()


def test_memory_with_several_workers_is_warned_of_once(
    local: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, unsaid: None
) -> None:
    monkeypatch.setattr(process, "is_one_of_several", False)
    app = flask.Flask(__name__)
    for several in (False, True):
        channels = local()
        environ = {"wsgi.multiprocess": several}
        for _ in range(3):
            with app.test_request_context("/", environ_overrides=environ):
                channels.publish("news", {"data": "x"})
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "sqlite:///" in warning.getMessage()


def test_all_logs_of_a_process_have_one_identity_and_a_child_another() -> None:
    broker = MemoryBroker()
    logs = {broker.append(name, b"x").log for name in ("news", "sports")}
    logs.add(everything(broker, "never written").log)
    assert len(logs) == 1
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if broker.append("news", b"y").log not in logs else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert broker.append("news", b"z").log in logs


def test_clearing_begins_other_logs() -> None:
    broker = MemoryBroker()
    before = broker.append("news", b"one")
    broker.clear()
    piece = everything(broker, "news")
    assert frames(piece) == []
    assert piece.misses(before)
    assert broker.append("news", b"two").number == 1


def test_control_frames_leave_with_the_message_after_them_and_count_as_none() -> None:
    broker = MemoryBroker(history=2)
    control = CONTROL + b"close"
    for frame in (b"1", control, b"2", b"3"):
        broker.append("news", frame)
    assert frames(everything(broker, "news")) == [control, b"2", b"3"]
    broker.append("news", b"4")
    assert frames(everything(broker, "news")) == [b"3", b"4"]
    assert broker.read("news", 4, 10, 10**6).end[:2] == (broker.append("x", b"").log, 5)


# -- logs that are dropped, because all of their entries are too old


def has_dropped(broker: MemoryBroker) -> bool:
    broker.read("never written", 0, 0, 0)
    return broker.number_of_logs() == 0


@pytest.fixture
def clock() -> Iterator[Clock]:
    """It stands until the test moves it, with no timers of other tests."""
    forget_timers()
    with stopped_clock() as clock:
        yield clock


def aged(clock: Clock, *names: str, count: int = 5) -> MemoryBroker:
    """One whose logs had *count* entries each, and are dropped."""
    broker = MemoryBroker(history_age=AGE)
    for name in names:
        for _ in range(count):
            broker.append(name, b"x")
    clock.advance(AGE - 1)
    assert not has_dropped(broker)
    clock.advance(1)
    assert has_dropped(broker)
    return broker


def test_of_many_empty_channels_nothing_is_left_behind(clock: Clock) -> None:
    broker = MemoryBroker(history_age=AGE)
    for n in range(5000):
        broker.append(f"user/{n}", b"x" * 1000)
    clock.advance(AGE)
    assert has_dropped(broker)
    # Of all channels together, not more than a few numbers.
    sizes = [len(each) for each in vars(broker).values() if isinstance(each, Sized)]
    assert max(sizes) <= memory.SLOTS


def test_a_log_that_follows_a_dropped_one_gives_no_number_twice(clock: Clock) -> None:
    broker = aged(clock, "news")
    before = everything(broker, "news")
    assert before[1:4] == (6, 5, [])
    assert broker.append("news", b"y")[:2] == (before.log, 6)
    # Who was at the end has missed nothing, whatever check its position has.
    at_end, before_it = Position(before.log, 5, "abcdef"), Position(before.log, 4, "abcdef")
    assert not broker.read("news", 5, 10, 1000).misses(at_end)
    assert broker.read("news", 4, 10, 1000).misses(before_it)
    assert broker.read("news", 0, 10, 1000).misses(Position(before.log, 0))
    assert frames(broker.read("news", 5, 10, 1000)) == [b"y"]


def test_a_log_that_is_deleted_after_a_dropped_one_is_told_of(clock: Clock) -> None:
    broker = aged(clock, "news")
    log = everything(broker, "news").log
    seen = [broker.append("news", b"y"), broker.append("news", b"z")]
    broker.delete("news")
    for at in [Position(log, 5), *seen]:
        assert broker.read("news", at.number, 10, 1000).misses(at)
    broker.append("news", b"1")
    for at in [Position(log, 5), *seen]:
        assert broker.read("news", at.number, 10, 1000).misses(at)


def test_the_end_of_a_dropped_log_moves_no_follower_of_another_channel(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(memory, "SLOTS", 1)
    broker = MemoryBroker(history_age=AGE)
    at = everything(broker, "quiet").end
    broker.follow("quiet", at)
    for _ in range(5):
        broker.append("news", b"x")
    clock.advance(AGE)
    assert has_dropped(broker)
    assert everything(broker, "quiet").end == at
    broker.append("quiet", b"y")
    (piece,) = broker.wait().values()
    assert isinstance(piece, Slice)
    assert not piece.misses(at)
    assert frames(piece) == [b"y"]


def test_a_log_that_is_followed_stays_until_it_is_left(clock: Clock) -> None:
    broker = MemoryBroker(history_age=AGE)
    at = broker.append("news", b"x")
    broker.follow("news", at)
    clock.advance(AGE)
    assert not everything(broker, "news").entries
    assert everything(broker, "news").end == at
    assert broker.number_of_logs() == 1
    broker.unfollow("news")
    assert broker.number_of_logs() == 0


def test_a_log_whose_bounds_were_changed_keeps_them(clock: Clock) -> None:
    broker = MemoryBroker(history_age=AGE)
    broker.append("news", b"x")
    broker.keep("news", Bounds(7, AGE / 2))
    clock.advance(AGE / 2)
    assert not everything(broker, "news").entries
    assert everything(broker, "news").bounds == Bounds(7, AGE / 2)


def test_old_entries_leave_the_memory_also_when_nobody_asks_for_their_channel(
    clock: Clock,
) -> None:
    broker = MemoryBroker(history_age=AGE)
    broker.follow("news", everything(broker, "news").end)
    frame = b"x" * 1000
    before = sys.getrefcount(frame)
    broker.append("news", frame)
    assert sys.getrefcount(frame) > before
    clock.advance(AGE)
    broker.read("other", 0, 0, 0)
    assert sys.getrefcount(frame) == before
