"""Connections are refused for which there is no memory, and taken again when there is."""

import errno
import io
import logging

import pytest

from ssestream.gunicorn import memory as room
from ssestream.gunicorn.memory import ASK_EVERY, Memory

LOG = logging.getLogger("tests.memory")


class System:
    """What the system would give: memory, as long as `is_free`; and how often it was asked."""

    def __init__(self) -> None:
        self.is_free, self.asked = True, 0

    def mmap(self, fd: int, length: int) -> io.BytesIO:
        self.asked += 1
        if not self.is_free:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return io.BytesIO()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(room, "mmap", made)
    return made


def test_with_enough_memory_every_connection_is_taken(system: System) -> None:
    memory = Memory(LOG)
    assert all(memory.has_room_for_one(number) for number in range(10 * ASK_EVERY))


def test_only_one_in_many_connections_asks_the_system(system: System) -> None:
    memory = Memory(LOG)
    for number in range(10 * ASK_EVERY):
        memory.has_room_for_one(number)
    assert system.asked == 10


def test_without_memory_a_tenth_of_the_connections_must_end_before_there_are_more(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(LOG)
    system.is_free = False
    answers = [memory.has_room_for_one(1000) for _ in range(3 * ASK_EVERY)]
    # The first that asks finds it out, and from then on each asks.
    assert answers == [True] * (ASK_EVERY - 1) + [False] * (2 * ASK_EVERY + 1)
    assert memory.has_room_for_one(901) is False
    assert memory.has_room_for_one(900) is True
    (told,) = caplog.messages
    assert "more than 900 connections" in told


def test_when_there_is_memory_again_all_are_taken_at_once(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(LOG)
    system.is_free = False
    while memory.has_room_for_one(1000):
        pass
    system.is_free = True
    assert memory.has_room_for_one(1000) is True
    assert caplog.messages[1:] == ["There is memory for more connections again"]
    system.is_free = False
    while memory.has_room_for_one(2000):
        pass
    assert "more than 1800 connections" in caplog.messages[2]


def test_the_system_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(LOG)
    assert all(memory.has_room_for_one(number) for number in range(ASK_EVERY))
    # More than any machine has.
    monkeypatch.setattr(room, "KEEP_FREE", 1 << 60)
    assert not all(memory.has_room_for_one(number) for number in range(ASK_EVERY))
