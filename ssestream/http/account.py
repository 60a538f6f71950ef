"""Account: what several buffers were sent together, counted once for all of them."""

from ..runtime.waker import Wakeable


class Account:
    """What several buffers were sent together since the account was made.

    Each of them then has the same account, so that a broadcast counts once for all.
    """

    __slots__ = ("bytes", "messages", "written_at")

    def __init__(self, written_at: float) -> None:
        self.messages = self.bytes = 0
        #: When something was last sent.
        self.written_at = written_at

    def count(self, messages: int, length: int, now: float) -> None:
        """Each of the buffers was sent *messages* messages, of *length* bytes, at time *now*."""
        self.messages += messages
        self.bytes += length
        self.written_at = now

    def leave(self, reader: Wakeable | None) -> None:
        """Let the buffer of *reader* share this account no more. Does nothing in `ALONE`."""


#: The account of all buffers that share none. It stays empty.
ALONE = Account(0.0)
