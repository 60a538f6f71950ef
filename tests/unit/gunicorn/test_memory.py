"""Connections are refused for which there is no memory, and taken again when there is."""

import logging

import pytest

from ssestream.gunicorn import memory as room
from ssestream.gunicorn.memory import ASK_EVERY, Memory

LOG = logging.getLogger("tests.memory")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list of one: whether the system has memory."""
    answer = [True]
    monkeypatch.setattr(room, "_is_free", lambda: answer[0])
    return answer


def test_with_enough_memory_every_connection_is_taken(free: list[bool]) -> None:
    memory = Memory(LOG)
    assert all(memory.has_room_for_one(number) for number in range(10 * ASK_EVERY))


def test_only_one_in_many_connections_asks_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(room, "_is_free", lambda: not asked.append(1))
    memory = Memory(LOG)
    for number in range(10 * ASK_EVERY):
        memory.has_room_for_one(number)
    assert len(asked) == 10


def test_without_memory_a_tenth_of_the_connections_must_end_before_there_are_more(
    free: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(LOG)
    free[0] = False
    answers = [memory.has_room_for_one(1000) for _ in range(3 * ASK_EVERY)]
    # The first that asks finds it out, and from then on each asks.
    assert answers == [True] * (ASK_EVERY - 1) + [False] * (2 * ASK_EVERY + 1)
    assert memory.has_room_for_one(901) is False
    assert memory.has_room_for_one(900) is True
    (told,) = caplog.messages
    assert "more than 900 connections" in told


def test_when_there_is_memory_again_all_are_taken_at_once(
    free: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(LOG)
    free[0] = False
    while memory.has_room_for_one(1000):
        pass
    free[0] = True
    assert memory.has_room_for_one(1000) is True
    assert caplog.messages[1:] == ["There is memory for more connections again"]
    free[0] = False
    while memory.has_room_for_one(2000):
        pass
    assert "more than 1800 connections" in caplog.messages[2]


def test_the_system_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(LOG)
    assert all(memory.has_room_for_one(number) for number in range(ASK_EVERY))
    # More than any machine has.
    monkeypatch.setattr(room, "KEEP_FREE", 1 << 60)
    assert not all(memory.has_room_for_one(number) for number in range(ASK_EVERY))
