"""The log of one run: its beginning, its state, its one end."""

import pytest

from ssestream.brokers.broker import Bounds, ChannelEnded, Refused, Slice
from ssestream.brokers.memory import MemoryBroker
from ssestream.run_log import LONGEST_ID, RunLog, check_id, digest_of

WHOLE = Bounds(100)


@pytest.fixture
def log() -> RunLog:
    return RunLog(MemoryBroker(), "answer")


def test_a_run_begins_once_and_has_a_state(log: RunLog) -> None:
    assert log.state() is None
    begin = log.begin("cancel", "digest", WHOLE, 60)
    assert log.state() == (begin, 1, "running", False, "cancel", "digest")
    with pytest.raises(Refused):
        log.begin("continue", "", WHOLE, 60)
    log.append(begin, b"data: 1\n\n", 2, WHOLE)
    with pytest.raises(Refused):
        log.append(begin, b"data: 1\n\n", 2, WHOLE)
    state = log.state()
    assert state is not None
    assert state.last == 2


@pytest.mark.parametrize("frame", [None, b"event: done\n\n"])
def test_a_run_ends_once(log: RunLog, frame: bytes | None) -> None:
    begin = log.begin("continue", "", WHOLE, 60)
    assert log.end(begin, "done", frame)
    assert not log.end(begin, "stopped", frame)
    state = log.state()
    assert state is not None
    assert (state.status, state.is_lapsed) == ("done", False)
    with pytest.raises(ChannelEnded):
        log.append(begin, b"data: 1\n\n", state.last + 1, WHOLE)


def test_a_later_run_of_the_same_id_is_another(log: RunLog) -> None:
    begin = log.begin("continue", "", WHOLE, 60)
    log.broker.delete(log.name)
    assert not log.end(begin, "lost", None)
    assert log.begin("continue", "", WHOLE, 60) != begin
    assert not log.end(begin, "lost", None)


class Forgetful(MemoryBroker):
    """A log is gone after it was read once."""

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        piece = super().read(channel, after, limit, max_bytes)
        self.delete(channel)
        return piece


def test_a_run_that_expires_while_its_state_is_read_has_none() -> None:
    log = RunLog(Forgetful(), "answer")
    assert log.end(log.begin("continue", "", WHOLE, 60), "done", None)
    assert log.state() is None


def test_a_channel_that_is_no_run_has_no_state(log: RunLog) -> None:
    log.broker.append(log.name, b"data: 1\n\n")
    assert log.state() is None


def test_an_id_is_checked() -> None:
    assert check_id("a" * LONGEST_ID) == "a" * LONGEST_ID
    with pytest.raises(TypeError, match="id is a str"):
        check_id(7)
    for wrong in ("", "a" * (LONGEST_ID + 1), "a b", "a\n"):
        with pytest.raises(ValueError, match=r"^id "):
            check_id(wrong)


def test_a_key_is_known_by_its_digest() -> None:
    assert digest_of(None) == ""
    assert digest_of(b"ann") == digest_of(b"ann") != digest_of(b"bob")
