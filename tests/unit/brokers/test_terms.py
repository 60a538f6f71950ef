"""Logs that are ended, leased and deleted: the same for every broker."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssestream.brokers import open_broker
from ssestream.brokers.broker import (
    CONTROL,
    END,
    Bounds,
    Broker,
    ChannelEnded,
    Position,
    Refused,
    Terms,
)
from tests.kit.brokers import (
    LOTS,
    NEVER,
    Elsewhere,
    all_closed,
    everything,
    follow,
    frames,
    left_behind,
    news,
)
from tests.kit.promptness import in_one_try
from tests.kit.servers import wait_until

Open = Callable[..., Broker]

CUT = CONTROL + b"cut 'ann'"


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(lambda url: open_broker(url, None, None)) as opened:
        yield opened


@pytest.fixture
def broker(url: str, opened: Open) -> Broker:
    return opened(url)


def next_news(broker: Broker) -> dict[str, Any]:
    while not (found := broker.wait()):
        pass
    return found


# -- ended


def test_a_log_that_has_ended_takes_no_more_messages(broker: Broker) -> None:
    first = broker.append("job", b"1")
    last = broker.append("job", b"2", Terms(end=True))
    assert (last.log, last.number) == (first.log, 2)
    piece = everything(broker, "job")
    assert frames(piece) == [b"1", b"2", END]
    assert (piece.last, piece.ended) == (3, 3)
    for frame, terms in ((b"3", Terms()), (b"3", Terms(end=True)), (END, Terms(end=True))):
        with pytest.raises(ChannelEnded, match="'job' has ended") as caught:
            broker.append("job", frame, terms)
        assert caught.value.lasting
        assert caught.value.channel == "job"
    assert everything(broker, "job")[:4] == piece[:4]


def test_a_log_ends_without_a_message_too_and_even_before_its_first(broker: Broker) -> None:
    broker.append("job", b"1")
    assert broker.append("job", END, Terms(end=True)).number == 2
    assert everything(broker, "job").ended == 2
    assert broker.append("never", END, Terms(end=True)).number == 1
    assert (frames(everything(broker, "never")), everything(broker, "never").ended) == ([END], 1)


def test_access_can_be_taken_away_after_the_end(broker: Broker) -> None:
    broker.append("job", b"1", Terms(end=True))
    assert broker.append("job", CUT).number == 3
    piece = everything(broker, "job")
    assert (frames(piece), piece.ended) == ([b"1", END, CUT], 2)


def test_the_state_tells_of_the_end_when_its_entry_is_gone(broker: Broker) -> None:
    broker.append("job", b"1", Terms(end=True))
    broker.keep("job", Bounds(None, 0.01))
    wait_until(lambda: everything(broker, "job").first == 3, "the entries to be old")
    assert everything(broker, "job").ended == 2


def test_the_end_is_news_and_a_wait_gives_the_last_message_with_it(broker: Broker) -> None:
    at = broker.append("job", b"1")
    waiter = Elsewhere(news, broker, {"job": at})
    broker.append("job", b"2", Terms(end=True))
    piece = waiter.result()["job"]
    assert (frames(piece), piece.ended) == ([b"2", END], 3)


def test_of_many_that_end_a_log_one_does(broker: Broker) -> None:
    broker.append("job", b"0")
    begin = threading.Event()
    ended: list[bytes] = []

    def end(frame: bytes) -> None:
        begin.wait()
        try:
            broker.append("job", frame, Terms(end=True))
        except ChannelEnded:
            return
        ended.append(frame)

    enders = [Elsewhere(end, b"%d" % n) for n in range(1, 9)]
    begin.set()
    for each in enders:
        each.result()
    assert len(ended) == 1
    assert frames(everything(broker, "job")) == [b"0", *ended, END]


def test_another_process_sees_the_end(shared_url: str, opened: Open) -> None:
    one, other = opened(shared_url), opened(shared_url)
    one.append("job", b"1", Terms(end=True))
    with pytest.raises(ChannelEnded):
        other.append("job", b"2")
    assert everything(other, "job").ended == 2


# -- terms


def test_a_log_that_must_be_new_is_made_once(broker: Broker) -> None:
    broker.append("job", b"1", Terms(new=True))
    with pytest.raises(Refused):
        broker.append("job", b"2", Terms(new=True))
    broker.append("other", b"1")
    with pytest.raises(Refused):
        broker.append("other", b"2", Terms(new=True))
    assert frames(everything(broker, "job")) == [b"1"]


def test_an_append_can_be_for_one_log_only(broker: Broker) -> None:
    log = broker.append("job", b"1", Terms(new=True))
    broker.append("job", b"2", Terms(of=log))
    broker.delete("job")
    with pytest.raises(Refused):
        broker.append("job", b"3", Terms(of=log))
    assert everything(broker, "job").last == 0
    broker.append("job", b"new")
    with pytest.raises(Refused):
        broker.append("job", b"3", Terms(of=log, end=True))
    assert frames(everything(broker, "job")) == [b"new"]


def test_an_append_can_be_for_one_number_only(broker: Broker) -> None:
    log = broker.append("job", b"1", Terms(new=True))
    for number in (1, 3):
        with pytest.raises(Refused):
            broker.append("job", b"2", Terms(of=log, number=number))
    assert broker.append("job", b"2", Terms(of=log, number=2)).number == 2
    with pytest.raises(Refused):
        broker.append("job", b"2", Terms(of=log, number=2))
    assert frames(everything(broker, "job")) == [b"1", b"2"]


def test_the_end_has_a_reason(broker: Broker) -> None:
    broker.append("job", b"1", Terms(end=True, reason="done"))
    terms = Terms(end=True, reason="lost")
    broker.append("never", terms.end_frame, terms)
    assert frames(everything(broker, "job")) == [b"1", END + b" done"]
    assert frames(everything(broker, "never")) == [END + b" lost"]


def test_a_lease_runs_out_unless_it_is_renewed(broker: Broker) -> None:
    log = broker.append("job", b"1", Terms(new=True, lease=600))
    assert 500 < (everything(broker, "job").lease or 0) <= 600
    with pytest.raises(Refused):
        broker.append("job", b"lost", Terms(of=log, end=True, if_lapsed=True))
    assert broker.renew("job", log, 0.05)
    wait_until(lambda: (everything(broker, "job").lease or 0) < 0, "the lease to run out")
    # Nobody has noticed: the producer goes on.
    assert broker.renew("job", log, 60)
    with pytest.raises(Refused):
        broker.append("job", b"lost", Terms(of=log, end=True, if_lapsed=True))
    broker.append("job", b"2", Terms(of=log, lease=0.05))
    wait_until(lambda: (everything(broker, "job").lease or 0) < 0, "the lease to run out")
    broker.append("job", b"lost", Terms(of=log, end=True, if_lapsed=True))
    piece = everything(broker, "job")
    assert (frames(piece), piece.lease) == ([b"1", b"2", b"lost", END], None)
    assert not broker.renew("job", log, 60)
    with pytest.raises(ChannelEnded):
        broker.append("job", b"3", Terms(of=log, lease=60))


def test_a_lease_can_end(broker: Broker) -> None:
    log = broker.append("job", b"1", Terms(lease=60))
    assert broker.renew("job", log, None)
    assert everything(broker, "job").lease is None
    with pytest.raises(Refused):
        broker.append("job", b"lost", Terms(of=log, end=True, if_lapsed=True))
    # Another one can begin.
    broker.append("job", b"2", Terms(of=log, lease=60))
    assert (everything(broker, "job").lease or 0) > 50


def test_a_log_without_a_lease_has_none_that_runs_out(broker: Broker) -> None:
    log = broker.append("job", b"1")
    assert everything(broker, "job").lease is None
    with pytest.raises(Refused):
        broker.append("job", b"lost", Terms(of=log, end=True, if_lapsed=True))
    with pytest.raises(Refused):
        broker.append("never", b"lost", Terms(end=True, if_lapsed=True))
    assert not broker.renew("never", log, 60)


def test_an_append_can_ask_for_bounds_of_its_own(broker: Broker) -> None:
    broker.append("job", b"1", Terms(bounds=Bounds(3)))
    for n in range(2, 8):
        broker.append("job", b"%d" % n)
    assert frames(everything(broker, "job")) == [b"5", b"6", b"7"]
    broker.append("job", b"8", Terms(bounds=Bounds(4)))
    broker.append("job", b"9", Terms(bounds=Bounds(2)))
    assert everything(broker, "job").bounds.history == 4


# -- deleted


def test_a_deleted_log_leaves_nothing_behind(broker: Broker, url: str) -> None:
    for name in ("one", "two"):
        for n in range(1200):
            broker.append(name, b"%d" % n, Terms(end=n == 1199))
    broker.delete("one")
    broker.delete("two")
    broker.delete("never")
    assert left_behind(broker, url) == 0
    assert everything(broker, "one").last == 0


def test_no_position_of_a_deleted_log_fits_into_the_next(broker: Broker) -> None:
    old = [broker.append("job", b"%d" % n) for n in range(1, 6)]
    broker.delete("job")
    new = [broker.append("job", b"new %d" % n) for n in range(1, 11)]
    assert [at.number for at in new] == list(range(1, 11))
    for history in (None, 5, 4):
        broker.keep("job", Bounds(history))
        for at in old:
            assert broker.read("job", at.number, LOTS, LOTS).misses(at)
        assert not broker.read("job", new[-1].number, LOTS, LOTS).misses(new[-1])


@pytest.mark.parametrize("again", [0, 1, 3, 5])
def test_waiting_tells_of_a_deletion(again: int, broker: Broker) -> None:
    at = [broker.append("job", b"%d" % n) for n in range(3)][-1]
    broker.append("other", b"x")
    follow(broker, {"job": at})
    broker.wake()
    assert broker.wait() == {}
    broker.delete("job")
    for n in range(again):
        broker.append("job", b"new %d" % n)
    piece = next_news(broker)["job"]
    assert piece.misses(at)
    assert frames(piece) == [b"new %d" % n for n in range(again)]


def test_who_follows_a_channel_without_a_log_misses_nothing_of_the_first(broker: Broker) -> None:
    empty = everything(broker, "job").end
    broker.append("other", b"x")
    broker.delete("other")
    broker.append("job", b"1")
    assert not broker.read("job", 0, LOTS, LOTS).misses(empty)
    assert not news(broker, {"job": empty})["job"].misses(empty)


@pytest.mark.long
def test_a_log_with_a_ttl_is_gone_after_its_last_append(broker: Broker, url: str) -> None:
    broker.append("stays", b"1")
    log = NEVER

    def end() -> tuple[bool, list[bytes]]:
        nonlocal log
        broker.append("job", b"1", Terms(ttl=2))
        log = broker.append("job", b"2", Terms(end=True))
        kept = frames(everything(broker, "job"))
        return kept == [b"1", b"2", END], kept

    # A test that has no turn for so long looks too late.
    in_one_try(end)
    wait_until(lambda: everything(broker, "job").last == 0, "the log to be gone")
    assert broker.append("job", b"new").number == 1
    assert broker.read("job", 2, LOTS, LOTS).misses(log)
    broker.delete("stays")
    broker.delete("job")
    assert left_behind(broker, url) == 0


def test_a_lease_keeps_a_log_with_a_ttl(broker: Broker) -> None:
    log = broker.append("job", b"1", Terms(new=True, ttl=0.05, lease=60))
    broker.append("gone", b"1", Terms(new=True, ttl=0.05))
    wait_until(lambda: everything(broker, "gone").last == 0, "the other log to be gone")
    assert everything(broker, "job").last == 1
    broker.append("job", b"2", Terms(of=log, end=True))
    wait_until(lambda: everything(broker, "job").last == 0, "the log to be gone")


def test_keep_gives_a_ttl_and_takes_it_away(broker: Broker) -> None:
    for name in ("short", "long"):
        broker.append(name, b"1", Terms(ttl=60))
    # A busy machine may take long for a step.
    broker.keep("long", Bounds(), 0.5)
    broker.keep("long", Bounds())
    broker.keep("short", Bounds(), 0.6)
    wait_until(lambda: everything(broker, "short").last == 0, "the log to be gone")
    assert everything(broker, "long").last == 1


def test_expired_logs_are_freed_when_another_log_grows(broker: Broker, url: str) -> None:
    for n in range(20):
        for _ in range(3):
            broker.append(f"job{n}", b"x", Terms(ttl=0.05))
    wait_until(lambda: everything(broker, "job19").last == 0, "the logs to be gone")

    def freed() -> bool:
        broker.append("other", b"x", Terms(bounds=Bounds(1)))
        broker.delete("other")
        return left_behind(broker, url) == 0

    wait_until(freed, "their rows to be gone")


def test_positions_before_the_first_entry_are_none_of_an_old_log(broker: Broker) -> None:
    broker.append("job", b"1")
    broker.delete("job")
    assert not everything(broker, "job").misses(NEVER)
    broker.append("job", b"2")
    assert not everything(broker, "job").misses(Position("", 0))
