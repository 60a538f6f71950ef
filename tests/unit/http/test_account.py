"""What several buffers were sent together is counted once, and each of them has all of it."""

import pytest

from ssestream.http.account import ALONE, Account
from ssestream.http.output import OutputBuffer
from ssestream.runtime.waker import Wakeable


class Reader(Wakeable):
    def wake(self) -> None: ...

    def wake_now(self, _: None = None) -> None: ...


class Noting(Account):
    """An account that notes which readers leave."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        super().__init__(0.0)
        self.left: list[object] = []

    def leave(self, reader: Wakeable | None) -> None:
        self.left.append(reader)


def test_each_buffer_was_sent_what_the_account_counts_and_what_it_was_sent_alone() -> None:
    account = Account(5.0)
    buffers = [OutputBuffer(100), OutputBuffer(100)]
    buffers[0].sent_past(1, 10, 1.0)
    for buffer in buffers:
        buffer.share(account)
    account.count(2, 20, 7.0)
    account.count(3, 30, 8.0)
    assert [buffer.sent() for buffer in buffers] == [(6, 60), (5, 50)]
    assert [buffer.written_at for buffer in buffers] == [8.0, 8.0]


def test_a_buffer_that_shares_no_more_keeps_its_counts_and_gets_no_others() -> None:
    account = Account(5.0)
    buffer = OutputBuffer(100)
    buffer.share(account)
    account.count(2, 20, 7.0)
    buffer.share(ALONE)
    account.count(1, 10, 9.0)
    assert (buffer.sent(), buffer.written_at) == ((2, 20), 7.0)


def test_the_account_of_those_that_act_alone_stays_empty() -> None:
    buffer = OutputBuffer(100)
    assert buffer.account is ALONE
    buffer.put(b"data: x\n\n")
    buffer.take()
    buffer.mark_sent()
    buffer.leave()
    assert (ALONE.messages, ALONE.bytes, ALONE.written_at) == (0, 0, 0.0)


@pytest.mark.parametrize("guarded", [False, True])
def test_the_account_is_told_whose_buffer_leaves(guarded: bool) -> None:
    account, buffer = Noting(), OutputBuffer(100)
    reader = Reader() if guarded else None
    buffer.share(account)
    buffer.guard_with(reader)
    buffer.leave()
    assert account.left == [reader]
