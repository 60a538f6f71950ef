"""What is kept of streams: bounded, and of this process only."""

from ssestream.testing import stopped_clock
from ssestream.top.ledger import LAST, Ledger


class Stream:
    """An open stream that does nothing."""

    in_hand = False
    goes_on = True

    def waiting(self) -> int:
        return 0

    def sent(self) -> tuple[int, int]:
        return 3, 40

    def retire(self, cause: object) -> None: ...

    def cut(self, cause: object) -> None: ...


def test_each_stream_has_an_id_of_its_own_until_it_is_over() -> None:
    ledger, one, two = Ledger(), Stream(), Stream()
    for stream in (one, two):
        ledger.opened(stream)
    first = ledger.id_of(one)
    assert first != ledger.id_of(two)
    assert first.startswith(f"{ledger.token}-")
    ledger.closed(one, "client", 3, 40)
    assert ledger.id_of(one) == ""
    assert ledger.ends()[0]["id"] == first
    # The next stream may be at the same place in memory.
    ledger.opened(one)
    assert ledger.id_of(one) not in ("", first)


def test_the_age_of_a_stream_is_that_since_its_opening() -> None:
    ledger, stream = Ledger(), Stream()
    with stopped_clock() as clock:
        ledger.opened(stream)
        opened_at = clock.now
        clock.advance(7)
        assert clock.now == opened_at + 7
        ledger.closed(stream, "stalled", 3, 40)
    (end,) = ledger.ends()
    assert (end["seconds"], end["cause"], end["messages"], end["bytes"]) == (7, "stalled", 3, 40)


def test_the_last_ends_are_kept_and_no_more() -> None:
    ledger, stream = Ledger(), Stream()
    for number in range(LAST + 10):
        ledger.opened(stream)
        ledger.closed(stream, "client", number, 0)
    assert [each["messages"] for each in ledger.ends()] == list(range(10, LAST + 10))


def test_a_child_begins_anew_with_ids_of_its_own() -> None:
    ledger, stream = Ledger(), Stream()
    ledger.opened(stream)
    before = ledger.token
    ledger.begin()
    assert ledger.token != before
    assert ledger.id_of(stream) == ""
    assert ledger.seconds(stream, 10.0) == 0
    assert ledger.ends() == []


def test_the_end_of_a_stream_that_it_has_not_seen_open_is_not_told() -> None:
    ledger = Ledger()
    ledger.closed(Stream(), "client", 3, 40)
    assert ledger.ends() == []
