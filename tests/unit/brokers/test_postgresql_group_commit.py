"""Appends of one process that come together: how they are stored, and in which order.

What happens when a batch fails is in ``test_postgresql_batches_that_fail``.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from ssestream import BrokerError
from ssestream.brokers.broker import CONTROL, Bounds, ChannelEnded, Terms
from ssestream.brokers.postgresql import PostgresqlBroker, group_commit, line, logs
from ssestream.brokers.postgresql import broker as broker_room
from ssestream.brokers.postgresql.line import Call, Line, Phase
from ssestream.brokers.postgresql.migration import open_connection
from ssestream.brokers.postgresql.psycopg import Connection
from ssestream.brokers.postgresql.target import parse
from tests.kit.batches import (
    channel,
    gathering,
    holding,
    start_together,
    transactions,
    wanted,
    written_by,
)
from tests.kit.brokers import NEVER, Elsewhere, all_closed, everything, follow, frames, next_news
from tests.kit.promptness import at_best
from tests.kit.servers import wait_until

Open = Callable[..., PostgresqlBroker]


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is over on a slow machine while entries or a channel are locked."""
    monkeypatch.setattr(group_commit, "STUCK", 60.0)
    monkeypatch.setattr(group_commit, "STUCK_AT_LOCK", 60.0)
    monkeypatch.setattr(broker_room, "ANSWER", 60.0)
    monkeypatch.setattr(broker_room, "TRYING", 60.0)


patient = pytest.mark.usefixtures("_patient")


# -- lines


def test_a_batch_is_bounded_in_entries_and_in_bytes() -> None:
    def waiting(*sizes: int) -> tuple[Line, Call]:
        made = Line()
        calls = [Call(wanted("news", b"x" * size), 0.0, made) for size in sizes]
        for each in calls:
            made.join(each)
        return made, calls[0]

    made, leader = waiting(*[10] * 250)
    assert leader.phase is Phase.LEADS
    assert [len(made.take(leader)), len(made.waiting)] == [line.MOST, 250 - line.MOST]
    half = line.MOST_BYTES // 2
    made, leader = waiting(half, half, half)
    assert len(made.take(leader)) == 2
    # One may be as large as it likes.
    made, leader = waiting(line.MOST_BYTES * 2, 10)
    assert made.take(leader) == [leader]


def test_the_lead_goes_to_the_next_in_the_line() -> None:
    made = Line()
    calls = [Call(wanted(), 0.0, made) for _ in range(3)]
    for each in calls:
        made.join(each)
    assert made.leader is calls[0]
    made.hand_over()
    assert made.leader is calls[1]
    made.hand_over()
    made.hand_over()
    assert made.leader is None


# -- batches


def test_a_lone_append_is_a_transaction_of_its_own(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    for n in range(5):
        broker.append("news", b"%d" % n)
    assert transactions(postgresql_url) == 5


@pytest.mark.long
@patient
def test_appends_that_come_together_are_stored_in_few_transactions(
    postgresql_url: str, opened: Open
) -> None:
    broker = opened(postgresql_url)
    names = [f"user/{n}" for n in range(10)]
    for name in names:
        broker.append(name, b"first")
    follow(broker, dict.fromkeys(names, NEVER))
    while broker.wait():
        pass
    before = transactions(postgresql_url, "user/%")
    with gathering(postgresql_url, broker):
        waiters = start_together(broker, [(name, b"%d" % n) for n in range(4) for name in names])
    positions = [each.result() for each in waiters]
    assert transactions(postgresql_url, "user/%") - before == 1
    for index, name in enumerate(names):
        piece = everything(broker, name)
        mine = {position.number: position for position in positions[index::10]}
        assert sorted(mine) == [2, 3, 4, 5]
        for number, frame, check in piece.entries[1:]:
            assert frame == b"%d" % positions[index::10].index(mine[number])
            assert mine[number] == (piece.log, number, check)
    # All channels are announced.
    heard: set[str] = set()
    while len(heard) < 10:
        heard |= set(next_news(broker))


@patient
def test_batches_are_bounded(
    postgresql_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST", 10)
    broker = opened(postgresql_url)
    broker.append("news", b"first")
    with gathering(postgresql_url, broker):
        waiters = start_together(broker, [("news", b"x")] * 23)
    assert sorted(each.result().number for each in waiters) == list(range(2, 25))
    assert transactions(postgresql_url, "news") == 1 + 3


@patient
def test_a_batch_keeps_little_more_than_the_history(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url, 10)
    broker.append("news", b"first")
    for _ in range(3):
        with gathering(postgresql_url, broker):
            waiters = start_together(broker, [("news", b"x")] * 40)
        for each in waiters:
            each.result()
        assert len(everything(broker, "news").entries) == 10
        with psycopg.connect(postgresql_url) as db:
            rows = db.execute(
                "SELECT c.last - c.first FROM ssestream.channels c WHERE c.name = 'news'"
            ).fetchall()
        assert rows[0][0] < 10 + 17
    assert everything(broker, "news").last == 121


@patient
def test_an_entry_that_no_batch_can_store_is_stored_alone(
    postgresql_url: str, opened: Open
) -> None:
    broker = opened(postgresql_url)
    broker.append("usual", b"1")
    broker.append("ended", b"1", Terms(end=True))
    broker.append("expiring", b"1", Terms(ttl=60))
    broker.append("leased", b"1", Terms(lease=60))
    control = CONTROL + b"cut x"
    with gathering(postgresql_url, broker):
        waiters = start_together(
            broker,
            [("usual", b"2")] * 4
            + [("new", b"1"), ("ended", b"2"), ("ended", control), ("expiring", b"2")]
            + [("leased", b"2"), ("usual", control)],
        )
    for index, each in enumerate(waiters):
        if index == 5:
            with pytest.raises(ChannelEnded):
                each.result()
        else:
            each.result()
    assert sorted(frames(everything(broker, "usual"))) == sorted([b"1", *[b"2"] * 4, control])
    assert frames(everything(broker, "new")) == [b"1"]
    assert frames(everything(broker, "ended"))[-1] == control
    assert frames(everything(broker, "leased")) == [b"1", b"2"]
    with psycopg.connect(postgresql_url) as db:
        rows = db.execute("SELECT expires - at FROM ssestream.channels WHERE name = 'expiring'")
        assert rows.fetchall()[0][0] == pytest.approx(60, abs=1)


def test_a_batch_numbers_messages_and_control_frames_as_single_appends_do(
    postgresql_url: str,
) -> None:
    given = [b"1", CONTROL + b"cut x", b"2", b"3", CONTROL + b"cut y", CONTROL + b"cut z", b"4"]
    rows = {}
    with open_connection(parse(postgresql_url)) as db:
        for name in ("alone", "together"):
            logs.append(db, wanted(name, b"0", token="f" * 12), False)
        for n, frame in enumerate(given):
            logs.append(db, wanted("alone", frame, token=f"{n:012x}"), False)
        batch = [wanted("together", frame, token=f"{n:012x}") for n, frame in enumerate(given)]
        outcomes = logs.append_all(db, batch, False)
        for name in ("alone", "together"):
            rows[name] = db.execute(
                "SELECT e.number, e.message, e.token, e.frame, c.last, c.messages, c.token"
                " FROM ssestream.events e JOIN ssestream.channels c ON c.id = e.channel"
                " WHERE c.name = %s ORDER BY e.number",
                (name,),
            ).fetchall()
    assert rows["together"] == rows["alone"]
    positions = [each.result[0] for each in outcomes if each.result is not None]
    assert [position.number for position in positions] == list(range(2, 9))


def test_a_batch_widens_the_bounds_of_a_log(postgresql_url: str) -> None:
    with open_connection(parse(postgresql_url)) as db:
        logs.append(db, wanted("news", bounds=Bounds(10, 60)), False)
        asked = [Bounds(20, None), Bounds(5, 90), Bounds(None, 30)]
        batch = [wanted("news", bounds=each, token=f"{n:012x}") for n, each in enumerate(asked)]
        outcomes = logs.append_all(db, batch, False)
    bounds = [each.result[1] for each in outcomes if each.result is not None]
    assert bounds == [Bounds(20, 60), Bounds(20, 90), Bounds(20, 90)]


def test_a_batch_whose_entry_was_tried_again_stores_nothing(postgresql_url: str) -> None:
    late, other = wanted("news", b"late", token="a" * 12), wanted("news", b"other", token="b" * 12)
    with open_connection(parse(postgresql_url)) as db:
        logs.append(db, late, True)
        assert logs.append_all(db, [other, late], False) == [logs.Outcome(None)] * 2
        assert frames(logs.read(db, "news", 0, 10, 1000)) == [b"late"]


# -- order


def test_an_append_that_has_returned_has_a_smaller_number_than_the_next(
    postgresql_url: str, opened: Open
) -> None:
    brokers = [opened(postgresql_url), opened(postgresql_url)]
    names = ["a", "b", "c"]
    numbers: dict[tuple[str, int], list[int]] = {}

    def write(writer: int) -> None:
        for n in range(30):
            name = names[(writer + n) % 3]
            frame = b"%d %d" % (writer, n)
            at = brokers[writer % 2].append(name, frame)
            numbers.setdefault((name, writer), []).append(at.number)

    for each in [Elsewhere(write, writer) for writer in range(16)]:
        each.result()
    assert all(each == sorted(each) for each in numbers.values())
    for name in names:
        piece = everything(brokers[0], name)
        assert piece.last == 160
        assert len(set(frames(piece))) == 160
        assert [entry.number for entry in piece.entries] == list(range(1, 161))


# -- locked channels


@patient
def test_a_locked_channel_holds_up_no_other_channel(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    broker.append("locked", b"1")
    broker.append("free", b"1")
    with holding(postgresql_url, channel("locked")):
        held = [Elsewhere(broker.append, "locked", b"2") for _ in range(10)]
        for n in range(20):
            others = [Elsewhere(broker.append, "free", b"%d" % n) for _ in range(5)]
            for each in others:
                each.result()
        assert not any(each.over for each in held)
        # Two that came first, and one for all the others. A transaction that has waited for long is
        # about to end, while another one has begun in its place.
        wait_until(lambda: len(written_by(postgresql_url, waits=True)) <= 3, "few that wait")
    assert sorted(each.result().number for each in held) == list(range(2, 12))
    assert everything(broker, "free").last == 101
    # What has waited for the lock was stored together.
    assert transactions(postgresql_url, "locked") <= 7


@pytest.mark.long
def test_a_channel_that_stays_locked_is_an_error_in_time(postgresql_url: str, opened: Open) -> None:
    broker = opened(postgresql_url)
    broker.append("locked", b"1")

    def fail() -> float:
        with holding(postgresql_url, channel("locked")):
            held = [Elsewhere(timed, broker, "locked") for _ in range(8)]
            return float(max(each.result() for each in held))

    at_best(fail, 7)
    # Nothing comes later.
    assert broker.append("locked", b"2").number == 2


def timed(broker: PostgresqlBroker, name: str) -> float:
    """The seconds until an append to the locked channel *name* fails."""
    began = time.monotonic()
    with pytest.raises(BrokerError, match=r"not committed yet|stay in use"):
        broker.append(name, b"x")
    return time.monotonic() - began


def test_two_processes_do_not_wait_for_each_other_for_ever(
    postgresql_url: str, opened: Open
) -> None:
    # The same channels in another order.
    dbs = [open_connection(parse(postgresql_url)) for _ in range(2)]
    names = [f"user/{n}" for n in range(50)]
    for name in names:
        logs.append(dbs[0], wanted(name), False)

    def write(db: Connection, order: list[str]) -> int:
        stored = 0
        for n in range(40):
            batch = [wanted(name, token=f"{n:06x}{id(db) % 16**6:06x}") for name in order]
            outcomes = logs.append_all(db, batch, False)
            assert all(each.is_locked or each.result for each in outcomes)
            stored += sum(not each.is_locked for each in outcomes)
        return stored

    with contextlib.ExitStack() as stack:
        for db in dbs:
            stack.enter_context(db)
        writers = [Elsewhere(write, dbs[0], names), Elsewhere(write, dbs[1], names[::-1])]
        stored = sum(each.result() for each in writers)
        rows = dbs[0].execute("SELECT count(*), sum(last) FROM ssestream.channels").fetchall()
    assert rows == [(50, 50 + stored)]
