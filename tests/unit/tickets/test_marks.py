"""What the brokers know of tickets, on each kind of them."""

import threading
import time
from typing import Any

import pytest

from ssestream import Channels
from ssestream.brokers.broker import Bounds, Terms
from ssestream.tickets import marks
from tests.kit.insides import broker_of


@pytest.fixture
def broker(channels: Channels) -> Any:
    return broker_of(channels)


def soon() -> float:
    return time.time() + 60


def test_a_ticket_is_used_up_by_the_first_browser(broker: Any) -> None:
    assert marks.use_up(broker, "a", "ann", soon(), None)
    assert not marks.use_up(broker, "a", "eve", soon(), None)
    assert marks.use_up(broker, "a", "ann", soon(), None)
    assert marks.use_up(broker, "b", "eve", soon(), None)


def test_the_same_browser_may_come_back_within_the_grace(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    assert marks.use_up(broker, "a", "ann", soon(), 5.0)
    monkeypatch.setattr(marks.time, "time", lambda: now + 4.9)
    assert marks.use_up(broker, "a", "ann", soon(), 5.0)
    # The grace is counted from the first use.
    monkeypatch.setattr(marks.time, "time", lambda: now + 6)
    assert not marks.use_up(broker, "a", "ann", soon(), 5.0)


def test_of_many_at_once_one_uses_it_up(make: Any) -> None:
    first = broker_of(make())
    brokers = [broker_of(make()) if first.shared else first for _ in range(4)]
    admitted: list[int] = []
    begin = threading.Barrier(8)

    def use(number: int) -> None:
        begin.wait()
        if marks.use_up(brokers[number % 4], "a", f"browser {number}", soon(), None):
            admitted.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(admitted) == 1


def test_a_mark_that_is_gone_or_no_mark_admits_nobody(broker: Any) -> None:
    broker.append("ticket:a", b"data: x\n\n")
    assert not marks.use_up(broker, "a", "ann", soon(), None)


def test_marks_delete_themselves(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Terms] = []
    append = broker.append

    def spied(name: str, frame: bytes, terms: Terms) -> Any:
        seen.append(terms)
        return append(name, frame, terms)

    monkeypatch.setattr(broker, "append", spied)
    marks.use_up(broker, "a", "ann", time.time() + 60, None)
    marks.revoke(broker, "salt", "ann")
    used, revoked = (terms.ttl for terms in seen)
    assert used is not None
    assert 60 < used <= 121
    assert revoked is not None
    assert revoked >= marks.LONGEST


def test_what_was_issued_before_is_revoked_and_what_comes_later_is_not(broker: Any) -> None:
    before = time.time()
    assert not marks.is_revoked(broker, "salt", "ann", before)
    marks.revoke(broker, "salt", "ann")
    assert marks.is_revoked(broker, "salt", "ann", before)
    # The clocks of two hosts may differ.
    assert marks.is_revoked(broker, "salt", "ann", time.time() + marks.CLOCKS / 2)
    assert not marks.is_revoked(broker, "salt", "ann", time.time() + marks.CLOCKS + 0.5)
    for salt, key in (("salt", "eve"), ("other", "ann"), ("salt", ("ann",)), ("salt", "'ann'")):
        assert not marks.is_revoked(broker, salt, key, before)


def test_the_newest_mark_counts(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for later in (-100, -50, 0):
        monkeypatch.setattr(marks.time, "time", lambda at=now + later: at)
        marks.revoke(broker, "salt", 7)
    assert marks.is_revoked(broker, "salt", 7, now - 1)
    assert not marks.is_revoked(broker, "salt", 7, now + 2)


def test_a_log_that_has_lost_its_mark_revokes(broker: Any) -> None:
    marks.revoke(broker, "salt", "ann")
    name = f"tickets:{marks.digest_of('salt ' + repr('ann'))}"
    broker.append(name, b"data: x\n\n", Terms(bounds=Bounds(1, None)))
    assert marks.is_revoked(broker, "salt", "ann", time.time() + 100)
