"""Account: what several buffers were sent together, counted once for all of them.

`Accounted` is the part of a buffer that counts what was sent to it, alone or together.
"""

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


class Accounted:
    """What was sent to one reader: alone, and together with others."""

    __slots__ = ("_written_at", "account", "bytes_sent", "guard", "messages_sent")

    def __init__(self) -> None:
        self._written_at = 0.0
        #: Messages and bytes that have left. `account` counts others, and they are not in here.
        self.messages_sent = self.bytes_sent = 0
        #: See `guard_with`.
        self.guard: Wakeable | None = None
        #: What was sent to this reader together with others.
        self.account = ALONE

    def sent(self) -> tuple[int, int]:
        """Messages and bytes that the kernel has taken."""
        account = self.account
        return self.messages_sent + account.messages, self.bytes_sent + account.bytes

    def share(self, account: Account) -> None:
        """Have *account* from now on. The counts of the last account become this buffer's own."""
        last, self.account = self.account, account
        self.messages_sent += last.messages
        self.bytes_sent += last.bytes
        self._written_at = max(self._written_at, last.written_at)

    def leave(self) -> None:
        """Share no account from now on, because something else is sent to this reader alone."""
        if self.account is not ALONE:
            self.account.leave(self.guard)

    def guard_with(self, waker: Wakeable | None) -> None:
        """Wake *waker*, if not None, when the buffer is closed, even if no reader is asleep."""
        self.guard = waker
